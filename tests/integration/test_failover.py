"""Another coordinator may take over at any moment, and knows nothing: a relay ends the same, and no order of before
is carried out after."""

from dataclasses import replace
from itertools import count
from uuid import uuid4

import pytest
from msgspec import structs

from kme.model import UNDECIDED_S
from qkdrelay.messages import codec, signing
from qkdrelay.messages.control import Commands, SetLink, SignedMessage
from qkdrelay.messages.plans import decode_plan
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.reports import Recalled, Reports
from qkdrelay.messages.requests import NetworkRequest, RelaysRequest
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.topology import one_site_each
from qkdrelay.randomness import epoch_after
from support.applications import Whole
from support.network import DIAMOND, REFERENCE, Killed, Network, ask

SHAPES = pytest.mark.parametrize("topology", [REFERENCE, one_site_each(REFERENCE)], ids=["one broker", "a site each"])


def ends_alike(network, relay_id):
    """Once its time is over: either both ends have the same keys, or the source has none; return whether it has."""
    source, target = (network.keys(end, relay_id) for end in (network.topology.kmes[0], network.topology.kmes[-1]))
    assert source is None or source == target
    assert all(len(messages) == 1 for messages in network.slots().values())
    return source is not None


def relay_of(network, relay_id):
    """As the coordinator that leads knows it, if it does."""
    return network.coordinator_store.relays.get(relay_id)


def test_whichever_crash_point_the_lead_dies_at_the_relay_ends_alike_at_both_ends(tmp_path):
    """Before and after every commit, every publication and every acknowledgement; the other begins with nothing."""
    confirmed = []
    for point in count():
        network = Network(DIAMOND, folder=tmp_path / str(point))
        relay_id = ask(network, "kme-1", "kme-4")
        network.kill_at(COORDINATOR, point)
        try:
            network.settle()
        except Killed:
            network.take_over("another")
            network.settle()
        else:
            break
        relay = relay_of(network, relay_id)
        confirmed.append(ends_alike(network, relay_id))
        if relay is not None:
            # What both ends had begun when the lead died is not lost.
            assert relay.state == "confirmed"
            assert confirmed[-1]
        network.later(31.0 + UNDECIDED_S + 10.0)
        assert ends_alike(network, relay_id) == confirmed[-1]
        assert not network.stores["kme-1"].relays.pending()
        assert network.relay("kme-1", "kme-4").state == "confirmed"
    assert point >= 23
    # Only one that died before it had told both ends can cost the relay; the ends are told by two publications.
    assert confirmed.index(True) < len(confirmed) / 3
    assert all(confirmed[confirmed.index(True) :])


def test_what_was_just_confirmed_is_known_to_the_next_one_and_shown_as_such_at_both_ends():
    """Whoever follows it asks the next one; the target lists it as delivered, although nobody had told it."""
    network = Network(DIAMOND)
    relay_id = ask(network, "kme-1", "kme-4")
    while network.keys("kme-1", relay_id) is None:
        for loop in network.loops.values():
            loop.step(0.0)
    assert network.stores["kme-4"].relays.get(relay_id).state == "held"
    network.take_over("another")
    network.settle()
    assert relay_of(network, relay_id).state == "confirmed"
    assert {network.stores[kme].relays.get(relay_id).state for kme in ("kme-1", "kme-4")} == {"delivered"}
    assert ends_alike(network, relay_id)


def test_of_many_terms_so_many_are_told_and_the_rest_end_by_themselves(monkeypatch):
    network = Network(DIAMOND)
    network.stop("kme-2", "kme-3")
    relays = [ask(network, "kme-1", "kme-4") for _ in range(8)]
    network.settle()
    monkeypatch.setattr("kme.endpoint.RECALLED_BYTES_MAX", 3 * len(relay_of(network, relays[0]).terms.plan))
    network.take_over("another")
    network.settle()
    assert sum(relay_of(network, relay_id) is not None for relay_id in relays) == 3
    network.later(31.0 + UNDECIDED_S + 10.0)
    assert not network.stores["kme-1"].relays.pending()


@SHAPES
def test_relays_under_way_are_finished_by_another_that_knew_nothing_of_them(topology):
    network = Network(topology)
    network.stop("kme-2", "kme-3", "kme-4")
    relays = [ask(network, "kme-1", "kme-8") for _ in range(20)]
    network.settle()
    network.take_over("another")
    network.settle()
    assert {relay_of(network, relay_id).state for relay_id in relays} == {"started"}
    network.resume("kme-2", "kme-3", "kme-4")
    views = [network.show(relay_id) for relay_id in relays]
    assert {(view.state, view.policy, view.protected) for view in views} == {("confirmed", "recalled", True)}
    assert all(ends_alike(network, relay_id) for relay_id in relays)
    assert network.dead_letters() == []


def test_what_the_target_confirmed_while_nobody_led_reaches_the_source():
    network = Network(DIAMOND)
    network.stop("kme-2", "kme-3")
    relay_id = ask(network, "kme-1", "kme-4")
    network.settle()
    network.stop(COORDINATOR)
    network.resume("kme-2", "kme-3")
    assert network.keys("kme-4", relay_id) is not None
    assert network.keys("kme-1", relay_id) is None
    network.stopped = frozenset()
    # The report that it has rebuilt them was taken by the one that died.
    network.hub.queues["results.kme-4"].ready.clear()
    network.take_over("another")
    network.settle()
    assert ends_alike(network, relay_id)


def test_one_that_goes_on_after_it_was_stopped_is_obeyed_by_nobody():
    """Its orders are of an earlier epoch: to give the relay up, and to take a link down."""
    network = Network(DIAMOND)
    network.stop("kme-2", "kme-3")
    relay_id = ask(network, "kme-1", "kme-4")
    network.settle()
    order = SetLink(command_id=uuid4(), peer="kme-2", up=False)
    service, journal = network.service(COORDINATOR), network.loops[COORDINATOR].journal
    with journal.transaction():
        service._commands.put("kme-1", order)
        service._commands.send()
    stale = journal.outbox.drain_committed()
    assert len(stale) == 1
    network.take_over("another", stopped="the one before")
    network.settle()
    network.as_coordinator("kme-1", stale[0].body)
    network.settle()
    assert network.ask(NetworkRequest()).down == ()
    assert all(link.up for link in network.service("kme-1").links.report())
    network.resume("kme-2", "kme-3")
    assert relay_of(network, relay_id).state == "confirmed"
    assert ends_alike(network, relay_id)
    assert network.dead_letters() == []


def test_links_that_were_told_to_stop_stay_so_and_those_of_an_older_term_do_not_come_back(tmp_path):
    network = Network(folder=tmp_path)
    network.cut("kme-7", "kme-8")
    network.cut("kme-1", "kme-2")
    network.take_over("another")
    network.settle()
    assert network.ask(NetworkRequest()).down == (("kme-1", "kme-2"), ("kme-7", "kme-8"))
    network.mend("kme-7", "kme-8")
    network.take_over(COORDINATOR)  # whose store has both down
    network.settle()
    network.later(60.0)
    assert network.ask(NetworkRequest()).down == (("kme-1", "kme-2"),)
    assert [link.peer for link in network.service("kme-8").links.report() if not link.up] == []


def test_a_relay_that_ended_under_another_is_told_so(tmp_path):
    network = Network(DIAMOND, folder=tmp_path)
    network.stop("kme-2", "kme-3")
    relay_id = ask(network, "kme-1", "kme-4")
    network.settle()
    network.take_over("another")
    network.resume("kme-2", "kme-3")
    assert relay_of(network, relay_id).state == "confirmed"
    network.later(31.0)
    network.take_over(COORDINATOR)
    network.settle()
    view = network.show(relay_id)
    assert (view.state, view.reason.split(";")[0]) == ("failed", "another coordinator led when it ended")
    assert ends_alike(network, relay_id)
    assert network.ask(RelaysRequest(limit=5, supply=False)).total == 1


@pytest.mark.parametrize("behind_s", [30.0, 3600.0])
def test_one_whose_clock_is_behind_is_obeyed_once_it_has_heard_of_the_latest_epoch(behind_s):
    network = Network(DIAMOND)
    network.take_over("another")
    network.step_clock(COORDINATOR, -behind_s)
    network.loops[COORDINATOR].journal.numbers.end_epoch()
    network.loops[COORDINATOR].journal.meta.set("epoch", b"")
    network.settle()
    network.later(20.0)
    network.cut("kme-1", "kme-2")
    assert not network.service("kme-1").links.report()[0].up


def claimed(network, kme, epoch):
    """Have a KME say that it has heard orders of this epoch."""
    service = network.service(kme)
    hello = structs.replace(service._hello_now(network.clock(), ()), heard=epoch)
    return signed_by(network, kme, hello)


def signed_by(network, kme, *reports):
    key, epoch = network.control_keys[kme], epoch_after(b"", network.clock() + 1.0, bytes)
    return signing.sign(key, kme, COORDINATOR, epoch=epoch, number=0, body=Reports(items=reports))


def test_a_kme_that_invents_an_epoch_from_far_ahead_does_not_use_up_all_to_come():
    network = Network(DIAMOND)
    network.as_kme("kme-2", claimed(network, "kme-2", b"\xff" * 16))
    network.settle()
    assert network.loops[COORDINATOR].journal.numbers.epoch < b"\xfe"
    assert network.relay("kme-1", "kme-4").state == "confirmed"


def terms_of(network, **changes):
    """Those of a relay that nobody has asked for."""
    network.stop("kme-2", "kme-3")
    ask(network, "kme-1", "kme-4")
    network.settle()
    terms = network.coordinator_store.relays.latest(1, supply=False)[0].terms
    return structs.replace(terms, **{"relay_id": new_relay_id(network.clock()), **changes})


def say(network, *said):
    """Have KMEs say that they have relays with these terms under way: (KME, terms)."""
    for kme, terms in said:
        network.time.forward(1.0)
        network.as_kme(kme, signed_by(network, kme, Recalled(terms=terms)))
        network.settle()


@pytest.fixture
def anew():
    """A network whose coordinator leads anew, and has asked all KMEs."""
    network = Network(DIAMOND)
    network.take_over("another")
    network.settle()
    return network


def test_what_both_ends_say_is_gone_on_with(anew):
    terms = terms_of(anew)
    say(anew, ("kme-1", terms), ("kme-4", terms))
    assert relay_of(anew, terms.relay_id).policy == "recalled"


@pytest.mark.parametrize("sayers", [("kme-1",), ("kme-4",), ("kme-1", "kme-2"), ("kme-2", "kme-3"), ("kme-1", "kme-1")])
def test_no_end_alone_and_nobody_on_the_way_can_have_a_relay_begun(anew, sayers):
    terms = terms_of(anew)
    say(anew, *((kme, terms) for kme in sayers))
    assert relay_of(anew, terms.relay_id) is None


def test_ends_that_say_different_terms_have_none_begun(anew):
    terms = terms_of(anew)
    say(anew, ("kme-1", terms), ("kme-4", structs.replace(terms, key_count=7)))
    assert relay_of(anew, terms.relay_id) is None


@pytest.mark.parametrize("left_s", [-1.0, 3700.0])
def test_what_is_over_or_has_more_time_than_there_is_is_not_gone_on_with(anew, left_s):
    terms = terms_of(anew, deadline=anew.clock() + left_s)
    say(anew, ("kme-1", terms), ("kme-4", terms))
    assert relay_of(anew, terms.relay_id) is None


@pytest.mark.parametrize("later_s", [None, 130.0])
def test_what_nobody_asked_for_is_not_gone_on_with(later_s):
    network = Network(DIAMOND)
    if later_s is not None:
        network.take_over("another")
        network.later(later_s)
    terms = terms_of(network)
    say(network, ("kme-1", terms), ("kme-4", terms))
    assert relay_of(network, terms.relay_id) is None


def test_what_two_ends_make_up_leaves_room_for_what_is_asked_for(anew, monkeypatch):
    monkeypatch.setattr("coordinator.recalls._UNDECIDED_MAX", 3)
    made_up = [terms_of(anew) for _ in range(5)]
    say(anew, *((kme, terms) for terms in made_up for kme in ("kme-1", "kme-4")))
    assert [relay_of(anew, terms.relay_id) for terms in made_up] == [None] * 5
    assert anew.coordinator_store.relays.undecided_count() == 5  # those asked for, in `terms_of`


def test_a_plan_of_another_network_is_not_gone_on_with():
    network = Network(replace(DIAMOND, links=tuple(link for link in DIAMOND.links if "kme-3" not in link)))
    network.take_over("another")
    network.settle()
    terms = terms_of(Network(DIAMOND))
    assert any("kme-3" in link for link in decode_plan(terms.plan).links)
    say(network, ("kme-1", terms), ("kme-4", terms))
    assert relay_of(network, terms.relay_id) is None


def test_orders_of_before_are_neither_dead_letters_nor_taken_for_good(tmp_path):
    network = Network(DIAMOND, folder=tmp_path)
    key = network.control_keys["kme-1"]
    old = epoch_after(b"", network.clock() - 60.0, bytes)
    order = SetLink(command_id=uuid4(), peer="kme-2", up=False)
    network.relay("kme-1", "kme-4")  # it has heard of the epoch
    body = signing.sign(key, COORDINATOR, "kme-1", epoch=old, number=0, body=Commands(items=(order,)))
    assert codec.decode(body, SignedMessage).epoch == old
    network.as_coordinator("kme-1", body)
    network.settle()
    assert network.service("kme-1").links.report()[0].up
    assert network.dead_letters() == []
    network.restart("kme-1")
    network.as_coordinator("kme-1", body)
    network.settle()
    assert network.service("kme-1").links.report()[0].up


def test_applications_get_keys_before_during_and_after_and_none_twice():
    network, given, refills = Whole(), [], []
    for folder in ("another", "a third", "a fourth"):
        for _ in range(3):
            given += network.take("sae-1", "sae-8", 20)
        network.stop("kme-2", "kme-3", "kme-4")
        network.later(10.0)
        given += network.take("sae-1", "sae-8", 20)
        network.take_over(folder)
        network.settle()
        refills += network.service(COORDINATOR).supply.refills.under_way.all()
        network.resume("kme-2", "kme-3", "kme-4")
        network.later(20.0)
    assert {refill.why for _, refill in refills} <= {"begun before this start"}
    assert len({key.key_id for key in given}) == len({key.key for key in given}) == 240
    fetched = network.fetch("sae-8", "sae-1", [key.key_id for key in given])
    assert {key.key_id: key.key for key in fetched} == {key.key_id: key.key for key in given}
