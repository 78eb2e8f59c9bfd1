"""The real stack in containers: a broker, a container per KME and one for the coordinator, from the project's image."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pika

from qkdrelay.broker.definitions import definitions
from qkdrelay.broker.rabbitmq.client import RabbitMqClient
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.client import CoordinatorClient, relay_request
from qkdrelay.messages.requests import NetworkRequest, RelayRequest, RequestBody
from qkdrelay.network.names import CLI, SERVICE_USERS
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import load_topology
from qkdrelay_cli.__main__ import main
from support import rabbitmq
from support.waiting import eventually

IMAGE = os.environ.get("QKDRELAY_IMAGE", "qkdrelay:local")
ROOT = Path(__file__).parents[2]
TOPOLOGIES = ROOT / "infra" / "topologies"
STORE = "/var/lib/qkdrelay"
HTTP_PORT = 9464
UP_WITHIN_S = 90
ANSWER_WITHIN_S = 30


@dataclass(frozen=True)
class Answer:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.out, f"nothing on stdout (exit {self.code}): {self.err}"
        return json.loads(self.out)


@dataclass
class Stack:
    """A running network in containers."""

    topology: Topology
    server: rabbitmq.RabbitMqServer
    vhost: str
    passwords: dict[str, str] = field(repr=False)
    cli_key: str = field(repr=False)
    containers: dict[str, Any] = field(default_factory=dict)
    """Docker's own container objects, by service."""

    def coordinator(self, *arguments: str, timeout_s: float = 60, **environment: str) -> Answer:
        """Run the coordinator's command line on this machine, as a user does."""
        return command(
            "coordinator",
            *arguments,
            timeout_s=timeout_s,
            QKDRELAY_BROKER=self.server.addresses,
            QKDRELAY_BROKER_VHOST=self.vhost,
            QKDRELAY_CLI_PASSWORD=self.passwords["cli"],
            QKDRELAY_CLI_KEY=self.cli_key,
            **environment,
        )

    @contextmanager
    def talk(self) -> Iterator[Callable[[RequestBody], Any]]:
        """Give a function that asks the coordinator as its command line does, with no process for each question."""
        password, addresses = self.passwords[CLI], self.server.addresses
        settings = RabbitMqSettings(addresses=addresses, user=CLI, password=password, vhost=self.vhost)
        with RabbitMqClient(settings) as client:
            coordinator = CoordinatorClient(client, bytes.fromhex(self.cli_key))
            yield lambda body: coordinator.ask(body, object, ANSWER_WITHIN_S)

    def back(self, kmes: tuple[str, ...], since: float) -> bool:
        """Whether each of ``kmes`` has said hello after the time ``since`` (monotonic, in seconds)."""
        with self.talk() as ask:
            silent_s = {kme.name: kme.heard_s_ago for kme in ask(NetworkRequest()).kmes}
        ago = time.monotonic() - since
        return all(silent_s[kme] is not None and silent_s[kme] < ago for kme in kmes)

    def relay(self, *arguments: str, policy: str = "recursive") -> dict[str, Any]:
        """Relay and return the outcome, confirmed or failed."""
        answer = self.coordinator("relay", *arguments, "--policy", policy, "--json")
        assert answer.code in (0, 1), answer.err
        outcome: dict[str, Any] = answer.json()
        assert (outcome["state"] == "confirmed") == (answer.code == 0)
        return outcome

    def publish(self, user: str, exchange: str, routing_key: str, body: bytes) -> None:
        """Publish any bytes as ``user``, as one would who has its password."""
        credentials = pika.PlainCredentials(user, self.passwords[user])
        port = self.server.amqp_port
        parameters = pika.ConnectionParameters(self.server.host, port, self.vhost, credentials)
        with pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish(exchange, routing_key, body, mandatory=True)

    def all_keys(self, kme: str) -> list[dict[str, Any]]:
        """Return the keys at ``kme`` as the person there sees them, delivered ones with their bytes."""
        result = self.containers[kme].exec_run(["kme", "keys", "--json", "--limit", "20000", "--reveal"])
        assert result.exit_code == 0, result.output
        keys: list[dict[str, Any]] = json.loads(result.output)["keys"]
        return keys

    def keys(self, kme: str, relay_id: str) -> list[dict[str, Any]]:
        """Return those of one relay."""
        return [key for key in self.all_keys(kme) if key["relay_id"] == relay_id]

    def delivered(self, kme: str, relay_id: str) -> list[dict[str, Any]]:
        """Wait until ``kme`` has released a relay's keys, and return them with their bytes."""

        def there() -> list[dict[str, Any]]:
            keys = self.keys(kme, relay_id)
            return keys if keys and all(key["state"] == "delivered" for key in keys) else []

        return eventually(there, what=f"{kme} to release the keys of {relay_id}")

    def logs(self, service: str) -> list[dict[str, Any]]:
        """Return a service's log lines."""
        lines = self.containers[service].logs().decode().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def get(self, service: str, path: str) -> tuple[int, str]:
        """Ask a service over HTTP, from within its container as its health check does: status and body."""
        ask = f"exec 3<>/dev/tcp/127.0.0.1/{HTTP_PORT}; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        result = self.containers[service].exec_run(["bash", "-c", ask])
        assert result.exit_code == 0, result.output
        head, _, body = result.output.decode().partition("\r\n\r\n")
        return int(head.split()[1]), body

    def metrics(self, service: str) -> dict[str, float]:
        """Return a service's metrics: name with labels, value."""
        status, page = self.get(service, "/metrics")
        assert status == 200
        lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def heard(self) -> set[str]:
        """Return the KMEs the coordinator has heard of in the last seconds."""
        answer = self.coordinator("network", "--json")
        if answer.code == 3:
            return set()
        return {kme["name"] for kme in answer.json()["kmes"] if kme["heard_s_ago"] is not None}


def command(name: str, *arguments: str, timeout_s: float = 60, **environment: str) -> Answer:
    """Run one of the project's commands away from any .env file."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("QKDRELAY_")}
    result = subprocess.run(
        [str(Path(sys.executable).parent / name), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd="/",
        env={**inherited, **environment},
        check=False,
    )
    return Answer(result.returncode, result.stdout, result.stderr)


def asked(relay_id: UUID, source: str, target: str, policy: str, timeout_s: float) -> RelayRequest:
    """Ask for one key of 256 bits by this policy."""
    return relay_request(source, target, relay_id=relay_id, policy=policy, timeout_s=timeout_s)


def command_here(*arguments: str) -> Answer:
    """Run `coordinator` in this process: for what is asked often, and asks nobody else."""
    out, err = StringIO(), StringIO()
    with patch.object(sys, "argv", ["coordinator", *arguments]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            return Answer(int(ended.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("a command ends by exiting")


@contextmanager
def running(topology_name: str = "eight-kmes", *, lab: bool, disk: str | None = None) -> Iterator[Stack]:
    """Start everything, wait until all KMEs are heard, and take it down at the end.

    ``disk`` gives each service a disk of its own in memory, of that size, instead of a volume.
    """
    import docker  # noqa: PLC0415 - slow, and only these tests need it
    from testcontainers.core.network import Network  # noqa: PLC0415

    client = docker.from_env()
    path = TOPOLOGIES / f"{topology_name}.toml"
    topology = load_topology(path)
    with ExitStack() as cleanup:
        network = cleanup.enter_context(Network())
        server = cleanup.enter_context(rabbitmq.running(network=network))
        passwords = {user: secrets.token_hex(16) for user in (*topology.kmes, *SERVICE_USERS)}
        server.call("POST", "definitions", definitions(topology.kmes, topology.links, passwords, lab=lab))
        settings = environments(topology, passwords, lab=lab)
        stack = Stack(topology, server, "qkdrelay", passwords, settings["coordinator"]["QKDRELAY_CLI_KEY"])
        for service, environment in settings.items():
            container = _container(service, environment, path).with_network(network)
            if disk is None:
                volume = client.volumes.create()
                cleanup.callback(volume.remove, force=True)
                container.with_volume_mapping(volume.name, STORE, "rw")
            else:
                container.tmpfs[STORE] = f"size={disk},mode=0700,uid=10001,gid=10001"
            cleanup.enter_context(container)
            stack.containers[service] = container.get_wrapped_container()
        eventually(lambda: stack.heard() == set(topology.kmes), timeout_s=UP_WITHIN_S, what="all KMEs to be heard")
        yield stack


def _container(service: str, environment: dict[str, str], topology: Path) -> Any:
    """Return a container as the compose file would run it."""
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415

    container = DockerContainer(IMAGE)
    container.with_command(["coordinator", "serve"] if service == "coordinator" else ["kme", "run"])
    container.with_envs(**environment)
    container.with_volume_mapping(str(topology), "/etc/qkdrelay/topology.toml", "ro")
    container.tmpfs["/tmp"] = "size=16m"
    return container.with_kwargs(read_only=True, cap_drop=["ALL"])


def environments(topology: Topology, passwords: dict[str, str], *, lab: bool) -> dict[str, dict[str, str]]:
    """Return each service's settings; a KME gets its own secrets only."""
    control = {kme: secrets.token_hex(32) for kme in topology.kmes}
    link = {frozenset(pair): secrets.token_hex(32) for pair in topology.links}
    common = {
        "QKDRELAY_BROKER": "rabbitmq:5672",
        "QKDRELAY_LAB": str(lab).lower(),
        "QKDRELAY_LOG_FORMAT": "json",
        "QKDRELAY_HTTP": f"0.0.0.0:{HTTP_PORT}",
    }
    environments = {
        kme: {
            **common,
            "QKDRELAY_KME": kme,
            "QKDRELAY_BROKER_PASSWORD": passwords[kme],
            "QKDRELAY_STORE": f"{STORE}/kme.sqlite",
            "QKDRELAY_CONTROL_KEY": control[kme],
            "QKDRELAY_LINKS": json.dumps(
                {
                    peer: {"secret": link[frozenset((kme, peer))], **topology.note(kme, peer).settings(kme, peer)}
                    for peer in topology.neighbours[kme]
                }
            ),
        }
        for kme in topology.kmes
    }
    environments["coordinator"] = {
        **common,
        "QKDRELAY_BROKER_PASSWORD": passwords["coordinator"],
        "QKDRELAY_STORE": f"{STORE}/coordinator.sqlite",
        "QKDRELAY_TOPOLOGY": "/etc/qkdrelay/topology.toml",
        "QKDRELAY_CONTROL_KEYS": json.dumps(control),
        "QKDRELAY_CLI_KEY": secrets.token_hex(32),
    }
    return environments
