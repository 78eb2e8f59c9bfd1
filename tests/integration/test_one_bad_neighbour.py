"""One KME that is away, dry or hostile, or a disk that fails, must not stop, rob or frame the others."""

import os
import shutil
from dataclasses import replace
from itertools import pairwise, repeat

import pytest

import coordinator.commands
import kme.links
from kme.store import open_kme_store
from qkdrelay.broker import contents, names
from qkdrelay.client import relay_request
from qkdrelay.messages import signing
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.reports import Rejected, Reports
from qkdrelay.network.analysis import withstands_compromised
from qkdrelay.network.plan import Hop, Plan
from qkdrelay.schemes.recursive import deal, rebuild, reshare
from qkdrelay.service.moderation import LINES_MAX
from qkdrelay.sharing import amd, shamir
from support.kme import NOW
from support.memory import FailingCommits
from support.network import Network, sealed_by


def request(source, target, **wishes):
    return relay_request(source, target, **{"relay_id": new_relay_id(NOW), "allow_unprotected": True, **wishes})


def away(network, name):
    network.stop(name)
    network.hub.drop(name)


# --- somebody does not read ------------------------------------------------------------------------


def test_a_kme_that_is_away_stops_neither_its_neighbours_nor_the_relays_around_it(monkeypatch):
    monkeypatch.setattr(contents, "LINK_BYTES_MAX", 16 * 1024)
    monkeypatch.setattr(kme.links, "BACKLOG_MAX", 5)
    network = Network()
    away(network, "kme-5")
    for _ in range(60):
        assert network.relay("kme-1", "kme-8").state == "confirmed"
        network.time.forward(1)
    # What waits for it is bounded, and goes when it has expired.
    assert network.stores["kme-2"].journal.outbox.backlog.total()[0] <= 10
    network.later(600)
    assert network.stores["kme-2"].waiting.counts() == {}


def test_a_target_that_is_away_does_not_stop_the_coordinator(monkeypatch):
    monkeypatch.setattr(contents, "CONTROL_BYTES_MAX", 8 * 1024)
    monkeypatch.setattr(coordinator.commands, "COMMANDS_WAITING_MAX", 5)
    network = Network()
    away(network, "kme-7")
    for _ in range(60):
        network.ask(request("kme-1", "kme-7", timeout_s=1.0))
        network.later(2)
    assert network.coordinator_store.journal.outbox.backlog.total()[0] <= 10
    assert network.relay("kme-1", "kme-8").state == "confirmed"
    # Back again, it gives up what nobody waits for any more; what it was not told of, by its own clock.
    network.resume("kme-7")
    for _ in range(200):
        network.later(20)
    assert network.coordinator_store.relays.undecided_count() == 0
    assert all(store.relays.pending() == 0 for store in network.stores.values())


def test_a_share_larger_than_a_links_whole_buffer_is_dropped_at_once_and_holds_nobody_up():
    network = Network()
    network.limit_key("kme-7", "kme-8", network.clock, rate_bps=1_000_000, buffer_bytes=8192)
    big = network.relay("kme-1", "kme-8", key_count=500)
    assert big.state == "confirmed"
    assert {stuck.reason.split(":")[0] for stuck in big.stuck} == {"dropped"}
    small = network.relay("kme-1", "kme-8")
    assert (small.state, small.missing) == ("confirmed", ())


# --- somebody is hostile ---------------------------------------------------------------------------


def test_a_share_longer_than_any_relays_is_refused_before_it_can_wait():
    network = Network()
    network.cut("kme-2", "kme-5")
    part = Plan("kme-2", "kme-6", {"kme-2": Hop(("kme-5", "kme-6"), 2), "kme-5": Hop(("kme-6",), 1)})
    route = ("kme-9", "kme-1", "kme-2")
    network.on_link("kme-1", "kme-2", sealed_by(network, "kme-1", "kme-2", route, part, bytes(600_000)))
    network.settle()
    assert network.stores["kme-2"].waiting.counts() == {}
    assert "more than any relay's can have" in network.dead_letters()[-1][2]
    assert network.relay("kme-1", "kme-8").state == "confirmed"


def test_a_route_that_would_grow_too_long_to_be_reported_is_refused():
    network = Network()
    network.cut("kme-2", "kme-5")
    part = Plan("kme-2", "kme-5", {"kme-2": Hop(("kme-5",), 1)})
    route = (*(f"x{n}" for n in range(510)), "kme-1", "kme-2")
    network.on_link("kme-1", "kme-2", sealed_by(network, "kme-1", "kme-2", route, part, bytes(100)))
    network.settle()
    assert "more than 512 KMEs" in network.dead_letters()[-1][2]


def test_key_that_was_used_twice_is_an_alarm(capsys):
    network = Network()
    part = Plan("kme-2", "kme-5", {"kme-2": Hop(("kme-5",), 1)})
    key = network.sending("kme-1", "kme-2").draw(3)
    for payload in (b"one", b"two"):
        body = sealed_by(network, "kme-1", "kme-2", ("kme-1", "kme-2"), part, payload, key=key)
        network.on_link("kme-1", "kme-2", body)
        network.settle()
    assert "has opened another message" in network.dead_letters()[-1][2]
    assert "link.number_reused" in capsys.readouterr().out


def test_pad_that_was_used_twice_opens_one_message():
    """Whose slot is another one: what was sealed with that pad before would become known."""
    network = Network()
    part = Plan("kme-2", "kme-5", {"kme-2": Hop(("kme-5",), 1)})
    first, second = (network.sending("kme-1", "kme-2").draw(3) for _ in range(2))
    second = replace(second, pieces=first.pieces, pad=first.pad)
    for key in (first, second):
        body = sealed_by(network, "kme-1", "kme-2", ("kme-1", "kme-2"), part, b"one", key=key)
        network.on_link("kme-1", "kme-2", body)
        network.settle()
    assert network.dead_letters() == [("kme-2", "link.kme-1.kme-2", "its pad was used before")]
    assert network.relay("kme-1", "kme-8").missing == ()


def test_a_neighbour_that_uses_numbers_twice_hides_no_alarm_and_no_refusal_of_another_link(capsys):
    network = Network()
    for sender, times in (("kme-2", 3 * LINES_MAX), ("kme-3", 2)):
        key = network.sending(sender, "kme-5").draw(100)
        for n in range(times):
            part, route = Plan("kme-5", "kme-8", {"kme-5": Hop(("kme-8",), 1)}), ("kme-1", sender, "kme-5")
            body = sealed_by(network, sender, "kme-5", route, part, bytes([n]) * 100, key=key)
            network.on_link(sender, "kme-5", body)
        network.settle()
    shown = [line for line in capsys.readouterr().out.splitlines() if "kme-3>kme-5" in line and "kme-1" not in line]
    for event, service in (
        ("link.number_reused", "kme=kme-5"),
        ("kme.alarm", "service=coordinator"),
        ("share.rejected", "kme=kme-5"),
        ("share.rejected", "service=coordinator"),
    ):
        assert any(event in line and service in line for line in shown), (event, service)


def test_the_longest_reason_there_is_keeps_nobody_from_seeing_the_relay():
    network = Network()
    network.cut("kme-2", "kme-5")
    relay_id = network.relay("kme-1", "kme-8").relay_id
    key = network.service("coordinator")._keys["kme-5"]
    link, route = ("kme-2", "kme-5"), ("kme-1", "kme-2", "kme-5")
    reports = Reports(items=(Rejected(relay_id=relay_id, route=route, link=link, reason="r" * 500),))
    network.as_kme("kme-5", signing.sign(key, "kme-5", "coordinator", epoch=b"\xff" * 16, number=0, body=reports))
    network.settle()
    [stuck] = network.show(relay_id).stuck
    assert stuck.route == route
    assert stuck.reason.startswith("refused: rrr")


def test_what_a_kme_sends_for_a_dead_letter_is_told_as_its_own_and_not_as_the_brokers():
    network = Network()
    network.inject("kme-2", names.kme_exchange("kme-2"), names.dead_key("kme-2"), b"anything")
    network.settle()
    [(kme, queue, reason)] = network.dead_letters()
    assert (kme, queue) == ("kme-2", names.dead_key("kme-2"))
    assert "kme-2 sent what is no dead letter" in reason


def test_the_parts_of_a_long_plan_are_not_kept():
    names_ = [f"k{n}" for n in range(400)]
    plan = Plan.checked(names_[0], names_[-1], {a: Hop((b,), 1) for a, b in pairwise(names_)})
    for kme_name in names_:
        plan.below(kme_name)
    assert all(len(value) < 1000 for value in vars(plan).values() if isinstance(value, dict))
    assert not [value for value in vars(plan).values() if isinstance(value, dict) and Plan in map(type, value.values())]


def test_one_kme_that_learns_what_an_inner_split_held_cannot_frame_an_honest_route():
    """w sees two shares of v's split, learns what v held, and shares that anew: z's honest share then fits no more."""
    hops = {
        "s": Hop(("v", "a", "b"), 2),
        "v": Hop(("x", "y", "z"), 2),
        "x": Hop(("w",), 1),
        "y": Hop(("w",), 1),
        **{kme_name: Hop(("t",), 1) for kme_name in ("z", "w", "a", "b")},
    }
    plan = Plan.checked("s", "t", hops)
    assert withstands_compromised(plan, 1)
    secret = os.urandom(96)
    outer = dict(deal(plan, secret, os.urandom))
    inner = dict(reshare(plan.below("v"), outer["v"], os.urandom))
    learned = amd.decode(shamir.combine({1: inner["x"], 2: inner["y"]}))
    forged = shamir.split(amd.encode(learned, os.urandom), 3, 2, os.urandom)
    held = {
        ("s", "a", "t"): outer["a"],
        ("s", "b", "t"): outer["b"],
        ("s", "v", "z", "t"): inner["z"],
        ("s", "v", "x", "w", "t"): forged[0],
        ("s", "v", "y", "w", "t"): forged[1],
    }
    naive = rebuild(plan, held, 96)
    assert naive.false == (("s", "v", "z", "t"),)  # what the attack is for
    careful = rebuild(plan, held, 96, may_name=lambda kme_name: withstands_compromised(plan.below(kme_name), 1))
    assert careful.secret == secret
    assert careful.false == ()
    assert [dispute.route for dispute in careful.disputed] == [("s", "v")]


# --- something fails -------------------------------------------------------------------------------


def test_what_fails_without_any_message_costs_no_message(monkeypatch):
    network = Network()
    loop, store = network.loops["kme-2"], network.stores["kme-2"]
    body = sealed_by(
        network, "kme-1", "kme-2", ("kme-1", "kme-2"), Plan("kme-2", "kme-5", {"kme-2": Hop(("kme-5",), 1)}), b"x"
    )
    network.on_link("kme-1", "kme-2", body)
    with monkeypatch.context() as broken:
        broken.setattr(network.service("kme-2").links, "_resume", lambda *_: 1 / 0)
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                loop.step(0.0)
        assert store.journal.outbox.backlog.total() == (0, 0)
    network.settle()
    assert network.dead_letters() == []
    assert [share.routing_key for share in network.sealed if share.routing_key == "link.kme-2.kme-5"]


def test_a_disk_that_takes_nothing_costs_the_key_of_one_attempt_however_long_that_lasts():
    network = Network()
    loop, peers = network.loops["kme-1"], network.topology.neighbours["kme-1"]

    def granted():
        return {peer: network.sending("kme-1", peer).granted().size for peer in peers}

    network.stop("kme-1")
    relay_id = network.relay("kme-1", "kme-8").relay_id
    before, disk = granted(), FailingCommits(loop, repeat(True, 21))
    assert loop._guard(loop._turn)
    # What it sealed was never anywhere, and its key is used for nothing else all the same.
    one = 96 + 32
    assert granted() == {peer: size - one for peer, size in before.items()}
    for _ in range(20):
        assert loop._guard(loop._turn)
    assert disk.failed == 21
    assert granted() == {peer: size - one for peer, size in before.items()}
    network.resume("kme-1")
    assert network.show(relay_id).state == "confirmed"
    assert granted() == {peer: size - 2 * one for peer, size in before.items()}
    assert all(len(messages) == 1 for messages in network.slots().values())
    pads = network.pads()
    assert len(pads) == len(set(pads))


def test_secrets_that_a_killed_kme_left_in_its_log_are_wiped_at_its_next_start(tmp_path, monkeypatch):
    network = Network(folder=tmp_path)
    network.stop("kme-6")
    relay_id = network.relay("kme-1", "kme-8").relay_id
    keys = network.stores["kme-1"].relays.get(relay_id).payload.keys
    monkeypatch.setattr(type(network.stores["kme-1"].journal), "scrub", lambda _self: False)
    assert network.wait(relay_id).state == "failed"

    def on_disk(folder):
        return any(keys in path.read_bytes() for path in (tmp_path / folder).iterdir())

    assert on_disk("kme-1")
    monkeypatch.undo()
    # What a kill leaves: the files as they are, nothing closed.
    shutil.copytree(tmp_path / "kme-1", tmp_path / "killed")
    assert on_disk("killed")
    store = open_kme_store(tmp_path / "killed" / "kme.sqlite", "kme-1")
    assert not on_disk("killed")
    store.journal.close()


def test_a_store_that_was_restored_from_an_old_copy_uses_no_key_again(tmp_path):
    network = Network(folder=tmp_path)
    network.relay("kme-1", "kme-8")
    old = {path.name: path.read_bytes() for path in (tmp_path / "kme-1").iterdir()}
    for _ in range(3):
        network.relay("kme-1", "kme-8")
    network.loops["kme-1"].broker.close(0.0)
    network.stores["kme-1"].journal.close()
    for path in (tmp_path / "kme-1").iterdir():
        path.unlink()
    for name, data in old.items():
        (tmp_path / "kme-1" / name).write_bytes(data)
    network.restart("kme-1")
    network.settle()
    view = network.relay("kme-1", "kme-8")
    assert (view.state, view.missing) == ("confirmed", ())
    assert network.keys("kme-1", view.relay_id)
    assert network.keys("kme-1", view.relay_id) == network.keys("kme-8", view.relay_id)
    assert all(len(messages) == 1 for messages in network.slots().values())
    pads = network.pads()
    assert len(pads) == len(set(pads))


def test_an_end_that_begins_what_was_given_up_before_is_told_again():
    network = Network()
    held = []
    publish = network.hub.publish

    def slow(user, publication):
        if user == "coordinator" and publication.routing_key == "kme.kme-1.control" and not held:
            held.append(publication)
            return None
        return publish(user, publication)

    network.hub.publish = slow
    view = network.relay("kme-1", "kme-8", timeout_s=5.0)
    network.later(5.1)
    assert network.show(view.relay_id).state == "failed"
    network.loops["kme-1"].clock = lambda: network.clock() - 4  # within what is allowed
    with network.hub.lock:
        publish("coordinator", held[0])
    network.settle()
    for _ in range(30):
        network.later(10)
    assert network.stores["kme-1"].relays.get(view.relay_id).state == "failed"
    assert network.stores["kme-1"].relays.pending() == 0


def test_relays_with_a_kme_that_left_the_network_are_failed_and_the_coordinator_goes_on(tmp_path):
    network = Network(folder=tmp_path)
    network.stop("kme-8")
    relay_id = network.ask(request("kme-1", "kme-8")).relay_id
    service = network.service("coordinator")
    keys = dict(service._keys)
    del keys["kme-8"]
    service._keys = keys
    network.later(31)
    assert network.show(relay_id).state == "failed"
    assert network.relay("kme-1", "kme-6").state == "confirmed"


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
def test_a_clock_that_is_stepped_keeps_nobody_from_saying_hello(step_s):
    network = Network()
    network.later(step_s)
    network.later(11)
    assert all(at >= network.clock() - 11 for at, _ in network.service("coordinator").liveness.last_hellos.values())


def test_hellos_that_waited_for_the_coordinator_are_no_alarm(capsys):
    network = Network()
    network.stop("coordinator")
    for _ in range(10):
        network.later(10)
    network.resume("coordinator")
    assert "clock.skewed" not in capsys.readouterr().out


def test_a_clock_that_is_off_is_an_alarm(capsys):
    network = Network()
    network.loops["kme-3"].clock = lambda: network.clock() - 60
    network.later(11)
    network.later(11)
    assert "clock.skewed" in capsys.readouterr().out
