"""Fixtures that more than one kind of test uses."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

pytest.register_assert_rewrite("support", "contract.broker_contract")

from support import descriptors, fuzzing  # noqa: E402 - its assertions are rewritten too
from support import rabbitmq as support  # noqa: E402

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("untimed", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("untimed")


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
    """Leave few files open for the next test."""
    descriptors.spare()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many inputs were made up for the code to read."""
    if fuzzing.TRIED:
        terminalreporter.write_line(f"inputs fuzzed: {fuzzing.TRIED.total()}")
