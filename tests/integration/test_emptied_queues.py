"""Brokers that lose what is in their queues: all goes on by itself, and no two ends have different keys."""

from collections import Counter
from dataclasses import replace

import pytest

from kme.applications import KeyRequest, TryLaterError
from qkdrelay.broker.names import requests_queue
from qkdrelay.network.names import CLI
from qkdrelay.network.sites import Site
from qkdrelay.network.topology import one_site_each
from support.applications import Whole, caller
from support.network import DIAMOND, REFERENCE, Network, ask

APART = {"west": Site(("kme-1", "kme-2"), "west.example"), "east": Site(("kme-3", "kme-4"), "east.example")}
TOPOLOGIES = {
    "one broker": DIAMOND,
    "each": one_site_each(DIAMOND),
    "apart": replace(DIAMOND, sites={**APART, "hq": Site((), "hq.example")}, coordinator="hq"),
}
HELLO_S = 10.0
REQUESTS = requests_queue(CLI)


def under_way(topology, turns, source, target):
    """A network in which a relay was asked for, and services have taken so many turns since; and the relay."""
    network = Network(topology)
    network.later(HELLO_S)
    relay_id = ask(network, source, target)
    take_turns(network, turns)
    return network, relay_id


def take_turns(network, turns):
    loops = list(network.loops.values())
    for turn in range(turns):
        loops[turn % len(loops)].step(0.0)


def ends_well(network, relay_id, source, target, *, lost):
    """A relay is confirmed with one key at both ends; or, where ``lost`` is of a link, has failed with none."""
    network.settle()
    for _ in range(4):
        network.later(HELLO_S)
    relay = network.coordinator_store.relays.get(relay_id)
    if relay is None:
        assert REQUESTS in lost  # nobody has been told that there would be one
        return "unheard"
    keys = [network.keys(end, relay_id) for end in (source, target)]
    if relay.state == "failed":
        assert any(name.startswith("link.") for name in lost)
        assert relay.reason.startswith("too few shares in time: the split on ")
        assert keys == [None, None]
    else:
        assert (relay.state, set(relay.released)) == ("confirmed", {source, target})
        assert keys[0] == keys[1] is not None
    return relay.state


def goes_on(network, source, target):
    """What is asked for next is confirmed, once link key that was given up is agreed on anew."""
    relay_id = network.relay(source, target).relay_id
    network.later(HELLO_S)
    assert network.show(relay_id).state == "confirmed"
    assert network.keys(source, relay_id) == network.keys(target, relay_id) is not None
    assert network.dead_letters() == []


@pytest.mark.parametrize(
    ("sites", "source", "target"),
    [("one broker", "kme-4", "kme-1"), ("each", "kme-4", "kme-1"), ("apart", "kme-1", "kme-4")],
)
def test_any_queue_may_be_emptied_at_any_moment(sites, source, target):
    outcomes, seen = Counter(), set()
    for turns in range(40):
        for site, queue, *messages in under_way(TOPOLOGIES[sites], turns, source, target)[0].filled():
            if (site, queue, *messages) in seen:
                continue
            seen.add((site, queue, *messages))
            network, relay_id = under_way(TOPOLOGIES[sites], turns, source, target)
            network.empty(site, queue)
            outcomes[ends_well(network, relay_id, source, target, lost=(queue,))] += 1
            goes_on(network, source, target)
    assert outcomes.keys() == {"unheard", "failed", "confirmed"}
    assert outcomes["failed"] <= 8
    assert outcomes["confirmed"] > 8


@pytest.mark.parametrize("site", ["west", "east", "hq"])
def test_a_broker_may_be_restored_empty_at_any_moment(site):
    outcomes = Counter()
    for turns in range(0, 24, 2):
        network, relay_id = under_way(TOPOLOGIES["apart"], turns, "kme-1", "kme-4")
        lost = [queue for where, queue, *_ in network.filled() if where == site]
        network.empty(site)
        outcomes[ends_well(network, relay_id, "kme-1", "kme-4", lost=lost)] += 1
        goes_on(network, "kme-1", "kme-4")
    assert outcomes["confirmed"] > 4


@pytest.mark.parametrize("site", ["kme-1", "kme-3", "kme-8"])
@pytest.mark.parametrize("turns", range(1, 80, 13))
def test_applications_have_the_same_keys_whichever_broker_is_restored_empty(site, turns):
    """At the coordinator's and the master's site, on the way, and at the slave's."""
    network = Whole(topology=one_site_each(REFERENCE))
    network.settle()
    answer = network.keys_of["kme-1"].take(caller("sae-1"), KeyRequest("sae-8", 3, 256, None))
    take_turns(network, turns)
    network.empty(site)
    for _ in range(12):
        network.pass_time(HELLO_S)
    try:
        taken = answer.result(timeout=0)
    except TryLaterError:
        taken = []
    taken = [*taken, *network.take("sae-1", "sae-8", 2)]
    fetched = network.fetch("sae-8", "sae-1", [key.key_id for key in taken])
    assert [(key.key_id, key.key) for key in fetched] == [(key.key_id, key.key) for key in taken]
