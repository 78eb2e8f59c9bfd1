"""Networks as `coordinator provision` writes them: their brokers in containers, their services processes here.

On one broker with TLS, or in bundles, a site and a broker for each KME. Each is told what its compose file says, but
for the places of files, and for the brokers' addresses: all is on this machine's loopback interface.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pika

from bench.stack import KEY_FOR_ALL, Services, Stack
from qkdrelay.broker.names import VHOST
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.network.names import CLI, COORDINATOR
from qkdrelay.network.sites import Site
from qkdrelay.network.topology import Topology
from qkdrelay.service import dotenv_file
from qkdrelay_deployment.compose import COMPOSE_BASE, DEPLOYED_TOPOLOGY, SITE_CERTIFICATE, TLS_FOLDER, TLS_OVERLAY
from qkdrelay_deployment.provision import write_deployment
from qkdrelay_deployment.sites import write_sites
from qkdrelay_deployment.variables import (
    AMQP_PORTS,
    CLI_KEY,
    MANAGEMENT_PORT,
    PAGE_KEY,
    control_key_variable,
    password_variable,
)
from support import rabbitmq
from support.ports import free_port
from support.sites import Bundles

BROKERS_UP_WITHIN_S = 180.0
_ONE = "one-broker"
_MARK = "QKDRELAY_BENCH"
_OVERLAY = "bench.yml"
_OVERLAY_TEXT = """\
services:
  rabbitmq:
    environment: {{{mark}: "{side}"}}
    # With so many brokers on one machine, asking them whether they are healthy would take a part of it.
    healthcheck: {{interval: 12h}}
"""


@dataclass(frozen=True)
class Provisioned:
    """A network's files below ``folder``, a folder each for a site, or one for all; ``side`` marks its processes."""

    folder: Path
    topology: Topology
    side: str

    @property
    def places(self) -> tuple[str, ...]:
        """The folders with a broker each."""
        return tuple(self.topology.sites) or (_ONE,)

    @property
    def lead(self) -> str:
        """The place of the coordinator."""
        return self.topology.coordinator or _ONE

    @cached_property
    def processes(self) -> re.Pattern[bytes]:
        """What is in the command line or the environment of each of its processes, and of no other's."""
        ports = [self.values(place)[AMQP_PORTS[0]] for place in self.places]
        ports += [str(site.port) for site in self.topology.sites.values()]
        return re.compile(rf"{_MARK}={self.side}\0|-host-port[=\0]({'|'.join(ports)})\0".encode())

    def values(self, place: str) -> dict[str, str]:
        """Return what is in ``.env`` there."""
        return dotenv_file.read(self.folder / place / ".env")

    def compose(self, place: str, *arguments: str) -> str:
        """Run compose there; return what it printed."""
        files = [COMPOSE_BASE, *([] if self.topology.sites else [TLS_OVERLAY]), _OVERLAY]
        options = [option for file in files for option in ("-f", file)]
        answer = self._bundles.compose(place, *options, *arguments)
        if answer.code:
            raise RuntimeError(f"compose {' '.join(arguments)} at {place}: {answer.err}")
        return answer.out

    def start_brokers(self, *places: str) -> None:
        """Start those of these places, or all, and wait until each takes connections."""
        for place in places or self.places:
            self.compose(place, "up", "-d", "rabbitmq")
        deadline = time.monotonic() + BROKERS_UP_WITHIN_S
        for place in places or self.places:
            port = self.values(place)["BROKER_PORT"]
            while True:
                try:
                    self.compose(place, "exec", "-T", "rabbitmq", "bash", "-c", f"</dev/tcp/127.0.0.1/{port}")
                    break
                except RuntimeError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(1)

    def remove(self, *places: str) -> None:
        """Take the brokers of these places down, or all, with what they keep."""
        self._bundles.down(*places or self.places)

    def environments(self) -> dict[str, dict[str, str]]:
        """Return the settings of each service."""
        return {name: self._environment(name) for name in (*self.topology.kmes, COORDINATOR)}

    def client(self) -> pika.ConnectionParameters:
        """Return the command line's way to the coordinator's broker."""
        values = self.values(self.lead)
        return RabbitMqSettings(
            addresses=values["QKDRELAY_BROKER"],
            user=CLI,
            password=values[password_variable(CLI)],
            tls=None if self.topology.sites else self.folder / _ONE / TLS_FOLDER / CLI,
            vhost=VHOST,
        ).parameters(("127.0.0.1", int(values[AMQP_PORTS[0]])), "bench")

    @cached_property
    def _bundles(self) -> Bundles:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("QKDRELAY_", "COMPOSE_"))}
        return Bundles(self.folder, self.topology, environment)

    def _environment(self, name: str) -> dict[str, str]:
        place = self.topology.site_of.get(name, self.lead)
        root, values = self.folder / place, self.values(place)
        certificates = root / TLS_FOLDER
        if self.topology.sites:
            way = {"QKDRELAY_SITE": place, "QKDRELAY_SITE_TLS": str(certificates / SITE_CERTIFICATE)}
        else:
            way = {"QKDRELAY_BROKER_TLS": str(certificates / name)}
        common = {
            **way,
            "QKDRELAY_BROKER": f"127.0.0.1:{values[AMQP_PORTS[0]]}",
            "QKDRELAY_BROKER_VHOST": VHOST,
            "QKDRELAY_BROKER_PASSWORD": values[password_variable(name)],
            "QKDRELAY_STORE": str(self.folder / f"{name}.sqlite"),
            "QKDRELAY_LOG_FORMAT": "json",
            _MARK: self.side,
        }
        composed = (root / COMPOSE_BASE).read_text()
        if name == COORDINATOR:
            sites = _told(composed, name, "QKDRELAY_SITE_KEYS", values) if len(self.topology.sites) > 1 else {}
            return {
                **common,
                "QKDRELAY_TOPOLOGY": str(root / DEPLOYED_TOPOLOGY),
                "QKDRELAY_CONTROL_KEYS": json.dumps(_told(composed, name, "QKDRELAY_CONTROL_KEYS", values)),
                "QKDRELAY_SITE_KEYS": json.dumps(sites),
                "QKDRELAY_CLI_KEY": values[CLI_KEY],
                "QKDRELAY_PAGE_KEY": values[PAGE_KEY],
            }
        links = _told(composed, name, "QKDRELAY_LINKS", values)
        own = {
            **common,
            "QKDRELAY_KME": name,
            "QKDRELAY_CONTROL_KEY": values[control_key_variable(name)],
            "QKDRELAY_LINKS": json.dumps({peer: {**link, **KEY_FOR_ALL} for peer, link in links.items()}),
        }
        if self.topology.sites:
            own["QKDRELAY_SITES"] = json.dumps(_told(composed, name, "QKDRELAY_SITES", values))
        return own


def _told(composed: str, service: str, variable: str, values: Mapping[str, str]) -> Any:
    """Return the object that a compose file gives a service in ``variable``."""
    text = composed.partition(f"\n  {service}:\n")[2].partition(f"{variable}: >-")[2].lstrip()
    filled = re.sub(r"\$\{([A-Z0-9_]+)[^}]*\}", lambda found: values.get(found[1], ""), text)
    return json.JSONDecoder().raw_decode(filled)[0]


def on_one_broker(folder: Path, topology: Topology) -> Provisioned:
    """Provision a network on one broker with TLS."""
    network = replace(topology, sites={}, coordinator="")
    (folder / _ONE).mkdir(parents=True)
    write_deployment(network, folder / _ONE, tls=True, environment=_chosen(_ONE))
    return _marked(Provisioned(folder, network, _ONE))


def in_sites(folder: Path, topology: Topology, sites: Mapping[str, Site] | None = None) -> Provisioned:
    """Provision it as ``sites`` of which the first leads; by default one for each KME."""
    placed = dict(sites or {kme: Site((kme,), rabbitmq.LOOPBACK, free_port()) for kme in topology.kmes})
    network = replace(topology, sites=placed, coordinator=next(iter(placed)))
    for site in placed:
        (folder / site).mkdir(parents=True)
        dotenv = "".join(f"{name}={value}\n" for name, value in _chosen(site).items())
        (folder / site / ".env").write_text(dotenv)
    write_sites(network, folder, environment={})
    return _marked(Provisioned(folder, network, "sites"))


def _chosen(place: str) -> dict[str, str]:
    """Return what a deployment on this machine, beside others, is called and publishes."""
    return {
        "RABBITMQ_IMAGE": rabbitmq.IMAGE,
        "COMPOSE_PROJECT_NAME": f"qkdrelay-bench-{secrets.token_hex(4)}-{place}",
        AMQP_PORTS[0]: str(free_port()),
        MANAGEMENT_PORT: str(free_port()),
    }


def _marked(network: Provisioned) -> Provisioned:
    for place in network.places:
        overlay = _OVERLAY_TEXT.format(mark=_MARK, side=network.side)
        (network.folder / place / _OVERLAY).write_text(overlay)
    return network


@contextmanager
def running(network: Provisioned) -> Iterator[Stack]:
    """Run the services of a network whose brokers are up."""
    services = Services(network.environments(), network.folder, ())
    try:
        for name in (*network.topology.kmes, COORDINATOR):
            services.start(name)
        key = bytes.fromhex(network.values(network.lead)[CLI_KEY])
        stack = Stack(network.client(), key, network.topology, services)
        stack.wait_until_heard()
        yield stack
        stack.close()
    finally:
        services.stop()
