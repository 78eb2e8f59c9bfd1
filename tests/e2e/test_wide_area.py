"""Sites 50 ms of round trip apart, with one packet in a hundred lost: relays, a batch, and keys for applications."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from qkdrelay.network.topology_file import load_topology
from support import stack
from support.sites import Bundles, bundles, until_whole

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

SITES = {"berlin": ("kme-1",), "munich": ("kme-2", "kme-3"), "bonn": ("kme-4",)}
ROUND_TRIP_S = 0.05


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundles]:
    diamond = load_topology(stack.TOPOLOGIES / "diamond.toml")
    topology = replace(diamond, saes={"sae-1": "kme-1", "sae-4": "kme-4"})
    folder = tmp_path_factory.mktemp("sites")
    with bundles(folder, topology, SITES, round_trip_s=ROUND_TRIP_S, loss=0.01) as made:
        made.up()
        until_whole(made)
        yield made


@pytest.mark.parametrize("ends", [("kme-1", "kme-4"), ("kme-4", "kme-1")])
def test_a_relay_takes_its_passes_of_the_way(network: Bundles, ends: tuple[str, str]) -> None:
    """Three, of half a round trip each: two links, and the proof to the coordinator or the order from it."""
    passes = 3
    for _ in range(3):
        outcome = network.coordinator("relay", *ends, "--json").json()
        assert outcome["state"] == "confirmed"
        assert outcome["elapsed_s"] >= passes * ROUND_TRIP_S / 2


def test_a_batch(network: Bundles) -> None:
    outcome = network.coordinator("relay", "kme-1", "kme-4", "--keys", "1000", "--json").json()
    assert outcome["state"] == "confirmed"
    listed = [
        json.loads(network.compose(site, "exec", "-T", kme, "kme", "keys", "--reveal", "--json").out)["keys"]
        for site, kme in (("berlin", "kme-1"), ("bonn", "kme-4"))
    ]
    ends = [{key["key_id"]: key["key"] for key in keys if key["relay_id"] == outcome["relay_id"]} for keys in listed]
    assert ends[0] == ends[1]
    assert len(ends[0]) == 1000
