"""A network whose services are processes of this machine, under load, with a broker that the test has in its hands."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from qkdrelay.broker.rabbitmq import RabbitMqClient, RabbitMqSettings
from qkdrelay.client import CoordinatorClient
from qkdrelay.errors import BrokerUnreachableError, RequestRefusedError
from qkdrelay.messages.answers import RelaySummary, RelaysView
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import RelaysRequest
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.names import CLI, COORDINATOR
from qkdrelay.network.topology import Topology
from support import stack
from support.waiting import eventually

RELAY_TIMEOUT_S = 20.0
PAUSE_S = 0.2
ANSWER_WITHIN_S = 10
ASK_EVERY_S = 0.1
LISTED_MAX = 1000
LOG_END = 2000
STANDBY = "coordinator-2"
"""A second coordinator, where the ways to the broker have one for it."""


class Load(threading.Thread):
    """Asks for a relay from end to end of ``topology``, and another, until told to stop; also over a new connection."""

    def __init__(self, settings: RabbitMqSettings, key: bytes, topology: Topology) -> None:
        super().__init__(name="load", daemon=True)
        self._settings, self._key, self._ends = settings, key, (topology.kmes[0], topology.kmes[-1])
        self._stopped = threading.Event()
        self.accepted: list[UUID] = []
        """Relays that the coordinator has promised to bring to an end."""
        self.refused: list[str] = []
        """Why a relay could not be asked for; nothing is promised then."""

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                with RabbitMqClient(self._settings) as client:
                    self._ask(CoordinatorClient(client, self._key))
            except (BrokerUnreachableError, RequestRefusedError) as error:
                self.refused.append(str(error))
                self._stopped.wait(PAUSE_S)

    def _ask(self, coordinator: CoordinatorClient) -> None:
        while not self._stopped.wait(PAUSE_S):
            body = stack.asked(new_relay_id(), *self._ends, "best", RELAY_TIMEOUT_S)
            self.accepted.append(coordinator.follow(body).first().relay_id)

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=60)
        assert not self.is_alive()


@dataclass
class Processes:
    """The services of ``topology``; each writes its log and its store into ``folder``."""

    topology: Topology
    folder: Path
    environments: dict[str, dict[str, str]] = field(repr=False)
    cli: RabbitMqSettings = field(repr=False)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _client: RabbitMqClient | None = None

    def start(self, name: str) -> None:
        """Start a service, as ``kme run`` and ``coordinator serve`` do."""
        command = ["coordinator", "serve"] if name in (COORDINATOR, STANDBY) else ["kme", "run"]
        command[0] = str(Path(sys.executable).parent / command[0])
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, env=self.environments[name], cwd=self.folder, stdout=log, stderr=log
            )

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, name: str, *events: str) -> list[dict[str, Any]]:
        """Return what a service has logged, of these events if any are named."""
        lines = (self.folder / f"{name}.log").read_text().splitlines()
        logged = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [line for line in logged if not events or line["event"] in events]

    def attempts(self) -> dict[str, int]:
        """Count how often each service has tried, in vain, to connect, or lost a connection."""
        return {name: len(self.log(name, "broker.lost", "broker.unreachable")) for name in self.running}

    def resident_bytes(self) -> dict[str, int]:
        """Return each service's memory."""
        found = {}
        for name, process in self.running.items():
            status = Path(f"/proc/{process.pid}/status").read_text()
            found[name] = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024
        return found

    def _all_run(self) -> None:
        for name, process in self.running.items():
            if process.poll() is not None:
                end = (self.folder / f"{name}.log").read_text(errors="replace")[-LOG_END:]
                raise AssertionError(f"{name} ended by itself with {process.returncode}; its log ends:\n{end}")

    def relays(self) -> dict[str, RelaySummary]:
        """Return the relays that the coordinator knows, by id; none while it cannot be asked."""
        self._all_run()
        time.sleep(ASK_EVERY_S)
        try:
            self._client = self._client or RabbitMqClient(self.cli)
            coordinator = CoordinatorClient(self._client, self.cli_key)
            listed = coordinator.ask(RelaysRequest(limit=LISTED_MAX, supply=False), RelaysView, ANSWER_WITHIN_S)
        except BrokerUnreachableError:
            if self._client is not None:
                self._client.close()
            self._client = None
            return {}
        return {str(relay.relay_id): relay for relay in listed.relays}

    @property
    def cli_key(self) -> bytes:
        """What the command line signs with."""
        return bytes.fromhex(self.environments[COORDINATOR]["QKDRELAY_CLI_KEY"])

    def _confirmed(self) -> set[str]:
        return {relay_id for relay_id, relay in self.relays().items() if relay.state == "confirmed"}

    def goes_on(self, count: int = 5, timeout_s: float = 90) -> None:
        """Wait until so many more relays are confirmed."""
        before = eventually(self._confirmed, timeout_s=timeout_s, what="a confirmed relay")
        eventually(
            lambda: len(self._confirmed() - before) >= count, timeout_s=timeout_s, what=f"{count} more confirmed relays"
        )

    def _keys(self, kme: str) -> dict[str, tuple[str, str]]:
        """Return (relay, bytes) of each key that ``kme`` has released, by its id."""
        answer = stack.command("kme", "keys", "--json", "--reveal", "--limit", "20000", **self.environments[kme])
        assert answer.code == 0, answer.err
        return {key["key_id"]: (key["relay_id"], key["key"]) for key in answer.json()["keys"] if "key" in key}

    @contextmanager
    def load(self) -> Iterator[Load]:
        """Ask for relays meanwhile; at the end, every one must have ended, and both ends agree."""
        load = Load(self.cli, self.cli_key, self.topology)
        load.start()
        try:
            self.goes_on(1)
            yield load
            self.goes_on()
        finally:
            load.stop()
        confirmed, failed = self._check_nothing_is_lost(load.accepted)
        print(f"{confirmed} relays confirmed, {failed} failed; {len(load.refused)} could not be asked for")

    def _check_nothing_is_lost(self, accepted: list[UUID]) -> tuple[int, int]:
        """Wait until every relay has ended, then compare both ends; return how many confirmed and how many failed."""
        wanted = {str(relay_id) for relay_id in accepted}
        assert len(wanted) <= LISTED_MAX

        def ended() -> dict[str, RelaySummary]:
            relays = self.relays()
            open_ones = [relay for relay in relays.values() if relay.state not in TERMINAL]
            return relays if relays.keys() >= wanted and not open_ones else {}

        relays = eventually(ended, timeout_s=90, what="every relay to end")
        confirmed = {relay_id for relay_id in wanted if relays[relay_id].state == "confirmed"}
        failed = wanted - confirmed
        assert all(relays[relay_id].reason for relay_id in failed)

        def released(kme: str) -> dict[str, tuple[str, str]]:
            keys = {key_id: key for key_id, key in self._keys(kme).items() if key[0] in wanted}
            return keys if {relay for relay, _ in keys.values()} >= confirmed else {}

        source, target = (
            eventually(lambda kme=kme: released(kme), timeout_s=60, what=f"{kme} to release what is confirmed")
            for kme in (self.topology.kmes[0], self.topology.kmes[-1])
        )
        assert source == target
        assert {relay for relay, _ in source.values()} == confirmed
        assert len({key for _, key in source.values()}) == len(source)
        return len(confirmed), len(failed)


@contextmanager
def running(
    topology: Topology, folder: Path, passwords: Mapping[str, str], broker: Mapping[str, Mapping[str, str]]
) -> Iterator[Processes]:
    """Start the services. ``broker`` has, for each user, the settings that lead to the broker."""
    (folder / "topology.toml").write_text(
        f'name = "{topology.name}"\nkmes = {json.dumps(topology.kmes)}\nlinks = {json.dumps(topology.links)}\n'
    )
    environments = stack.environments(topology, dict(passwords), lab=False)
    if STANDBY in broker:
        environments[COORDINATOR]["QKDRELAY_STANDBY"] = "true"
        environments[STANDBY] = dict(environments[COORDINATOR])
    for name, environment in environments.items():
        environment |= {**broker[name], "QKDRELAY_STORE": str(folder / f"{name}.sqlite")}
        environment.pop("QKDRELAY_HTTP")
        if name in (COORDINATOR, STANDBY):
            environment["QKDRELAY_TOPOLOGY"] = str(folder / "topology.toml")
    tls = broker[CLI].get("QKDRELAY_BROKER_TLS")
    cli = RabbitMqSettings(
        addresses=broker[CLI]["QKDRELAY_BROKER"],
        vhost=broker[CLI]["QKDRELAY_BROKER_VHOST"],
        user=CLI,
        password=passwords[CLI],
        tls=Path(tls) if tls else None,
    )
    network = Processes(topology, folder, environments, cli)
    try:
        for name in environments:
            network.start(name)
        yield network
    finally:
        network.stop()
