"""Sites in bundles, each its own compose project with its own broker, joined by their brokers' TLS ports alone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from qkdrelay.network.topology_file import load_topology
from support import stack
from support.sites import Bundles, bundles
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

SITES = {"berlin": ("kme-1",), "munich": ("kme-2", "kme-3"), "bonn": ("kme-4",)}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundles]:
    with bundles(tmp_path_factory.mktemp("sites"), load_topology(stack.TOPOLOGIES / "diamond.toml"), SITES) as made:
        made.up()
        eventually(lambda: heard(made) == set(made.topology.kmes), timeout_s=180, what="all KMEs to be heard")
        yield made


def heard(network: Bundles) -> set[str]:
    answer = network.coordinator("network", "--json")
    return (
        {kme["name"] for kme in json.loads(answer.out)["kmes"] if kme["heard_s_ago"] is not None}
        if answer.code == 0
        else set()
    )


def test_a_key_goes_from_one_site_to_another(network: Bundles) -> None:
    outcome = network.coordinator("relay", "kme-1", "kme-4", "--keys", "3", "--json").json()
    assert outcome["state"] == "confirmed"
