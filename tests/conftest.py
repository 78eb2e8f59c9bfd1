"""Fixtures that more than one kind of test uses."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support", "contract.broker_contract")

from support import fuzzing  # noqa: E402 - its assertions are rewritten too
from support import rabbitmq as support  # noqa: E402

DESCRIPTORS = 300
"""So many files may tests leave open: a shell allows 1,024."""


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[support.RabbitMqServer]:
    """A RabbitMQ broker for the whole session. Use ``with rabbitmq.vhost(kmes, links) as host`` in a test."""
    support.require_containers(support.IMAGE)
    with support.running() as server:
        yield server


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No queue rests, whatever it brings: for tests of what becomes of very many bad messages, not of when."""
    monkeypatch.setattr("qkdrelay.service.resting.REST_S_MAX", 0.0)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Have stores closed that tests have dropped in circles, before there are too many for a descriptor more."""
    if sum(1 for _ in Path("/proc/self/fd").iterdir()) > DESCRIPTORS:
        gc.collect()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many inputs were made up for the code to read."""
    if fuzzing.TRIED:
        terminalreporter.write_line(f"inputs fuzzed: {fuzzing.TRIED.total()}")
