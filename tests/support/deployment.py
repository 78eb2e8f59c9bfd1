"""A network as users bring it up, by the project's own script, in a folder of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import rabbitmq, stack
from support.ports import free_port, free_ports

PORTS = 16
"""As many as the largest network that tests bring up has KMEs, and more."""
_IN_DOTENV = ("_IMAGE", "_PORT")


@dataclass(frozen=True)
class Deployment:
    """A network that was brought up in ``folder``."""

    folder: Path
    environment: dict[str, str]

    def run(self, *arguments: str, timeout_s: float = 120) -> stack.Answer:
        result = subprocess.run(
            arguments,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return stack.Answer(result.returncode, result.stdout, result.stderr)

    def up(self, topology: str, *switches: str) -> None:
        up = self.run("infra/docker/up.sh", sys.executable, topology, *switches, timeout_s=300)
        assert up.code == 0, up.err

    def compose(self, *arguments: str) -> stack.Answer:
        return self.run("infra/docker/compose.sh", *arguments)

    def coordinator(self, *arguments: str) -> stack.Answer:
        """Run the command line as the documents say: where .env is, with nothing else set."""
        return self.run(str(Path(sys.executable).parent / "coordinator"), *arguments)


@contextmanager
def brought_up(
    folder: Path, topology: str, *switches: str, broker: str = rabbitmq.IMAGE, **settings: str
) -> Iterator[Deployment]:
    """Bring a network up in a folder of its own, so that one that the developer has up stays as it is.

    ``settings`` are variables of the environment.
    """
    rabbitmq.require_containers(stack.IMAGE)
    shutil.copytree(stack.ROOT / "infra", folder / "infra")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QKDRELAY_")}
    environment |= {k: v for k, v in os.environ.items() if k.startswith("QKDRELAY_DOCKER_")}
    environment |= {
        "COMPOSE_PROJECT_NAME": f"qkdrelay-test-{secrets.token_hex(4)}",
        "QKDRELAY_IMAGE": stack.IMAGE,
        "RABBITMQ_IMAGE": broker,
        "QKDRELAY_AMQP_PORT": str(free_port()),
        "QKDRELAY_MANAGEMENT_PORT": str(free_port()),
        "QKDRELAY_PAGE_PORT": str(free_port()),
        "QKDRELAY_ETSI014_PORT": str(free_ports(PORTS)),
        **settings,
    }
    running = Deployment(folder, environment)
    try:
        running.up(topology, *switches)
        # The command line must find everything in .env.
        for name in [name for name in environment if name.startswith("QKDRELAY_") and name.endswith(_IN_DOTENV)]:
            del environment[name]
        yield running
    finally:
        running.run("infra/docker/remove.sh", "--volumes")
