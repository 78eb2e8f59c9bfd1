"""The real stack with plain processes: a broker in a container, a process per KME and one for the coordinator.

A process is back half a second after a kill, a container takes several times that.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pika

from qkdrelay.broker.definitions import definitions
from qkdrelay.broker.names import VHOST
from qkdrelay.broker.rabbitmq.client import RabbitMqClient
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.errors import BrokerUnreachableError
from qkdrelay.messages.answers import Late, Refusal, RelayView, ReplyBody
from qkdrelay.messages.dialogue import Asker
from qkdrelay.messages.network_answers import NetworkView
from qkdrelay.messages.requests import NetworkRequest, RequestBody
from qkdrelay.messages.requests import ShowRequest as Show
from qkdrelay.network.names import CLI, COORDINATOR, OPERATOR, SERVICE_USERS
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import load_topology
from support import rabbitmq, recorder, stack
from support.waiting import eventually

BIN = Path(sys.executable).parent
UP_WITHIN_S = 60.0
STOPPED_WITHIN_S = 30.0
"""Far above what a service needs to stop, so that a busy machine is no failure."""
ANSWER_S = 10.0


@dataclass
class Processes:
    """A running network; services and the broker can be killed and started at any moment."""

    topology: Topology
    server: rabbitmq.RabbitMqServer
    folder: Path
    passwords: dict[str, str] = field(repr=False)
    environments: dict[str, dict[str, str]] = field(repr=False)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    vhost: str = VHOST
    _said_before: dict[str, int] = field(default_factory=dict)
    """Bytes of each log at the service's last start."""

    @property
    def services(self) -> list[str]:
        """Every KME, and the coordinator."""
        return sorted(self.environments)

    def start(self, name: str) -> None:
        """Start a service from what is on its disk; its log is continued."""
        arguments = ["coordinator", "serve"] if name == COORDINATOR else ["kme", "run"]
        with self.log(name).open("ab") as log:
            self._said_before[name] = log.tell()
            self.running[name] = subprocess.Popen(
                [str(BIN / arguments[0]), *arguments[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment(name),
            )

    def await_started(self, name: str) -> None:
        """Wait until a service has said something since its last start: from then on it runs."""
        said = self._said_before[name]
        eventually(lambda: self.log(name).stat().st_size > said, timeout_s=UP_WITHIN_S, what=f"{name} to run")

    def kill(self, name: str) -> None:
        """End a service with SIGKILL."""
        process = self.running.pop(name)
        assert process.poll() is None, f"{name} ended by itself with {process.returncode}; see {self.log(name)}"
        process.kill()
        process.wait()

    def stop(self, name: str) -> int:
        """End a service with SIGTERM and return its exit status."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(STOPPED_WITHIN_S)

    def log(self, name: str) -> Path:
        """Return the file with everything a service has printed."""
        return self.folder / f"{name}.log"

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return a service's log lines."""
        lines = self.log(name).read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def store(self, name: str) -> Path:
        """Return where a service has its store."""
        return Path(self.environments[name]["QKDRELAY_STORE"])

    def keys(self, kme: str) -> list[dict[str, Any]]:
        """Return the keys at ``kme`` as the person there sees them, delivered ones with their bytes."""
        answer = stack.command("kme", "keys", "--json", "--reveal", "--limit", "100000", **self.environments[kme])
        assert answer.code == 0, answer.err
        keys: list[dict[str, Any]] = answer.json()["keys"]
        return keys

    def client(self) -> RabbitMqClient:
        """Return a connection as the command line has one."""
        return RabbitMqClient(
            RabbitMqSettings(addresses=self.server.addresses, vhost=self.vhost, user=CLI, password=self.passwords[CLI])
        )

    def recorders(self, ledger: recorder.Ledger) -> list[recorder.Recorder]:
        """Record into a ledger, from now on, what goes over QKD links."""
        operator = pika.PlainCredentials(OPERATOR, self.passwords[OPERATOR])
        way = pika.ConnectionParameters(self.server.host, self.server.amqp_port, self.vhost, operator)
        return [recorder.Recorder(way, ledger)]

    @property
    def cli_key(self) -> bytes:
        """What the command line signs with."""
        return bytes.fromhex(self.environments[COORDINATOR]["QKDRELAY_CLI_KEY"])

    def heard(self) -> set[str]:
        """Return the KMEs the coordinator has heard of since it started."""
        try:
            with self.client() as client:
                view = ask(client, self.cli_key, NetworkRequest())
        except BrokerUnreachableError:
            return set()
        assert view is None or isinstance(view, NetworkView)
        return {kme.name for kme in view.kmes if kme.heard_s_ago is not None} if view else set()

    def _environment(self, name: str) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("QKDRELAY_")}
        return {**inherited, **self.environments[name]}


def ask(client: RabbitMqClient, key: bytes, body: RequestBody) -> ReplyBody | None:
    """Return the coordinator's answer; None if there is none within `ANSWER_S`."""
    asker = Asker(key, client.address)
    request, signed = asker.request(body)
    client.send(signed)
    while (message := client.receive(ANSWER_S)) is not None:
        reply = asker.answer(message[2], {request.request_id})
        if reply is not None and isinstance(reply.body, Late):
            client.send(asker.request(body, request.request_id)[1])
        elif reply is not None:
            return reply.body
    return None


def show(client: RabbitMqClient, key: bytes, relay_id: object) -> RelayView | Refusal | None:
    """Return a relay as the coordinator knows it, its refusal, or None for no answer."""
    answer = ask(client, key, Show(relay=str(relay_id), follow=False))
    assert answer is None or isinstance(answer, RelayView | Refusal)
    return answer


@contextmanager
def running(
    folder: Path,
    topology_name: str = "eight-kmes",
    *,
    only: set[str] | None = None,
    more: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Processes]:
    """Start everything in ``folder``, wait until all KMEs are heard, and end it all afterwards.

    ``only`` starts these services and waits for nothing; ``more`` are further settings, by service.
    """
    path = stack.TOPOLOGIES / f"{topology_name}.toml"
    topology = load_topology(path)
    passwords = {user: secrets.token_hex(16) for user in (*topology.kmes, *SERVICE_USERS)}
    with rabbitmq.running() as server:
        document = definitions(topology.kmes, topology.links, passwords)
        server.call("POST", "definitions", recorder.with_recording(document, topology.links))
        environments = {
            name: {
                **environment,
                "QKDRELAY_BROKER": server.addresses,
                "QKDRELAY_STORE": str(folder / name / "store.sqlite"),
                **({"QKDRELAY_TOPOLOGY": str(path)} if name == COORDINATOR else {}),
                **(more or {}).get(name, {}),
            }
            for name, environment in stack.environments(topology, passwords, lab=False).items()
        }
        for environment in environments.values():
            del environment["QKDRELAY_HTTP"]  # they would all have the same port
        network = Processes(topology, server, folder, passwords, environments)
        try:
            for name in network.services if only is None else only:
                network.start(name)
            if only is None:
                all_heard = lambda: network.heard() == set(topology.kmes)  # noqa: E731
                eventually(all_heard, timeout_s=UP_WITHIN_S, what="all KMEs to be heard")
            yield network
        finally:
            for process in network.running.values():
                process.kill()
                process.wait()
