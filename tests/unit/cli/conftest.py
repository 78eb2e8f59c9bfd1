"""The command line in this process, against a network in this process, on one clock that only waiting moves."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from qkdrelay.client import CoordinatorClient
from qkdrelay.messages import relay_ids
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import reference_topology
from qkdrelay_cli import session
from qkdrelay_cli.__main__ import main
from qkdrelay_cli.commands import relay, watch
from qkdrelay_demo.network import EmbeddedNetwork, SettlingConnection

STEP_S = 0.05


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class FakeClient(SettlingConnection):
    """While it waits, what was planned happens, the network works and time passes."""

    def __init__(self, here: Here, watch: Sequence[str]) -> None:
        super().__init__(here.network, watch=watch)
        self._here = here

    def send(self, body: bytes) -> None:
        self._here.sent += 1
        super().send(body)

    def receive(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        here = self._here
        until = here.clock.now + timeout_s
        while True:
            here.let_happen()
            message = super().receive(0.0)
            if message is not None or here.clock.now >= until:
                return message
            here.clock.now = min(until, here.clock.now + STEP_S)


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Here:
    """A network, its clock, and a command line that reaches it."""

    def __init__(
        self, lab: bool, topology: Topology | None, withstand_compromised: int, folder: Path | None = None
    ) -> None:
        self.clock = Clock()
        self.network = EmbeddedNetwork(
            topology or reference_topology(),
            lab=lab,
            clock=self.clock,
            folder=folder,
            withstand_compromised=withstand_compromised,
        )
        self.sent = 0
        self.cli_key = self.network.cli_key
        """The command line's own, which a test may set wrong."""
        self._later: list[tuple[float, Callable[[], object]]] = []
        self.run: Callable[..., Result]

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        self._later.append((self.clock.now + seconds, action))

    def let_happen(self) -> None:
        due = [action for at, action in self._later if at <= self.clock.now]
        self._later = [(at, action) for at, action in self._later if at > self.clock.now]
        for action in due:
            action()

    @contextmanager
    def opened(self) -> Iterator[CoordinatorClient]:
        with session.connected_client() as connection:
            yield CoordinatorClient(connection, self.cli_key, self.clock, self.clock)

    def stop(self, *services: str) -> None:
        self.network.stopped = frozenset(services)

    def restart(self, service: str) -> None:
        """Start a service anew from what is on its disk."""
        self.network.loops[service].close()
        self.network.start(service)


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of whoever runs the tests, and 80 columns."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "QKDRELAY_BROKER",
        "QKDRELAY_BROKER_VHOST",
        "QKDRELAY_CLI_USER",
        "QKDRELAY_CLI_PASSWORD",
        "QKDRELAY_CLI_KEY",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `coordinator` with arguments, as the shell would."""

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["coordinator", *arguments])
        capsys.readouterr()
        # As Python sets it up: what is no text is told all the same.
        sys.stderr.reconfigure(errors="backslashreplace")
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def no_logs() -> Iterator[None]:
    """The network's logs would go to stdout, which is for results here."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Result], no_logs: None) -> Callable[..., Here]:
    """Make a network that `coordinator` reaches."""

    def place(
        *,
        lab: bool = False,
        topology: Topology | None = None,
        withstand_compromised: int = 1,
        folder: Path | None = None,
    ) -> Here:
        here = Here(lab, topology, withstand_compromised, folder)
        here.run = run
        monkeypatch.setattr(session, "connected_client", lambda watch=(): FakeClient(here, watch))
        monkeypatch.setattr(session, "opened", here.opened)
        monkeypatch.setattr(relay, "monotonic", here.clock)
        monkeypatch.setattr(watch, "monotonic", here.clock)
        monkeypatch.setattr(relay_ids, "new_relay_id", lambda: new_relay_id(here.clock()))
        return here

    return place


@pytest.fixture
def here(place: Callable[..., Here]) -> Here:
    """A network with the lab off."""
    return place()


@pytest.fixture
def lab(place: Callable[..., Here]) -> Here:
    """A network with the lab on."""
    return place(lab=True)
