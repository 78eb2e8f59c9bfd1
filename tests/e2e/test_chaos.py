"""Services and the broker are killed at random while relays are under way: nothing is lost, no key is used twice."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import killable, rabbitmq
from support.chaos import BROKER, STOPPED, Chaos
from support.customers import Site
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]

KILLS, RELAYS = 24, 120
"""`make chaos` does the same for longer."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.new(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def network(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[killable.Processes]:
    rabbitmq.require_containers(rabbitmq.IMAGE)
    folder: Path = tmp_path_factory.mktemp("network")
    with killable.running(folder, more=site.settings()) as running:
        yield running


@pytest.fixture
def chaos(network: killable.Processes, site: Site) -> Chaos:
    seed = int(os.environ.get("QKDRELAY_SEED", random.randrange(2**32)))
    print(f"QKDRELAY_SEED={seed}")
    return Chaos(network, site.client, seed)


def test_kills_lose_no_relay_part_no_ends_and_use_no_key_twice(chaos: Chaos) -> None:
    chaos.kill_at_random(KILLS, RELAYS)
    figures = chaos.look()
    print(figures.report())
    assert figures.broken == []
    assert figures.kills.total() == KILLS
    assert figures.kills[BROKER] >= 1
    assert figures.accepted == RELAYS
    assert figures.confirmed >= RELAYS // 2
    assert figures.key_use.messages >= RELAYS
    assert figures.applications.fetched >= KILLS


def test_sigterm_is_clean_and_loses_nothing_under_load(chaos: Chaos) -> None:
    """Each service in turn; its exit status is 0, and it ends within the time that `Processes.stop` gives it."""
    for name in chaos.network.services:
        chaos.load.allowed += 4
        chaos.stop(name)
    figures = chaos.look()
    print(figures.report())
    assert figures.broken == []
    assert figures.others[STOPPED] == len(chaos.network.services)
    assert figures.confirmed >= figures.accepted // 2
    for name in chaos.network.services:
        assert "Traceback" not in chaos.network.log(name).read_text()


def test_sigterm_is_clean_while_the_broker_is_away_too(network: killable.Processes) -> None:
    stopped = ("kme-1", "coordinator")
    network.server.kill()
    try:
        assert [network.stop(name) for name in stopped] == [0, 0]
    finally:
        network.server.start()
    for name in stopped:
        network.start(name)
    everybody = set(network.topology.kmes)
    eventually(lambda: network.heard() == everybody, timeout_s=90, what="all KMEs to be heard again")
