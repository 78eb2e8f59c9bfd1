"""Every set of one and two silent links and of one and two silent KMEs of the reference network, one by one."""

from itertools import combinations

import pytest

from attack.oracle import arrivals, suffices
from qkdrelay.messages.plans import decode_plan
from support.network import REFERENCE, Network


def sets(elements):
    return [frozenset(some) for size in (1, 2) for some in combinations(elements, size)]


@pytest.fixture(scope="module", params=["recursive", "best"])
def network(request):
    """One network for all: what was silent speaks again."""
    network = Network()
    network.policy = request.param
    return network


def turn(network, links, *, up):
    """The links carry, or not, and the coordinator is not told."""
    for link in links:
        for kme, peer in (link, link[::-1]):
            with network.stores[kme].journal.transaction():
                network.stores[kme].waiting.switch_link(peer, up=up)


def outcome(network, *, silent=(), cut=()):
    """Relay once without these; return whether it was confirmed, and whether the plan's thresholds allow that."""
    turn(network, cut, up=False)
    network.stop(*silent)
    view = network.relay("kme-1", "kme-8", policy=network.policy)
    if view.state != "confirmed":
        view = network.wait(view.relay_id)
    network.resume(*silent)
    turn(network, cut, up=True)
    network.settle()
    plan = decode_plan(network.coordinator_store.relays.get(view.relay_id).terms.plan)
    keys = [network.keys(end, view.relay_id) for end in ("kme-1", "kme-8")]
    assert keys[0] == keys[1]
    assert (keys[0] is not None) == (view.state == "confirmed")
    return view.state == "confirmed", suffices(plan, arrivals(plan, silent, set(map(frozenset, cut))))


def test_a_relay_confirms_without_any_links_exactly_if_the_plan_allows_it(network):
    came = {cut: outcome(network, cut=cut) for cut in sets(REFERENCE.links)}
    assert {cut: got for cut, (got, _) in came.items()} == {cut: allowed for cut, (_, allowed) in came.items()}
    assert len(came) == len(REFERENCE.links) * (len(REFERENCE.links) + 1) // 2
    assert {got for got, _ in came.values()} == {True, False}


def test_a_relay_confirms_without_any_kmes_exactly_if_the_plan_allows_it(network):
    came = {silent: outcome(network, silent=silent) for silent in sets(REFERENCE.kmes)}
    assert {silent: got for silent, (got, _) in came.items()} == {some: allowed for some, (_, allowed) in came.items()}
    assert len(came) == 36
    assert {got for got, _ in came.values()} == {True, False}
