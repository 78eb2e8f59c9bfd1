"""Sites as their operators bring them up: a bundle each, from its own folder alone, on one machine."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from qkdrelay.network.sites import Site
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import format_topology
from qkdrelay.service import dotenv_file
from support import rabbitmq, stack

_PORTS = ("QKDRELAY_AMQP_PORT", "QKDRELAY_MANAGEMENT_PORT", "QKDRELAY_PAGE_PORT", "QKDRELAY_ETSI014_PORT")


@dataclass(frozen=True)
class Bundles:
    """The bundles of a network's sites, in a folder each below ``folder``."""

    folder: Path
    topology: Topology
    environment: dict[str, str]

    def provision(self, topology: Topology | None = None, *switches: str) -> None:
        """Write the bundles, of another topology if one is given."""
        file = self.folder / "network.toml"
        file.write_text(format_topology(topology or self.topology))
        command = [Path(sys.executable).parent / "coordinator", "provision", file, "--sites", "--out", self.folder]
        made = self._run(self.folder, *map(str, command), *switches)
        assert made.code == 0, made.err
        for site in (topology or self.topology).sites:
            dotenv = self.folder / site / ".env"
            if "COMPOSE_PROJECT_NAME=qkdrelay-test" not in dotenv.read_text():
                chosen = {name: str(rabbitmq.free_port()) for name in _PORTS}
                chosen["COMPOSE_PROJECT_NAME"] = f"qkdrelay-test-{secrets.token_hex(4)}-{site}"
                said = dotenv_file.read(dotenv)
                dotenv.write_text("".join(f"{name}={value}\n" for name, value in {**said, **chosen}.items()))

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

    def ready(self, site: str, service: str) -> str:
        """Return what a service says of its readiness: ``ok``, a remark perhaps, or why not; empty if it is away."""
        ask = "exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3 | tail -n 1"
        return self.compose(site, "exec", "-T", service, "bash", "-c", ask).out.strip()

    def _run(self, folder: Path, *arguments: str, timeout_s: float = 120) -> stack.Answer:
        result = subprocess.run(
            arguments,
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return stack.Answer(result.returncode, result.stdout, result.stderr)


@contextmanager
def bundles(folder: Path, topology: Topology, sites: dict[str, Sequence[str]], *switches: str) -> Iterator[Bundles]:
    """Provision the bundles of a network of these sites, the first with the coordinator; take all down at the end.

    Their brokers meet at an address of this machine that containers reach.
    """
    import docker  # noqa: PLC0415 - slow, and only these tests need it

    rabbitmq.require_containers(stack.IMAGE)
    client = docker.from_env()
    meeting = client.networks.create(f"qkdrelay-test-{secrets.token_hex(4)}")
    meeting.reload()
    address = meeting.attrs["IPAM"]["Config"][0]["Gateway"]
    placed = {name: Site(tuple(kmes), address, rabbitmq.free_port()) for name, kmes in sites.items()}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("QKDRELAY_", "COMPOSE_"))}
    environment |= {"QKDRELAY_IMAGE": stack.IMAGE, "RABBITMQ_IMAGE": rabbitmq.IMAGE}
    network = replace(topology, sites=placed, coordinator=next(iter(placed)))
    made = Bundles(folder, network, environment)
    try:
        made.provision(None, *switches)
        # What a bundle is started with is in its own .env.
        for name in ("QKDRELAY_IMAGE", "RABBITMQ_IMAGE"):
            del environment[name]
        yield made
    finally:
        made.down()
        meeting.remove()


def _compose() -> tuple[str, ...]:
    """Return compose in whichever of its forms is there."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return "docker", "compose"
    found = shutil.which("docker-compose")
    assert found, "neither 'docker compose' nor docker-compose is there"
    return (found,)
