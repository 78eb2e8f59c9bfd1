"""Networks of sites while one of them moves, loses what its broker had, is full, or is of another topology."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pika
import pytest
from pika.exceptions import AMQPConnectionError

from qkdrelay.broker.contents import policies
from qkdrelay.broker.names import VHOST, control_queue, link_queue
from qkdrelay.network.sites import Site
from qkdrelay.network.topology_file import load_topology
from support import stack
from support.ports import free_port
from support.sites import (
    TLS,
    Bundles,
    ask,
    away,
    bundles,
    connect,
    relays_of,
    released,
    shown,
    states,
    until_confirmed,
    until_whole,
)
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

SITES = {"berlin": ("kme-1",), "munich": ("kme-2",), "bonn": ("kme-3", "kme-4")}
LONG = ("--timeout", "600")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundles]:
    with bundles(tmp_path_factory.mktemp("sites"), load_topology(stack.TOPOLOGIES / "diamond.toml"), SITES) as made:
        made.up()
        until_whole(made)
        yield made


@pytest.fixture(autouse=True)
def whole(network: Bundles) -> Iterator[None]:
    """Leave the network whole; nobody has had anything to say but in words."""
    yield
    network.up()
    until_whole(network)
    for site in network.topology.sites:
        assert "Traceback" not in network.compose(site, "logs", "--no-color").out
    letters = network.coordinator("dead-letters", "list", "--json").json()["dead_letters"]
    network.coordinator("dead-letters", "drop", "--all", "--yes")
    assert [letter for letter in letters if letter["queue"].startswith("link.")] == []


def is_said(network: Bundles, site: str, service: str, line: dict[str, str]) -> bool:
    """Whether a service has logged this, perhaps with more in it."""
    return any(said.items() >= line.items() for said in network.log(site, service))


def sent_at_once(network: Bundles) -> None:
    """Have links agree on key, so that what is asked for next is sealed at once."""
    assert network.coordinator("relay", "kme-1", "kme-4", "--json").json()["state"] == "confirmed"


def same_keys(network: Bundles, relays: list[str], *ends: str) -> None:
    """Both ends have released the same keys, of each of these."""
    source, target = (
        eventually(lambda kme=kme: set(found := released(network, kme, relays)) == set(relays) and found)
        for kme in ends
    )
    assert source == target


def test_a_site_moves_to_another_host_with_relays_under_way(network: Bundles, tmp_path: Path) -> None:
    """As docs/sites.md says; shares that kme-2 has sealed are in its broker when it stops."""
    import docker  # noqa: PLC0415 - slow, and only these tests need it

    address = docker.from_env().networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    assert network.compose("bonn", "kill", "kme-4").code == 0
    sealed = ask(network, "kme-1", "kme-4", "--keys", "3", *LONG)
    begun = ask(network, "kme-3", "kme-2", *LONG)
    sent = {"event": "share.sent", "link": "kme-2>kme-4", "relay_id": sealed}
    eventually(lambda: is_said(network, "munich", "kme-2", sent), timeout_s=60)
    before = replace(network, folder=tmp_path)
    shutil.copytree(network.folder / "munich", tmp_path / "munich")
    site = Site(("kme-2",), address, free_port())
    network.topology = replace(network.topology, sites={**network.topology.sites, "munich": site})
    network.provision()
    network.moves("munich")
    before.shell("munich", "docker compose stop")
    before.shell("munich", "docker compose run --rm --no-deps -T kme-2 tar -c -C /var/lib/qkdrelay . >kme-2.tar")
    before.shell("munich", "docker compose run --rm --no-deps -T rabbitmq tar -c -C /var/lib/rabbitmq . >rabbitmq.tar")
    before.shell("munich", "docker compose down --volumes")
    while_away = ask(network, "kme-1", "kme-4", *LONG)
    for file in ("kme-2.tar", "rabbitmq.tar"):
        shutil.copy(tmp_path / "munich" / file, network.folder / "munich")
    network.shell("munich", "docker compose run --rm --no-deps -T kme-2 tar -x -C /var/lib/qkdrelay <kme-2.tar")
    network.shell("munich", "docker compose run --rm --no-deps -T rabbitmq tar -x -C /var/lib/rabbitmq <rabbitmq.tar")
    network.up()
    until_confirmed(network, [sealed, begun, while_away])
    same_keys(network, [sealed, while_away], "kme-1", "kme-4")
    same_keys(network, [begun], "kme-3", "kme-2")


def test_brokers_that_are_restored_empty(network: Bundles) -> None:
    """Shares that are in them are lost; orders and reports are said again."""
    sent_at_once(network)
    assert network.compose("bonn", "kill", "kme-3").code == 0
    lost = ask(network, "kme-1", "kme-4", "--timeout", "45")
    eventually(lambda: states(network, [lost]) == {lost: "started"}, timeout_s=30)
    told = [ask(network, "kme-3", "kme-2", *LONG), ask(network, "kme-2", "kme-4", *LONG)]
    there = {control_queue("kme-3"), link_queue("kme-1", "kme-3")}
    eventually(lambda: {name for name, messages in network.waiting("berlin").items() if messages} >= there)
    assert network.compose("berlin", "kill", "coordinator").code == 0
    network.lose()
    network.up()
    until_confirmed(network, told)
    same_keys(network, told[:1], "kme-3", "kme-2")
    same_keys(network, told[1:], "kme-2", "kme-4")
    eventually(lambda: states(network, [lost]) == {lost: "failed"}, timeout_s=45)
    assert relays_of(network, [lost])[lost]["reason"].startswith("too few shares in time: the split on kme-1 has ")
    assert [released(network, kme, [lost]) for kme in ("kme-1", "kme-4")] == [{}, {}]
    assert network.coordinator("relay", "kme-1", "kme-4", "--json").json()["state"] == "confirmed"


def test_a_queue_that_is_full_holds_up_what_goes_over_its_link_and_nothing_else(network: Bundles) -> None:
    queue = link_queue("kme-1", "kme-3")
    definition = next(each for name, _, each in policies(lab=False) if name == "links")
    small = json.dumps({**definition, "max-length-bytes": 4096})
    sent_at_once(network)
    assert network.compose("bonn", "kill", "kme-3").code == 0
    setting = ("--priority", "10", "--apply-to", "queues", "small", f"^{re.escape(queue)}$", small)
    network.rabbitmqctl("berlin", "set_policy", "-p", VHOST, *setting)
    kept, given_up = f'qkdrelay_outbox_messages{{queue="{queue}"}}', 'qkdrelay_link_key_given_up{link="kme-1>kme-2"}'
    before = measured(network, given_up)
    waits = [ask(network, "kme-1", "kme-3", "--keys", "40", *LONG) for _ in range(8)]
    refused = {"event": "broker.publish_retried", "user": "kme-1", "reason": f"refused {queue}"}
    eventually(
        lambda: [line for line in network.log("berlin", "kme-1") if line.items() >= refused.items()], timeout_s=60
    )
    # What has no room is sealed already, and kept; from 500 messages on it would wait unsealed.
    eventually(lambda: measured(network, kept) >= 4, timeout_s=60)
    assert network.ready("berlin", "kme-1") == "ok"
    for ends in (("kme-1", "kme-2"), ("kme-2", "kme-1"), ("kme-2", "kme-4")):
        assert network.coordinator("relay", *ends, "--allow-unprotected", "--json").json()["state"] == "confirmed"
    assert measured(network, given_up) == before
    assert states(network, waits) == dict.fromkeys(waits, "started")
    network.up("bonn")
    until_confirmed(network, waits)
    same_keys(network, waits, "kme-1", "kme-3")
    eventually(lambda: measured(network, kept) == 0)
    network.rabbitmqctl("berlin", "clear_policy", "-p", VHOST, "small")


def measured(network: Bundles, metric: str) -> int:
    """What kme-1 says of itself by this metric, with its label."""
    said = re.search(rf"^{re.escape(metric)} (\d+)", network.metrics("berlin", "kme-1"), re.MULTILINE)
    return int(said[1]) if said else 0


def test_sites_whose_bundles_are_of_two_topologies(network: Bundles) -> None:
    """A site comes, and goes; the coordinator's has its new bundle last, so that it knows first less, then more."""
    before, relays = network.topology, [ask(network, "kme-1", "kme-4", *LONG)]
    at = Site(("kme-5",), before.sites["bonn"].host, free_port())
    more = replace(
        before,
        kmes=(*before.kmes, "kme-5"),
        links=(*before.links, ("kme-4", "kme-5"), ("kme-3", "kme-5")),
        sites={**before.sites, "ulm": at},
    )
    gone = network.folder / "ulm" / TLS / "site"

    def goes_on() -> None:
        relays.append(ask(network, "kme-4", "kme-1", *LONG))
        until_confirmed(network, relays)

    network.provision(more)
    try:
        network.up("bonn")
        eventually(lambda: "ok, but site ulm cannot be read" in network.ready("bonn", "kme-4"), timeout_s=90)
        goes_on()
        network.up("ulm")
        eventually(lambda: "does not let 'site.ulm' in by its" in network.ready("ulm", "kme-5"), timeout_s=90)
        eventually(lambda: network.ready("bonn", "kme-4") == "ok", timeout_s=90)
        goes_on()
        network.up("berlin")
        until_whole(network, set(more.kmes))
        relays.append(ask(network, "kme-5", "kme-1", *LONG))
        goes_on()
        connect(network, "bonn", gone, pika.credentials.ExternalCredentials()).close()
        network.provision(before)
        network.up("bonn")
        # Both, and not what they had before: they have been started anew.
        eventually(lambda: unsaid(network) == {("kme-3", "kme-5"), ("kme-4", "kme-5")}, timeout_s=60)
        refused = network.coordinator("relay", "kme-1", "kme-5", "--timeout", "5", "--allow-unprotected", "--json")
        assert "kme-4 has no QKD link to kme-5, which the plan names" in refused.json()["reason"]
        assert network.coordinator("dead-letters", "drop", "--all", "--yes").code == 0
        goes_on()
        assert network.compose("ulm", "stop", "-t", "1").code == 0
        eventually(lambda: away(shown(network)) == {"ulm": ["coordinator"]}, timeout_s=60)
        network.up("berlin")
        goes_on()
    finally:
        network.provision(before)
        network.down("ulm")
    until_whole(network)
    assert "removing the user site.ulm\nremoving the queue link.kme-3.kme-5\n" in network.tidy("bonn")
    assert "removing the queue kme.kme-5.control\n" in network.tidy("berlin")
    assert network.tidy("munich") == ""
    for site in ("bonn", "berlin"):
        with pytest.raises(AMQPConnectionError):
            connect(network, site, gone, pika.credentials.ExternalCredentials())


def unsaid(network: Bundles) -> set[tuple[str, str]]:
    """The directions of links of which their senders say nothing."""
    ways = [way for link in shown(network)["links"] for way in link["directions"]]
    return {(way["from"], way["to"]) for way in ways if way["up"] is None}
