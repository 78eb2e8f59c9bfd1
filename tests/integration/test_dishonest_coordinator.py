"""A KME does not take the coordinator's word: whatever the two ends are told, the source never uses a wrong secret, and
releases keys only if the target holds the same."""

from dataclasses import replace
from uuid import UUID

import msgspec
import pytest

from coordinator.commands import CommandQueue
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.control import Cancel, Confirm, Deliver, Expect, FixedDemand, Start
from qkdrelay.messages.plans import decode_plan, encode_plan
from qkdrelay.network.plan import Hop, Plan
from qkdrelay.network.planner import recursive_plan
from support import plans
from support.kme import NOW
from support.network import REFERENCE, Network, ask

PLAN = recursive_plan(REFERENCE, "kme-1", "kme-8")
ANOTHER = UUID("ffffffff-0000-4000-8000-000000000000")
FRIENDS = plans.written({"kme-1": (["kme-3"], 1), "kme-3": (["kme-6"], 1), "kme-6": (["kme-8"], 1)}, "kme-1", "kme-8")
ANY = replace(PLAN, hops={**PLAN.hops, "kme-1": Hop(("kme-2", "kme-3", "kme-4"), 1)})


def with_hop(kme, successors, threshold):
    """The reference plan with another hop at one KME."""
    return Plan.checked("kme-1", "kme-8", {**PLAN.hops, kme: Hop(tuple(f"kme-{n}" for n in successors), threshold)})


def plan(other):
    return {"plan": encode_plan(other)}


DIFFERENT = {
    "threshold at the source": plan(with_hop("kme-1", (2, 3, 4), 3)),
    "threshold of an inner split": plan(with_hop("kme-3", (5, 6, 7), 3)),
    "order of successors": plan(with_hop("kme-1", (3, 2, 4), 2)),
    "order of an inner split's successors": plan(with_hop("kme-3", (7, 6, 5), 2)),
    "successors of an inner split": plan(with_hop("kme-3", (5, 7), 2)),
    "disjoint paths": plan(
        Plan.checked(
            "kme-1",
            "kme-8",
            {"kme-1": Hop(("kme-2", "kme-3", "kme-4"), 2)}
            | {f"kme-{n}": Hop((f"kme-{n + 3}",), 1) for n in (2, 3, 4)}
            | {f"kme-{n}": Hop(("kme-8",), 1) for n in (5, 6, 7)},
        )
    ),
    "fewer keys": {"key_count": 1},
    "less demanded": {"withstand": FixedDemand(compromised=0, failed=0, tampering=0)},
    "supply": {"supply": Supply(until=NOW + 1e5, tag_pairs=1)},
    "as many bytes in another number of keys": {"key_count": 1, "key_size_bits": 512},
    "another relay": {"relay_id": ANOTHER},
    "another relay's plan": plan(recursive_plan(REFERENCE, "kme-1", "kme-7")),
    "another source's plan": plan(recursive_plan(REFERENCE, "kme-2", "kme-8")),
    "the plan the other way round": plan(recursive_plan(REFERENCE, "kme-8", "kme-1")),
}
"""Terms told to one end; the other is told of two keys of 256 bits over the reference plan."""


def lie(monkeypatch, told, *, insist=False):
    """Have the coordinator change what it tells: ``told`` maps a kind of command to the terms it gets instead.

    If it ``insists``, it gives nothing up, and has it said to the target that the source has confirmed.
    """
    put = CommandQueue.put

    def lying(queue, kme, said):
        if type(said) in told:
            said = msgspec.structs.replace(said, terms=msgspec.structs.replace(said.terms, **told[type(said)]))
        elif isinstance(said, Cancel) and insist:
            said = Deliver(relay_id=said.relay_id)
        put(queue, kme, said)

    monkeypatch.setattr(CommandQueue, "put", lying)


def relay(network):
    relay_id = ask(network, "kme-1", "kme-8", policy="recursive", key_count=2)
    network.settle()
    return network.wait(relay_id)


def released(network, relay_id):
    """What each KME has released of a relay."""
    return {kme: keys for kme in REFERENCE.kmes if (keys := network.keys(kme, relay_id)) is not None}


@pytest.mark.parametrize("insist", [False, True])
def test_with_the_same_terms_for_both_the_keys_are_released(monkeypatch, insist):
    network = Network()
    lie(monkeypatch, {Start: plan(PLAN), Expect: plan(PLAN)}, insist=insist)
    view = relay(network)
    keys = released(network, view.relay_id)
    assert (view.state, keys.keys()) == ("confirmed", {"kme-1", "kme-8"})
    assert keys["kme-1"] == keys["kme-8"]


@pytest.mark.parametrize("insist", [False, True])
@pytest.mark.parametrize("lied_to", [Start, Expect])
@pytest.mark.parametrize("what", DIFFERENT)
def test_of_ends_that_are_told_different_terms_the_source_releases_nothing(monkeypatch, what, lied_to, insist):
    network = Network()
    lie(monkeypatch, {lied_to: DIFFERENT[what]}, insist=insist)
    view = relay(network)
    assert view.state == "failed"
    for relay_id in (view.relay_id, ANOTHER):
        assert released(network, relay_id).keys() <= {"kme-8"}


@pytest.mark.parametrize("lied_to", [Start, Expect])
@pytest.mark.parametrize("weak", [FRIENDS, ANY], ids=["one path", "any share is enough"])
def test_an_end_refuses_a_plan_through_the_coordinators_friends(monkeypatch, weak, lied_to):
    network = Network()
    lie(monkeypatch, {lied_to: plan(weak)})
    view = relay(network)
    end = "kme-1" if lied_to is Start else "kme-8"
    assert view.state == "failed"
    assert f"refused by {end}: the plan does not withstand 1 compromised KME" in view.reason
    assert lied_to is Expect or network.sealed == []
    assert released(network, view.relay_id) == {}


@pytest.mark.parametrize("asks", ["kme-1", "kme-8"])
def test_an_end_that_asks_for_more_than_the_other_has_it_its_way(asks):
    network = Network()
    network.demand(asks, 2)
    view = relay(network)
    assert f"refused by {asks}: the plan does not withstand 2 compromised KME" in view.reason
    assert released(network, view.relay_id) == {}
    assert asks == "kme-8" or network.sealed == []


@pytest.mark.parametrize("forged", ["no tag", "another relay's"])
def test_a_tag_that_the_target_did_not_make_releases_nothing_at_the_source(monkeypatch, forged):
    network = Network()
    other = relay(network)
    put, tag = CommandQueue.put, network.coordinator_store.relays.get(other.relay_id).target_proof

    def forging(queue, kme, said):
        if isinstance(said, Confirm):
            said = msgspec.structs.replace(said, proof=bytes(16) if forged == "no tag" else tag)
        put(queue, kme, said)

    monkeypatch.setattr(CommandQueue, "put", forging)
    view = relay(network)
    assert released(network, view.relay_id).keys() == {"kme-8"}
    assert network.stores["kme-1"].relays.get(view.relay_id).payload is None
    assert (view.state, view.released_at) == ("failed", ("kme-8",))
    assert "confirmed by kme-8, but refused by kme-1: the confirmation tag of kme-8 is not that of" in view.reason


def test_a_coordinator_that_tells_one_end_that_it_is_confirmed_and_the_other_that_it_has_failed_parts_nobody(
    monkeypatch,
):
    """It may have the source give up what the target holds, and never the other way round."""
    network = Network()
    put = CommandQueue.put

    def parting(queue, kme, said):
        if isinstance(said, Confirm):
            put(queue, "kme-8", Cancel(relay_id=said.relay_id))
        put(queue, kme, said)

    monkeypatch.setattr(CommandQueue, "put", parting)
    view = relay(network)
    keys = released(network, view.relay_id)
    assert keys["kme-1"] == keys["kme-8"]
    monkeypatch.setattr(
        CommandQueue,
        "put",
        lambda queue, kme, said: put(queue, kme, Cancel(relay_id=said.relay_id) if isinstance(said, Confirm) else said),
    )
    view = relay(network)
    assert released(network, view.relay_id).keys() == {"kme-8"}


# --- a KME on the way that follows a plan of its own -----------------------------------------------


def at(part, threshold=None, successors=None):
    hop = part.hops[part.source]
    own = Hop(successors or hop.successors, hop.threshold if threshold is None else threshold)
    return Plan(part.source, part.target, {**part.hops, part.source: own}).below(part.source)


def detour(part):
    """What kme-6 has to do is done by way of kme-2 as well."""
    hops = {"kme-6": Hop(("kme-8", "kme-2"), 2), "kme-2": Hop(("kme-5",), 1), "kme-5": Hop(("kme-8",), 1)}
    return Plan.checked(part.source, part.target, {**part.hops, **hops})


SWAPPED = {
    "all shares needed": lambda part: at(part, threshold=len(part.successors(part.source))),
    "one share is enough": lambda part: at(part, threshold=1),
    "in another order": lambda part: at(part, successors=part.successors(part.source)[::-1]),
    "forwards to one": lambda part: at(part, threshold=1, successors=part.successors(part.source)[-1:]),
    "a detour below it": detour,
}


@pytest.mark.parametrize("hostile", [["kme-3"], ["kme-4"], ["kme-3", "kme-4"]], ids="+".join)
@pytest.mark.parametrize("what", SWAPPED)
def test_kmes_that_follow_another_plan_than_they_were_given_make_no_wrong_secret(monkeypatch, what, hostile):
    network = Network()
    for kme in hostile:
        node = network.service(kme).forwarding
        monkeypatch.setattr(node, "on_share", swapped(node.on_share, SWAPPED[what]))
    view = relay(network)
    keys = released(network, view.relay_id)
    if view.state == "confirmed":
        assert keys["kme-1"] == keys["kme-8"]
    else:
        assert keys.keys() <= {"kme-8"}
    # Any two of three are enough: one of them alone changes nothing.
    assert len(hostile) > 1 or (view.state, keys.keys()) == ("confirmed", {"kme-1", "kme-8"})


def swapped(on_share, change):
    def on_other_share(sender, header, payload, memory, now):
        header = msgspec.structs.replace(header, plan=encode_plan(change(decode_plan(header.plan))))
        return on_share(sender, header, payload, memory, now)

    return on_other_share
