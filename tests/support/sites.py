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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pika

from qkdrelay.broker.names import VHOST
from qkdrelay.broker.rabbitmq.tls import client_context
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
TLS = Path("deploy/tls")
"""In a bundle."""


@dataclass
class Bundles:
    """The bundles of a network's sites, in a folder each below ``folder``."""

    folder: Path
    topology: Topology
    """Of which the sites are, as a rule; a test may move one."""
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
        """Start these sites, or all, at once."""
        with ThreadPoolExecutor() as at_once:
            for started in at_once.map(lambda site: self.compose(site, "up", "-d"), sites or self.topology.sites):
                assert started.code == 0, started.err

    def shell(self, site: str, line: str) -> stack.Answer:
        """Run a line in the folder of a site, with compose in whichever of its forms is there."""
        answer = self._run(self.folder / site, "sh", "-c", line.replace("docker compose", " ".join(_compose())))
        assert answer.code == 0, (line, answer.err)
        return answer

    def moves(self, site: str) -> None:
        """Have a site's bundle be one of its own among others on this machine, whatever it was before."""
        _choose(self.folder / site / ".env", site, anew=True)

    def lose(self, *sites: str) -> None:
        """Have the brokers of these sites, or of all, begin again with their definitions, and nothing else."""
        for site in sites or self.topology.sites:
            project = dotenv_file.read(self.folder / site / ".env")["COMPOSE_PROJECT_NAME"]
            assert self.compose(site, "rm", "-s", "-f", "rabbitmq").code == 0
            assert self._run(self.folder, "docker", "volume", "rm", f"{project}_rabbitmq").code == 0

    def rabbitmqctl(self, site: str, *arguments: str) -> str:
        """Run it at a site's broker; return what it says."""
        told = self.compose(site, "exec", "-T", "rabbitmq", "rabbitmqctl", "--quiet", *arguments)
        assert told.code == 0, told.err
        return told.out

    def waiting(self, site: str) -> dict[str, int]:
        """Return how many messages are in each queue at a site."""
        listed = self.rabbitmqctl(site, "-p", VHOST, "list_queues", "--no-table-headers", "name", "messages")
        return {name: int(messages) for name, messages in map(str.split, listed.splitlines())}

    def log(self, site: str, *services: str) -> list[dict[str, Any]]:
        """Return what services of a site have logged, their latest containers; all of them are in JSON."""
        written = self.compose(site, "logs", "--no-color", *services).out
        lines = (line.partition("| ")[2] for line in written.splitlines())
        return [json.loads(line) for line in lines if line.startswith("{")]

    def down(self, *sites: str) -> None:
        """Stop these sites, or all, and delete what they keep."""
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(lambda site: self.compose(site, "down", "-v", "-t", "1"), sites or self.topology.sites))

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
        return self._http(site, service, "/readyz").strip().rpartition("\n")[2]

    def metrics(self, site: str, service: str) -> str:
        """Return a service's metrics."""
        return self._http(site, service, "/metrics")

    def _http(self, site: str, service: str, path: str) -> str:
        ask = f"exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        return self.compose(site, "exec", "-T", service, "bash", "-c", ask).out

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


def _choose(dotenv: Path, site: str, *, anew: bool = False) -> None:
    """Say in a bundle's ``.env``, if it does not yet, what it is called and publishes among others on this machine."""
    said = dotenv_file.read(dotenv)
    if anew or not said["COMPOSE_PROJECT_NAME"].startswith(_PROJECT):
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
    return json.loads(answer.out) if answer.code == 0 else {"kmes": [], "sites": [], "links": []}


def until_whole(network: Bundles, kmes: Collection[str] = ()) -> None:
    """Wait until all KMEs are heard, or these, and all sites are read."""

    def is_whole() -> bool:
        found = shown(network)
        heard = {kme["name"] for kme in found["kmes"] if (kme["heard_s_ago"] or 99) < 30}
        return heard == set(kmes or network.topology.kmes) and not away(found)

    eventually(is_whole, timeout_s=180, what="all KMEs to be heard, and all sites to be read")


def ask(network: Bundles, source: str, target: str, *told: str) -> str:
    """Ask for a relay, and do not wait for it; return its id."""
    more = ("--allow-unprotected", "--no-wait", "--json")
    return str(network.coordinator("relay", source, target, *told, *more).json()["relay_id"])


def relays_of(network: Bundles, relays: list[str]) -> dict[str, Any]:
    """Return these relays as they are listed."""
    listed = network.coordinator("relays", "--limit", "1000", "--json").json()["relays"]
    return {relay["relay_id"]: relay for relay in listed if relay["relay_id"] in relays}


def states(network: Bundles, relays: list[str]) -> dict[str, str]:
    return {relay_id: relay["state"] for relay_id, relay in relays_of(network, relays).items()}


def until_confirmed(network: Bundles, relays: list[str], timeout_s: float = 180) -> None:
    eventually(
        lambda: states(network, relays) == dict.fromkeys(relays, "confirmed"),
        timeout_s=timeout_s,
        what="all to be confirmed",
    )


def released(network: Bundles, kme: str, relays: list[str]) -> dict[str, list[str]]:
    """Return the keys that a KME has released, by relay."""
    site = network.topology.site_of[kme]
    listed = json.loads(network.compose(site, "exec", "-T", kme, "kme", "keys", "--reveal", "--json").out)["keys"]
    found: dict[str, list[str]] = {}
    for key in listed:
        if key["relay_id"] in relays and "key" in key:
            found.setdefault(key["relay_id"], []).append(key["key"])
    return found


def connect(network: Bundles, site: str, certificates: Path, credentials: Any) -> pika.BlockingConnection:
    """Connect to a site's broker as somebody of another site, with these certificates."""
    at = network.topology.sites[site]
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            at.host,
            at.port,
            VHOST,
            credentials,
            ssl_options=pika.SSLOptions(client_context(certificates), at.host),
            connection_attempts=1,
        )
    )


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
