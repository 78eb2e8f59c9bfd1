"""Sites are killed, stopped, paused and cut off at random while they relay: nothing is lost, no key is used twice."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from qkdrelay.network.topology_file import reference_topology
from support.chaos_of_sites import DECK, ChaosOfSites, Sites, network_of
from support.sites import bundles, until_whole

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

TIMES, RELAYS = sum(DECK.values()), 120
"""`make chaos` does the same with a site for each KME, and for longer."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    topology = reference_topology()
    folder = tmp_path_factory.mktemp("sites")
    with bundles(folder, topology, network_of(topology, each=3), is_for_chaos=True) as running:
        running.up()
        until_whole(running)
        yield Sites(running)


def test_whatever_is_done_to_sites_loses_no_relay_parts_no_ends_and_uses_no_key_twice(network: Sites) -> None:
    seed = int(os.environ.get("QKDRELAY_SEED", random.randrange(2**32)))
    print(f"QKDRELAY_SEED={seed}")
    chaos = ChaosOfSites(network, seed)
    chaos.disturb_at_random(TIMES, RELAYS)
    figures = chaos.look()
    print(figures.report())
    assert figures.broken == []
    assert figures.others == DECK
    assert figures.accepted == figures.asked >= RELAYS // 2
    assert figures.confirmed >= RELAYS // 3
    assert figures.key_use.messages >= RELAYS
    assert figures.applications.fetched >= TIMES
