"""Fixtures that more than one kind of test uses."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("support", "contract.broker_contract")

from support import rabbitmq as support  # noqa: E402 - its assertions are rewritten too


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[support.RabbitMqServer]:
    """A RabbitMQ broker for the whole session. Use ``with rabbitmq.vhost(kmes, links) as host`` in a test."""
    if problem := support.docker_problem():
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(problem, pytrace=False)
        pytest.skip(problem)
    with support.running() as server:
        yield server
