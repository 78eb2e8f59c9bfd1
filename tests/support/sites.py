"""Sites as their operators bring them up: a bundle each, from its own folder alone, on one machine."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qkdrelay.network.sites import Site
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import format_topology
from qkdrelay.service import dotenv_file
from support import rabbitmq, stack
from support.ports import free_port, free_ports
from support.proxy import DistantProxy, Proxy
from support.recorder import with_recording
from support.saes import Sae
from support.waiting import eventually

_PORTS = ("QKDRELAY_AMQP_PORT", "QKDRELAY_MANAGEMENT_PORT", "QKDRELAY_PAGE_PORT")
_PROJECT = "qkdrelay-test-"


@dataclass(frozen=True)
class Bundles:
    """The bundles of a network's sites, in a folder each below ``folder``."""

    folder: Path
    topology: Topology
    environment: dict[str, str]
    proxies: dict[str, Proxy] = field(default_factory=dict)
    """The others' way to each site's broker, where there is such a thing."""
    is_recorded: bool = False
    """Whether what is published to QKD links is recorded at each broker."""

    def provision(self, topology: Topology | None = None, *switches: str) -> None:
        """Write the bundles, of another topology if one is given; each has ports of its own on this machine."""
        network = topology or self.topology
        file = self.folder / "network.toml"
        file.write_text(format_topology(network))
        command = [Path(sys.executable).parent / "coordinator", "provision", file, "--sites", "--out", self.folder]
        for _ in ("as for a machine of its own", "and with what was chosen"):
            images = {"QKDRELAY_IMAGE": stack.IMAGE, "RABBITMQ_IMAGE": rabbitmq.IMAGE}
            made = self._run(self.folder, *map(str, command), *switches, **images)
            assert made.code == 0, made.err
            for site in network.sites:
                _choose(self.folder / site / ".env", site)
                if self.is_recorded:
                    definitions = self.folder / site / "deploy" / "definitions.json"
                    recorded = with_recording(json.loads(definitions.read_text()), network.links)
                    definitions.write_text(json.dumps(recorded))

    def compose(self, site: str, *arguments: str, timeout_s: float = 300) -> stack.Answer:
        """Run compose in the folder of a site, as its README says."""
        return self._run(self.folder / site, *_compose(), *arguments, timeout_s=timeout_s)

    def up(self, *sites: str) -> None:
        """Start these sites, or all."""
        for site in sites or self.topology.sites:
            started = self.compose(site, "up", "-d")
            assert started.code == 0, started.err

    def down(self, *sites: str) -> None:
        """Stop these sites, or all, and delete what they keep."""
        for site in sites or self.topology.sites:
            self.compose(site, "down", "--volumes", "--timeout", "1")

    def coordinator(self, *arguments: str) -> stack.Answer:
        """Run the coordinator's command line at its site."""
        return self.compose(self.topology.coordinator, "exec", "-T", "coordinator", "coordinator", *arguments)

    def cli(self, site: str, *arguments: str) -> stack.Answer:
        """Run the command line at a site, as its README says."""
        return self.compose(site, "run", "--rm", "-T", "cli", *arguments)

    def application(self, sae: str) -> Sae:
        """Return an SAE's client, by what the bundle of its KME's site says of it."""
        folder = self.folder / self.topology.site_of[self.topology.saes[sae]]
        where = json.loads((folder / "deploy" / "saes.json").read_text())[sae]
        context = ssl.create_default_context(cafile=folder / where["ca"])
        context.load_cert_chain(folder / where["cert"], folder / where["key"])
        return Sae(int(where["url"].rpartition(":")[2]), context)

    def ready(self, site: str, service: str) -> str:
        """Return what a service says of its readiness: ``ok``, a remark perhaps, or why not; empty if it is away."""
        ask = "exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3 | tail -n 1"
        return self.compose(site, "exec", "-T", service, "bash", "-c", ask).out.strip()

    def tidy(self, site: str) -> str:
        """Take from a site's broker what is no longer of the network; return what was said."""
        tidied = self._run(self.folder / site, "sh", "deploy/tidy.sh")
        assert tidied.code == 0, tidied.err
        return tidied.out

    def _run(self, folder: Path, *arguments: str, timeout_s: float = 120, **environment: str) -> stack.Answer:
        result = subprocess.run(
            arguments,
            cwd=folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return stack.Answer(result.returncode, result.stdout, result.stderr)


def _choose(dotenv: Path, site: str) -> None:
    """Say in a bundle's ``.env``, if it does not yet, what it is called and publishes among others on this machine."""
    said = dotenv_file.read(dotenv)
    if not said["COMPOSE_PROJECT_NAME"].startswith(_PROJECT):
        said |= {name: str(free_port()) for name in _PORTS}
        said["QKDRELAY_ETSI014_PORT"] = str(free_ports(len(said)))
        said["COMPOSE_PROJECT_NAME"] = f"{_PROJECT}{secrets.token_hex(4)}-{site}"
        dotenv.write_text("".join(f"{name}={value}\n" for name, value in said.items()))


@contextmanager
def bundles(
    folder: Path,
    topology: Topology,
    sites: dict[str, Sequence[str]],
    *switches: str,
    round_trip_s: float = 0.0,
    loss: float = 0.0,
    is_for_chaos: bool = False,
) -> Iterator[Bundles]:
    """Provision the bundles of a network of these sites, the first with the coordinator; take all down at the end.

    Their brokers meet at an address of this machine that containers reach; as if ``round_trip_s`` away, where that is
    given, with such a part of all packets to them lost. For chaos what goes over QKD links is recorded, and proxies can
    cut sites off.
    """
    import docker  # noqa: PLC0415 - slow, and only these tests need it

    rabbitmq.require_containers(stack.IMAGE)
    client = docker.from_env()
    meeting = client.networks.create(f"{_PROJECT}{secrets.token_hex(4)}")
    meeting.reload()
    address = meeting.attrs["IPAM"]["Config"][0]["Gateway"]
    placed = {name: Site(tuple(kmes), address, free_port()) for name, kmes in sites.items()}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("QKDRELAY_", "COMPOSE_"))}
    network = replace(topology, sites=placed, coordinator=next(iter(placed)))
    made = Bundles(folder, network, environment, is_recorded=is_for_chaos)
    closing = ExitStack()
    try:
        made.provision(None, *switches)
        for name, site in placed.items() if round_trip_s or is_for_chaos else ():
            there = _published_elsewhere(folder / name / ".env", site)
            if round_trip_s:
                proxy = DistantProxy((site.host, site.port), there, round_trip_s / 2)
                closing.callback(proxy.close)
                closing.enter_context(_losing(site.port, loss))
            else:
                made.proxies[name] = closing.enter_context(Proxy(there, (site.host, site.port)))
        yield made
    finally:
        made.down()
        closing.close()
        meeting.remove()


def _published_elsewhere(dotenv: Path, site: Site) -> tuple[str, int]:
    """Have a site's broker publish its port at another one, and return that: a proxy takes its place."""
    port = free_port()
    dotenv.write_text(f"{dotenv.read_text()}QKDRELAY_AMQPS_PORT={port}\n")
    return site.host, port


@contextmanager
def _losing(port: int, loss: float) -> Iterator[None]:
    """Lose such a part of the packets to a port."""
    rule = f"INPUT -p tcp --dport {port} -m statistic --mode random --probability {loss} -j DROP".split()
    subprocess.run(["iptables", "--wait", "-I", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run(["iptables", "--wait", "-D", *rule], check=True)


def shown(network: Bundles) -> Any:
    answer = network.coordinator("network", "--json")
    return json.loads(answer.out) if answer.code == 0 else {"kmes": [], "sites": []}


def until_whole(network: Bundles, kmes: Collection[str] = ()) -> None:
    """Wait until all KMEs are heard, or these, and all sites are read."""

    def is_whole() -> bool:
        found = shown(network)
        heard = {kme["name"] for kme in found["kmes"] if (kme["heard_s_ago"] or 99) < 30}
        return heard == set(kmes or network.topology.kmes) and not away(found)

    eventually(is_whole, timeout_s=180, what="all KMEs to be heard, and all sites to be read")


def away(found: Any) -> dict[str, list[str]]:
    """Who cannot read at which site."""
    return {site["name"]: site["away_from"] for site in found["sites"] if site["away_from"]}


def _compose() -> tuple[str, ...]:
    """Return compose in whichever of its forms is there."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return "docker", "compose"
    found = shutil.which("docker-compose")
    assert found, "neither 'docker compose' nor docker-compose is there"
    return (found,)
