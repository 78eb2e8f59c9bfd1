"""Any service may die at any moment, any connection be lost: a relay ends the same, and no slot is used twice."""

from collections import Counter
from itertools import count
from uuid import uuid4

import pytest

from coordinator.requests import RequestHandler
from kme.forwarding import Forwarding
from kme.model import UNDECIDED_S
from kme.rebuilding import Rebuilder
from qkdrelay.errors import StoreError
from qkdrelay.messages.requests import NetworkRequest
from qkdrelay.network.topology import one_site_each
from qkdrelay.service.loop import BATCH_MAX
from support.network import DIAMOND, REFERENCE, Killed, Network, ask, is_about_blocks, of

SERVICES = ("kme-1", "kme-2", "kme-4", "coordinator")


def is_sound(network, relay_id):
    """The relay is confirmed with the same keys at both ends, nothing was sealed twice, nothing thrown away."""
    view = network.show(relay_id)
    assert (view.state, view.missing, view.false_shares, view.equivocating) == ("confirmed", (), (), ())
    assert set(view.released_at) == {view.source, view.target}
    source, target = (network.keys(end, relay_id) for end in (view.source, view.target))
    assert source == target
    assert len(source) == 32
    slots = network.slots()
    assert all(len(messages) == 1 for messages in slots.values())
    assert len(slots) == view.planned_share_messages
    assert network.dead_letters() == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_dies_at_any_crash_point_finishes_the_relay_when_it_is_back(tmp_path, name):
    """Before and after every commit, every single publication and every single acknowledgement."""
    for point in count():
        network = Network(DIAMOND, folder=tmp_path / str(point))
        relay_id = ask(network, "kme-1", "kme-4")
        network.kill_at(name, point)
        try:
            network.settle()
        except Killed:
            network.restart(name)
            network.settle()
        else:
            break
        is_sound(network, relay_id)
    # What the service has to do for a relay; commits that change nothing, and their points, come on top.
    assert point >= {"kme-1": 16, "kme-2": 8, "kme-4": 15, "coordinator": 23}[name]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_dies_between_any_two_steps_finishes_the_relay_when_it_is_back(tmp_path, name):
    for steps in range(12):
        network = Network(DIAMOND, folder=tmp_path / str(steps))
        relay_id = ask(network, "kme-1", "kme-4")
        for _ in range(steps):
            for loop in network.loops.values():
                loop.step(0.0)
        network.restart(name)
        network.settle()
        is_sound(network, relay_id)


def test_all_services_dying_again_and_again_finish_the_relay(tmp_path):
    network = Network(folder=tmp_path)
    relay_id = ask(network, "kme-1", "kme-8")
    for _ in range(25):
        for name in tuple(network.loops):
            network.loops[name].step(0.0)
            network.restart(name)
    network.settle()
    is_sound(network, relay_id)


@pytest.mark.parametrize("topology", [REFERENCE, one_site_each(REFERENCE)], ids=["one broker", "a site each"])
def test_what_is_delivered_twice_is_handled_once(topology):
    """Each connection is lost after the commit, before the acknowledgement, for every message.

    For those about key it is only the queue that is lost: on each new connection key is agreed on anew.
    """
    network, doubled = Network(topology), Counter()
    for name, loop in network.loops.items():
        broker = loop.broker

        def acknowledge(deliveries, name=name, broker=broker, acknowledge=broker.acknowledge):
            fresh = [delivery for delivery in deliveries if not delivery.redelivered]
            doubled[name] += len(fresh)
            if not all(is_about_blocks(delivery.body) for delivery in fresh):
                network.lose_connections(name, *{delivery.site for delivery in deliveries})
            elif fresh:
                network.lose_queues(name, deliveries)
            else:
                acknowledge(deliveries)

        broker.acknowledge = acknowledge
    relay_id = ask(network, "kme-1", "kme-8")
    network.settle()
    is_sound(network, relay_id)
    assert len(network.sealed) == 17
    assert all(doubled[name] for name in network.loops)
    assert network.about_blocks


@pytest.mark.parametrize("topology", [REFERENCE, one_site_each(REFERENCE)], ids=["one broker", "a site each"])
def test_connections_lost_before_every_step_change_nothing(topology):
    network = Network(topology)
    relay_id = ask(network, "kme-1", "kme-8")
    for _ in range(30):
        for name, loop in network.loops.items():
            network.lose_connections(name)
            loop.step(0.0)
    network.settle()
    is_sound(network, relay_id)


def test_a_coordinator_that_was_away_over_the_deadline_fails_the_relay_once_it_is_back(tmp_path):
    network = Network(DIAMOND, folder=tmp_path)
    network.stop("kme-2")
    relay_id = network.relay("kme-1", "kme-4").relay_id
    network.stop("coordinator")
    network.later(31.0)
    network.restart("coordinator")
    network.resume("coordinator")
    view = network.show(relay_id)
    assert (view.state, view.released_at) == ("failed", ())
    assert {network.stores[end].relays.get(relay_id).state for end in ("kme-1", "kme-4")} == {"failed"}


def test_a_restarted_coordinator_still_knows_every_relay_and_the_links_that_are_down(tmp_path):
    network = Network(folder=tmp_path)
    network.cut("kme-7", "kme-8")
    view = network.relay("kme-1", "kme-8")
    network.restart("coordinator")
    network.settle()
    assert network.show(view.relay_id) == view
    assert network.ask(NetworkRequest()).down == (("kme-7", "kme-8"),)


def test_a_restarted_kme_keeps_links_down_waiting_shares_and_keys(tmp_path):
    network = Network(folder=tmp_path)
    network.cut("kme-1", "kme-2")
    view = network.relay("kme-1", "kme-8")
    keys = network.keys("kme-1", view.relay_id)
    network.restart("kme-1")
    network.settle()
    assert network.stores["kme-1"].waiting.links_down() == {"kme-2"}
    assert network.keys("kme-1", view.relay_id) == keys
    assert {route[1] for route in network.show(view.relay_id).missing} == {"kme-2"}
    network.mend("kme-1", "kme-2")
    assert network.show(view.relay_id).missing == ()


def test_a_kme_that_lost_its_store_begins_new_blocks_of_key_and_is_believed(tmp_path):
    network = Network(DIAMOND, folder=tmp_path)
    network.relay("kme-1", "kme-4")
    network.stop("kme-1")
    network.stores["kme-1"].journal.close()
    for file in (tmp_path / "kme-1").iterdir():
        file.unlink()
    network.restart("kme-1")
    network.resume("kme-1")
    assert network.relay("kme-1", "kme-4").state == "confirmed"
    slots = network.slots()
    blocks = {(link, block) for link, block, _ in slots if link[0] == "kme-1"}
    assert Counter(link for link, _ in blocks) == {("kme-1", "kme-2"): 2, ("kme-1", "kme-3"): 2}
    assert all(len(messages) == 1 for messages in slots.values())


# --- told until it is acknowledged -----------------------------------------------------------------

TRIANGLE = of(["a", "b", "c"], [("a", "b"), ("b", "c"), ("a", "c")])


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("lost", ["source", "target"])
def test_a_command_that_got_lost_is_told_again_at_a_hello(source, target, lost):
    """Whichever of the two ends says hello first."""
    network = Network(TRIANGLE, withstand_compromised=0)
    deaf = source if lost == "source" else target
    network.stop(deaf)
    relay_id = ask(network, source, target)
    network.settle()
    assert network.lose_commands(deaf) == 1
    network.resume(deaf)
    assert network.show(relay_id).state == ("planned" if lost == "source" else "started")
    network.later(10.0)
    network.later(10.0)
    assert network.show(relay_id).state == "confirmed"


def test_a_proof_that_got_lost_is_told_again_until_the_source_has_confirmed():
    network = Network(TRIANGLE, withstand_compromised=0)
    relay_id = ask(network, "b", "a")
    while (held := network.stores["a"].relays.get(relay_id)) is None or held.state != "held":
        for loop in network.loops.values():
            loop.step(0.0)
    network.stop("b")
    network.settle()
    assert network.lose_commands("b") == 1
    network.resume("b")
    assert network.stores["b"].relays.get(relay_id).state == "pending"
    assert network.show(relay_id).released_at == ("a",)
    for _ in range(4):
        network.later(10.0)
    assert set(network.show(relay_id).released_at) == {"a", "b"}
    assert network.keys("a", relay_id) == network.keys("b", relay_id) is not None


def test_ends_that_miss_that_a_relay_was_given_up_give_it_up_by_their_own_clocks():
    network = Network(TRIANGLE, withstand_compromised=0)
    network.stop("c")
    network.cut("a", "b")
    relay_id = ask(network, "b", "a", policy="disjoint")
    network.settle()
    network.stop("a", "b")
    network.later(31.0)
    assert network.show(relay_id).state == "failed"
    assert network.lose_commands("a")
    assert network.lose_commands("b")
    network.resume("a", "b")
    states = [network.stores[end].relays.get(relay_id).state for end in "ba"]
    assert states == ["pending", "expecting"]
    network.later(UNDECIDED_S - 10.0)
    assert [network.stores[end].relays.get(relay_id).state for end in "ba"] == states
    network.later(20.0)
    assert [network.stores[end].relays.get(relay_id).state for end in "ba"] == ["failed", "failed"]


# --- what was not foreseen -------------------------------------------------------------------------


def test_one_message_that_a_kme_fails_on_does_not_take_the_others_with_it(monkeypatch):
    network = Network()
    bad, good = ask(network, "kme-1", "kme-8"), ask(network, "kme-1", "kme-8")
    on_share = Forwarding.on_share

    def failing(self, sender, header, *rest):
        if header.relay_id == bad and header.route[-1] == "kme-5":
            raise ZeroDivisionError
        return on_share(self, sender, header, *rest)

    monkeypatch.setattr(Forwarding, "on_share", failing)
    network.settle()
    assert network.show(good).missing == ()
    view = network.show(bad)
    assert view.state == "confirmed"
    assert all("kme-5" in route for route in view.missing)
    assert {letter[2] for letter in network.dead_letters()} == {"could not be handled (ZeroDivisionError)"}


def test_one_relay_whose_rebuild_fails_does_not_take_the_others_with_it(monkeypatch):
    network = Network()
    bad, good = ask(network, "kme-1", "kme-8"), ask(network, "kme-1", "kme-8")
    try_rebuild = Rebuilder.try_rebuild

    def failing(self, relay_id, memory, *turn, keep):
        if relay_id == bad:
            raise ZeroDivisionError
        return try_rebuild(self, relay_id, memory, *turn, keep=keep)

    monkeypatch.setattr(Rebuilder, "try_rebuild", failing)
    network.settle()
    assert network.show(good).state == "confirmed"
    assert network.wait(bad).state == "failed"


def test_one_relay_whose_late_shares_cannot_be_looked_at_does_not_stop_the_kme(monkeypatch):
    network = Network()
    network.stop("kme-2", "kme-5")
    try_rebuild, failed = Rebuilder.try_rebuild, []

    def failing(self, relay_id, memory, *turn, keep):
        if relay_id == bad and memory.relays.get(relay_id).state != "expecting":
            failed.append(relay_id)
            raise ZeroDivisionError
        return try_rebuild(self, relay_id, memory, *turn, keep=keep)

    monkeypatch.setattr(Rebuilder, "try_rebuild", failing)
    bad, good = ask(network, "kme-1", "kme-8"), ask(network, "kme-1", "kme-8")
    network.settle()
    assert failed == []
    # One share of each is late, and others are missing still: the last one is looked at with what brings it.
    network.resume("kme-5")
    network.later(1.0)
    network.later(6.0)
    assert bad in failed
    assert {len(network.show(relay_id).missing) for relay_id in (bad, good)} == {2}
    assert network.relay("kme-1", "kme-8").state == "confirmed"


def test_late_shares_are_looked_at_once_the_disk_takes_something_again(monkeypatch):
    network, settled, full = Network(), [], "database or disk is full"
    network.stop("kme-2", "kme-5")
    relay_id = ask(network, "kme-1", "kme-8")
    network.settle()
    try_rebuild = Rebuilder.try_rebuild

    def failing(self, relay_id, memory, *turn, keep):
        if full:
            raise StoreError(full)
        settled.append(relay_id)
        return try_rebuild(self, relay_id, memory, *turn, keep=keep)

    monkeypatch.setattr(Rebuilder, "try_rebuild", failing)
    with pytest.raises(StoreError, match=full):
        network.resume("kme-5")
    full = ""
    network.later(1.0)
    assert relay_id in settled


def test_what_is_settled_later_is_settled_in_parts(monkeypatch):
    network, settled = Network(), []
    network.settle()
    monkeypatch.setattr(Rebuilder, "try_rebuild", lambda _self, relay_id, *_, keep: settled.append(relay_id) or [])
    many = [uuid4() for _ in range(3 * BATCH_MAX)]
    network.service("kme-8").rebuild_queue.later.update(dict.fromkeys(many))
    network.loops["kme-8"].step(0.0)
    assert settled == many[:BATCH_MAX]
    network.loops["kme-8"].step(0.0)
    network.loops["kme-8"].step(0.0)
    assert settled == many


def test_one_request_that_the_coordinator_fails_on_does_not_take_the_others_with_it(monkeypatch):
    network = Network()

    def failing(self, client, now):
        raise ZeroDivisionError

    monkeypatch.setattr(RequestHandler, "_network", failing)
    network.as_cli(network.asker().request(NetworkRequest())[1])
    relay_id = ask(network, "kme-1", "kme-8")
    network.settle()
    assert network.show(relay_id).state == "confirmed"
    assert [letter[2] for letter in network.dead_letters()] == ["could not be handled (ZeroDivisionError)"]
