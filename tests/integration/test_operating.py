"""What an operator does to a network, and what becomes of the relays: link secrets renewed, stores restored."""

import os
import shutil
import time

import pytest

from kme.blocks.computed import ComputedSource
from kme.blocks.ration import PAUSE_S
from kme.link_keys import Link
from kme.model import LATE_S, UNDECIDED_S
from qkdrelay.link.blocks.content import KeyBlock
from qkdrelay.link.blocks.receiver import BLOCKS_MAX
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Facts
from qkdrelay.network.names import COORDINATOR
from qkdrelay.randomness import epoch_after
from support.network import Network


def renew(network, a, b):
    """Give both ends of a link a new secret and start them anew, as `make up` does after the old one was deleted."""
    secret = os.urandom(32)
    for me, peer in ((a, b), (b, a)):
        source = ComputedSource(secret, me, peer, rate_bps=1_000_000, buffer_bytes=1 << 20, clock=time.monotonic)
        network.links[me][peer] = Link("otp", source)
        network.restart(me)
    # Until both have it neither can hold the other's key, and is not asked to again at once.
    for _ in range(5):
        network.later(PAUSE_S)


def stop(network, name):
    network.loops[name].broker.close(0.0)
    network.loops[name].journal.close()


def restore(network, name, folder, copy):
    """Stop a service, put an old copy of its store in place, start it."""
    stop(network, name)
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    network.restart(name)
    network.settle()


def copied(folder):
    return shutil.copytree(folder, folder.with_name(f"{folder.name} of before"))


# --- renewing a link secret ------------------------------------------------------------------------


def test_shares_that_wait_for_a_link_are_sealed_with_the_secret_it_gets_meanwhile(tmp_path):
    network = Network(folder=tmp_path)
    network.cut("kme-3", "kme-5")
    view = network.relay("kme-1", "kme-8")
    assert {route[1:3] for route in view.missing} == {("kme-3", "kme-5")}
    renew(network, "kme-3", "kme-5")
    network.mend("kme-3", "kme-5")
    assert network.show(view.relay_id).missing == ()
    assert network.dead_letters() == []


def test_shares_on_their_way_when_a_secret_is_renewed_become_dead_letters_and_the_next_arrive(tmp_path):
    network = Network(folder=tmp_path)
    network.stop("kme-5")
    view = network.relay("kme-1", "kme-8")
    renew(network, "kme-3", "kme-5")
    network.resume("kme-5")
    assert set(network.dead_letters()) == {("kme-5", "link.kme-3.kme-5", "no block of key of that name is held")}
    assert {route[1:3] for route in network.show(view.relay_id).missing} == {("kme-3", "kme-5")}
    assert network.show(view.relay_id).state == "confirmed"
    assert network.relay("kme-1", "kme-8").missing == ()


OF_THE_ATTACKER = {
    "as many as are kept": lambda now: [epoch_after(b"", now + n, os.urandom) for n in range(BLOCKS_MAX)],
    "later than any": lambda now: [b"\xff" * 15 + bytes([n]) for n in (0, 1, 255)],
    "of later years": lambda now: [epoch_after(b"", now + 86_400.0 * n, bytes) for n in range(0, 20 * 365, 91)],
}


@pytest.mark.parametrize("blocks", OF_THE_ATTACKER)
def test_who_knew_a_link_secret_keeps_nobody_out_once_it_is_renewed(tmp_path, blocks):
    """They could have had held as many blocks as are kept, and later ones than any that will be."""
    network = Network(folder=tmp_path)
    link, source = ("kme-3", "kme-5"), network.source("kme-3", "kme-5")
    for block in OF_THE_ATTACKER[blocks](network.clock()):
        facts = Facts(link=link, block=block, floor=bytes(16), length=96, slots=1, key_ids=())
        network.on_link(*link, codec.encode(KeyBlock(facts, source.computed(facts)).announce()))
        network.later(0.01)
    network.restart("kme-3")
    network.settle()
    # Its own blocks are the latest no more, or too many.
    assert (link in {route[1:3] for route in network.relay("kme-1", "kme-8").missing}) == (blocks != "later than any")
    renew(network, *link)
    assert network.relay("kme-1", "kme-8").missing == ()


# --- a KME's store restored from an old copy -------------------------------------------------------


def test_keys_deleted_since_the_copy_are_back_and_those_delivered_since_are_gone(tmp_path):
    network = Network(folder=tmp_path)
    deleted = network.relay("kme-1", "kme-8").relay_id
    copy = copied(tmp_path / "kme-8")
    with network.stores["kme-8"].journal.transaction():
        assert network.stores["kme-8"].forget_relay(deleted, network.clock())
    later = network.relay("kme-1", "kme-8").relay_id
    restore(network, "kme-8", tmp_path / "kme-8", copy)
    assert network.keys("kme-8", deleted) == network.keys("kme-1", deleted)
    assert network.keys("kme-8", later) is None
    assert network.keys("kme-1", later) is not None
    assert network.relay("kme-1", "kme-8").missing == ()


@pytest.mark.parametrize("up", [False, True])
def test_a_link_order_given_since_the_copy_is_given_again(tmp_path, up):
    network = Network(folder=tmp_path)
    if up:
        network.cut("kme-7", "kme-8")
    copy = copied(tmp_path / "kme-7")
    (network.mend if up else network.cut)("kme-7", "kme-8")
    restore(network, "kme-7", tmp_path / "kme-7", copy)
    assert network.stores["kme-7"].waiting.links_down() == (frozenset() if up else {"kme-8"})


@pytest.mark.parametrize("state", ["confirmed", "failed"])
def test_a_relay_that_was_undecided_in_the_copy_ends_as_it_did(tmp_path, state):
    network, relay_id, copy = undecided_in_the_copy(tmp_path, state)
    restore(network, "kme-1", tmp_path / "kme-1", copy)
    network.later(10)
    network.later(10)
    assert network.stores["kme-1"].relays.get(relay_id).state == {"confirmed": "delivered", "failed": "failed"}[state]
    assert network.keys("kme-1", relay_id) == network.keys("kme-8", relay_id)
    assert (network.keys("kme-1", relay_id) is None) == (state == "failed")


def test_a_relay_of_which_nothing_is_heard_ends_by_the_clock_of_its_end(tmp_path):
    network, relay_id, copy = undecided_in_the_copy(tmp_path, "failed")
    network.stop("coordinator")
    restore(network, "kme-1", tmp_path / "kme-1", copy)
    network.later(UNDECIDED_S - 10.0)
    store = network.stores["kme-1"]
    assert store.relays.get(relay_id).state == "pending"
    network.later(20.0)
    assert (store.relays.get(relay_id).state, store.relays.get(relay_id).payload) == ("failed", None)
    network.resume("coordinator")
    assert network.relay("kme-1", "kme-8").state == "confirmed"


def undecided_in_the_copy(tmp_path, state):
    """Return a network, a relay that has come to ``state``, and a copy of its source's store from before that."""
    network = Network(folder=tmp_path)
    between = ("kme-5", "kme-6", "kme-7")
    network.stop(*between)
    relay_id = network.relay("kme-1", "kme-8").relay_id
    copy = copied(tmp_path / "kme-1")
    if state == "confirmed":
        network.resume(*between)
    assert network.wait(relay_id).state == state
    network.resume(*between)
    return network, relay_id, copy


def test_a_message_handled_since_the_copy_is_handled_again_and_changes_no_key(tmp_path):
    network = Network(folder=tmp_path)
    copy = copied(tmp_path / "kme-3")
    view = network.relay("kme-1", "kme-8")
    keys = network.keys("kme-1", view.relay_id)
    recorded = next(p.body for p in network.sealed if p.routing_key == "link.kme-1.kme-3")
    restore(network, "kme-3", tmp_path / "kme-3", copy)
    network.on_link("kme-1", "kme-3", recorded)
    network.settle()
    shown = network.show(view.relay_id)
    assert {route[:3] for route in shown.equivocating} == {("kme-1", "kme-3", f"kme-{n}") for n in (5, 6, 7)}
    assert (shown.state, shown.false_shares) == ("confirmed", ())
    assert network.keys("kme-1", view.relay_id) == network.keys("kme-8", view.relay_id) == keys
    # Once the deadline has passed, no copy makes a replay good.
    restore(network, "kme-3", tmp_path / "kme-3", copy)
    network.later(31 + LATE_S)
    network.on_link("kme-1", "kme-3", recorded)
    network.settle()
    assert network.dead_letters() == [("kme-3", "link.kme-1.kme-3", "the deadline has passed")]


@pytest.mark.parametrize("kept", ["an old copy", "nothing"])
def test_a_kme_without_what_it_held_and_sealed_with_since_uses_no_key_again_and_agrees_on_other(tmp_path, kept):
    """As the receiver of links it has blocks of key no more, and those again that were used up; as a sender none."""
    network = Network(folder=tmp_path)
    for kme, peers in network.topology.neighbours.items():
        for peer in peers:
            network.limit_key(kme, peer, network.time, rate_bps=1_000, buffer_bytes=1 << 20)

    def held():
        return {(peer, block) for peer in ("kme-1", "kme-5") for block in network.stores["kme-3"].held_keys.of(peer)}

    network.relay("kme-1", "kme-8")
    before, copy = held(), copied(tmp_path / "kme-3")
    for ends in [("kme-1", "kme-8"), ("kme-8", "kme-1")] * 40:
        assert network.relay(*ends).missing == ()
    assert before - held()
    assert held() - before
    used = set(network.slots())
    if kept == "nothing":
        stop(network, "kme-3")
        shutil.rmtree(tmp_path / "kme-3")
        network.restart("kme-3")
        network.settle()
    else:
        restore(network, "kme-3", tmp_path / "kme-3", copy)
    network.later(1.0)
    for ends in [("kme-1", "kme-8"), ("kme-8", "kme-1")] * 10:
        view = network.relay(*ends)
        assert (view.state, view.missing, view.false_shares, view.equivocating) == ("confirmed", (), (), ())
        assert network.keys("kme-1", view.relay_id) == network.keys("kme-8", view.relay_id)
    assert network.dead_letters() == []
    assert used < set(network.slots())
    assert all(len(messages) == 1 for messages in network.slots().values())
    pads = network.pads()
    assert len(pads) == len(set(pads))


# --- the coordinator's -----------------------------------------------------------------------------


@pytest.mark.parametrize(("later_s", "state"), [(10.0, "confirmed"), (31.0, "failed")])
def test_a_coordinator_that_forgot_how_a_relay_ended_takes_no_keys_back(tmp_path, later_s, state):
    """It hears of it again as long as it would have, and takes the relay for failed after that."""
    network = Network(folder=tmp_path)
    network.stop("kme-8")
    relay_id = network.relay("kme-1", "kme-8").relay_id
    copy = copied(tmp_path / COORDINATOR)
    network.resume("kme-8")
    keys = network.keys("kme-1", relay_id)
    restore(network, COORDINATOR, tmp_path / COORDINATOR, copy)
    assert network.wait(relay_id, later_s).state == state
    network.later(10.0)
    assert network.keys("kme-1", relay_id) == network.keys("kme-8", relay_id) == keys != None  # noqa: E711


def test_a_coordinator_without_its_store_starts_anew(tmp_path):
    network = Network(folder=tmp_path)
    relay_id = network.relay("kme-1", "kme-8").relay_id
    stop(network, COORDINATOR)
    shutil.rmtree(tmp_path / COORDINATOR)
    network.restart(COORDINATOR)
    network.settle()
    assert network.keys("kme-1", relay_id) == network.keys("kme-8", relay_id) != None  # noqa: E711
    assert network.relay("kme-1", "kme-8").missing == ()
