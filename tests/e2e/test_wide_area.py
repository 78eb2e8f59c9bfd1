"""Sites 50 ms of round trip apart, with one packet in a hundred lost: relays, a batch, and keys for applications."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from qkdrelay.network.topology_file import reference_topology
from support.sites import Bundles, bundles, until_whole
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

SITES = {"berlin": ("kme-1",), "munich": tuple(f"kme-{number}" for number in range(2, 8)), "bonn": ("kme-8",)}
ROUND_TRIP_S = 0.05


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundles]:
    folder = tmp_path_factory.mktemp("sites")
    with bundles(folder, reference_topology(), SITES, "--lab", round_trip_s=ROUND_TRIP_S, loss=0.01) as made:
        made.up()
        until_whole(made)
        yield made


@pytest.mark.parametrize("ends", [("kme-1", "kme-8"), ("kme-8", "kme-1")])
def test_a_relay_takes_its_passes_of_the_way(network: Bundles, ends: tuple[str, str]) -> None:
    """Three, of half a round trip each: two links between sites, and the proof to the coordinator or its order."""
    passes = 3
    for _ in range(3):
        outcome = network.coordinator("relay", *ends, "--json").json()
        assert outcome["state"] == "confirmed"
        assert outcome["elapsed_s"] >= passes * ROUND_TRIP_S / 2


def keys(network: Bundles, site: str, kme: str, relay_id: str) -> dict[str, str]:
    listed = json.loads(network.compose(site, "exec", "-T", kme, "kme", "keys", "--reveal", "--json").out)["keys"]
    return {key["key_id"]: key["key"] for key in listed if key["relay_id"] == relay_id}


def test_a_batch(network: Bundles) -> None:
    outcome = network.coordinator("relay", "kme-1", "kme-8", "--keys", "1000", "--json").json()
    assert outcome["state"] == "confirmed"
    ends = [keys(network, site, kme, outcome["relay_id"]) for site, kme in (("berlin", "kme-1"), ("bonn", "kme-8"))]
    assert ends[0] == ends[1]
    assert len(ends[0]) == 1000


def test_the_reference_scenario(network: Bundles) -> None:
    """A link is cut, two KMEs leak all they receive; the keys arrive, and the two learn nothing of them."""
    assert network.cli("bonn", "link", "down", "kme-7", "kme-8").code == 0
    for kme in ("kme-4", "kme-6"):
        assert network.coordinator("lab", "compromise", kme, "--mode", "leak").code == 0
    told = ("--policy", "recursive", "--keys", "3", "--json")
    relay = network.coordinator("relay", "kme-1", "kme-8", *told).json()
    assert relay["state"] == "confirmed"
    eventually(lambda: all_but_two_have_come(network, relay["relay_id"]), timeout_s=30, what="15 of 17 shares")

    def attacked(*kmes: str) -> Any:
        only = [part for kme in kmes for part in ("--kme", kme)]
        return network.coordinator("lab", "attack", relay["relay_id"], *only, "--json").json()

    eventually(lambda: set(attacked()["kmes"]) == {"kme-4", "kme-6"}, timeout_s=30, what="what both have leaked")
    assert [attacked(*kmes)["learned"] for kmes in (("kme-4",), ("kme-6",), ())] == [False] * 3
    ends = [keys(network, site, kme, relay["relay_id"]) for site, kme in (("berlin", "kme-1"), ("bonn", "kme-8"))]
    assert ends[0] == ends[1]
    assert len(ends[0]) == 3


def all_but_two_have_come(network: Bundles, relay_id: str) -> bool:
    shown = network.cli("bonn", "show", relay_id, "--json").json()
    return {tuple(route) for route in shown["missing"]} == {
        ("kme-1", "kme-3", "kme-7", "kme-8"),
        ("kme-1", "kme-4", "kme-7", "kme-8"),
    }


def test_applications_at_two_sites_have_the_same_keys(network: Bundles) -> None:
    """In milliseconds, once there is supply: nothing goes over the wide area for a request."""
    master, slave = network.application("sae-1"), network.application("sae-8")

    def given() -> Any:
        status, _, answer = master.get("sae-8", "enc_keys", "?number=5")
        return status == 200 and answer["keys"]

    took = eventually(given, timeout_s=90, what="keys of sae-1 with sae-8")
    for key in took:
        status, _, answer = slave.get("sae-1", "dec_keys", f"?key_ID={key['key_ID']}")
        assert (status, answer["keys"]) == (200, [key])
