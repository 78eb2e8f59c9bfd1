"""The full stack: `kme run` for each KME and `coordinator serve` as plain processes, and a client of theirs."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid4

import pika

from bench.peer import Peer
from qkdrelay.broker.names import REPLIES_EXCHANGE, REQUESTS_KEY, client_exchange
from qkdrelay.client import relay_request
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.answers import RelaySummary
from qkdrelay.messages.dialogue import Asker
from qkdrelay.messages.network_answers import NetworkView
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import NetworkRequest, RelayRequest, RequestBody
from qkdrelay.network.names import CLI, COORDINATOR, PAGE, client_queue_prefix
from qkdrelay.network.topology import Topology

ROOT = Path(__file__).parents[1]
UP_WITHIN_S = 60.0
RELAYS_WITHIN_S = 120.0
KEY_FOR_ALL = {"rate_bps": 10**12, "buffer_bytes": 1 << 34}
"""Most parts ask what the software can do, not what a QKD link can."""


_COMMANDS = {COORDINATOR: ("qkdrelay_cli", "serve"), PAGE: ("qkdrelay_cli", "page")}


class Stack:
    """A running network, seen from a command line's place."""

    def __init__(
        self, parameters: pika.ConnectionParameters, key: bytes, topology: Topology, services: Services
    ) -> None:
        self.services = services
        self._topology = topology
        self._address = f"{client_queue_prefix(CLI)}{uuid4()}"
        self._asker = Asker(key, self._address)
        self._asked: set[UUID] = set()
        self._changed = threading.Condition()
        self._begun: dict[UUID, float] = {}
        self._ended: dict[UUID, float] = {}
        self._heard: set[str] = set()
        self._peer = Peer(parameters, [], lambda _peer, _queue, body: self._take(body))
        self._peer.on_ready = lambda: self._peer.declare_own_queue(self._address, REPLIES_EXCHANGE)
        self._thread = threading.Thread(target=self._peer.run, daemon=True)
        self._thread.start()

    def relay(self, relays: int, per_second: float | None = None, *, key_count: int = 1) -> list[tuple[float, float]]:
        """Ask for ``relays`` relays, all at once or so many per second; return (asked, confirmed) of each."""
        first = time.monotonic()
        ids = [new_relay_id() for _ in range(relays)]
        for number, relay_id in enumerate(ids):
            if per_second is not None:
                time.sleep(max(0.0, first + number / per_second - time.monotonic()))
            self._begun[relay_id] = time.monotonic()
            self._ask(_request(relay_id, self._topology, key_count))
        with self._changed:
            if not self._changed.wait_for(lambda: all(i in self._ended for i in ids), RELAYS_WITHIN_S):
                raise RuntimeError(f"{sum(i not in self._ended for i in ids)} relays are not decided yet")
        return [(self._begun.pop(i), self._ended.pop(i)) for i in ids]

    def wait_until_heard(self) -> None:
        """Wait until the coordinator has heard of every KME."""
        deadline = time.monotonic() + UP_WITHIN_S
        while self._heard != set(self._topology.kmes):
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {sorted(self._heard)} are up; see the logs")
            self._ask(NetworkRequest())
            with self._changed:
                self._changed.wait(0.5)

    def close(self) -> None:
        """Leave the broker."""
        self._peer.loop.add_callback_threadsafe(self._peer.loop.stop)
        self._thread.join(10)

    def _ask(self, body: RequestBody) -> None:
        request, signed = self._asker.request(body)
        self._asked.add(request.request_id)
        self._peer.loop.add_callback_threadsafe(lambda: self._peer.publish(client_exchange(CLI), REQUESTS_KEY, signed))

    def _take(self, data: bytes) -> None:
        at = time.monotonic()
        try:
            reply = self._asker.answer(data, self._asked)
        except QkdRelayError as error:
            raise RuntimeError(f"the coordinator's answer cannot be read: {error}") from error
        if reply is None:
            return
        body = reply.body
        with self._changed:
            match body:
                case RelaySummary(state="confirmed"):
                    self._ended.setdefault(body.relay_id, at)
                case RelaySummary():
                    raise RuntimeError(f"a relay failed: {body.reason}")
                case NetworkView(kmes=kmes):
                    self._heard = {kme.name for kme in kmes if kme.heard_s_ago is not None}
            self._changed.notify()


def _request(relay_id: UUID, topology: Topology, key_count: int) -> RelayRequest:
    wishes = {"relay_id": relay_id, "key_count": key_count, "timeout_s": 300.0, "policy": "recursive", "follow": False}
    return relay_request(topology.kmes[0], topology.kmes[-1], **wishes)


class Services:
    """The services' processes."""

    def __init__(self, environments: Mapping[str, Mapping[str, str]], folder: Path, profiled: Collection[str]) -> None:
        self._environments, self._folder, self._profiled = environments, folder, profiled
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> int:
        """Start a service; return its process's id."""
        command = ["-m", *_COMMANDS.get(name, ("kme", "run"))]
        if name in self._profiled:
            command = ["-m", "bench.profiled", str(self._folder / f"{name}.prof"), *command[1:]]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("QKDRELAY_")}
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=log,
                stderr=log,
                env={
                    **inherited,
                    "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "shared", "services")),
                    **self._environments[name],
                },
                cwd=self._folder,
            )
        self._processes[name] = process
        return process.pid

    def process_id(self, name: str) -> int:
        """Return the id of a service's process."""
        return self._processes[name].pid

    def stop(self, *names: str) -> None:
        """Stop services, all of them by default, and wait until they have ended."""
        processes = [self._processes.pop(name) for name in names or tuple(self._processes)]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(20)


@contextmanager
def running(
    host: Any,
    topology: Topology,
    path: Path,
    folder: Path,
    *,
    profiled: Collection[str] = (),
    more: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    page: int | None = None,
    buffer_bytes: int | None = None,
) -> Iterator[Stack]:
    """Run the services on a virtual host, with stores and logs in ``folder``; ``path`` is the topology's file.

    Those in ``profiled`` are (`bench.profiled`); ``more`` has further settings of some; ``page`` is the port of the
    page, if it is to be served. With ``buffer_bytes`` links have the rates that the topology notes, and such buffers;
    else more key than can be used up.
    """
    environments = _environments(host, topology, path, folder, buffer_bytes)
    if page is not None:
        environments[PAGE] = {
            **{name: value for name, value in environments[COORDINATOR].items() if "STORE" not in name},
            "QKDRELAY_BROKER_PASSWORD": host.passwords[PAGE],
            "QKDRELAY_PAGE": f"127.0.0.1:{page}",
        }
    services = Services({name: {**own, **more.get(name, {})} for name, own in environments.items()}, folder, profiled)
    try:
        for name in environments:
            services.start(name)
        credentials = pika.PlainCredentials(CLI, host.passwords[CLI])
        broker = pika.ConnectionParameters(host.server.host, host.server.amqp_port, host.vhost, credentials)
        key = bytes.fromhex(environments["coordinator"]["QKDRELAY_CLI_KEY"])
        stack = Stack(broker, key, topology, services)
        stack.wait_until_heard()
        yield stack
        stack.close()
    finally:
        services.stop()


def _environments(
    host: Any, topology: Topology, path: Path, folder: Path, buffer_bytes: int | None
) -> dict[str, dict[str, str]]:
    control = {kme: secrets.token_hex(32) for kme in topology.kmes}
    link = {frozenset(pair): secrets.token_hex(32) for pair in topology.links}

    def key_of(kme: str, peer: str) -> dict[str, int]:
        if buffer_bytes is None:
            return KEY_FOR_ALL
        rate = next(note.rate_bps for pair, note in topology.link_notes.items() if set(pair) == {kme, peer})
        assert rate is not None
        return {"rate_bps": rate, "buffer_bytes": buffer_bytes}

    def common(name: str) -> dict[str, str]:
        return {
            "QKDRELAY_BROKER": host.addresses,
            "QKDRELAY_BROKER_VHOST": host.vhost,
            "QKDRELAY_BROKER_PASSWORD": host.passwords[name],
            "QKDRELAY_STORE": str(folder / f"{name}.sqlite"),
            "QKDRELAY_LOG_FORMAT": "json",
        }

    environments = {
        kme: {
            **common(kme),
            "QKDRELAY_KME": kme,
            "QKDRELAY_CONTROL_KEY": control[kme],
            "QKDRELAY_LINKS": json.dumps(
                {
                    peer: {"secret": link[frozenset((kme, peer))], **key_of(kme, peer)}
                    for peer in topology.neighbours[kme]
                }
            ),
        }
        for kme in topology.kmes
    }
    environments[COORDINATOR] = {
        **common(COORDINATOR),
        "QKDRELAY_TOPOLOGY": str(path),
        "QKDRELAY_CONTROL_KEYS": json.dumps(control),
        "QKDRELAY_CLI_KEY": secrets.token_hex(32),
        "QKDRELAY_PAGE_KEY": secrets.token_hex(32),
    }
    return environments
