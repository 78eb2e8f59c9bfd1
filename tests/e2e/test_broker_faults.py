"""The broker restarts, runs short, or hides behind a bad network, under load: services wait, say so, and finish."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from support import processes, stack
from support.network import DIAMOND
from support.proxy import Proxy
from support.rabbitmq import RabbitMqServer
from support.waiting import eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(300)]

SERVICES = ("coordinator", *DIAMOND.kmes)
GROWTH_MAX = 48 << 20


@pytest.fixture(scope="module")
def proxy(rabbitmq: RabbitMqServer) -> Iterator[Proxy]:
    with Proxy((rabbitmq.host, rabbitmq.amqp_port)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def network(
    rabbitmq: RabbitMqServer, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Processes]:
    with rabbitmq.vhost(DIAMOND.kmes, DIAMOND.links) as host:
        way = {"QKDRELAY_BROKER": proxy.address, "QKDRELAY_BROKER_VHOST": host.vhost}
        users = dict.fromkeys((*SERVICES, "cli"), way)
        with processes.running(DIAMOND, tmp_path_factory.mktemp("network"), host.passwords, users) as network:
            yield network


@contextmanager
def patience(network: processes.Processes) -> Iterator[None]:
    """Under load, whatever happens meanwhile: nobody tries again and again, nobody grows, and all is finished."""
    with network.load():
        attempts, sizes, began = network.attempts(), network.resident_bytes(), time.monotonic()
        yield
        network.goes_on()
        elapsed_s = time.monotonic() - began
        made = {name: count - attempts[name] for name, count in network.attempts().items()}
        grown = {name: size - sizes[name] for name, size in network.resident_bytes().items()}
        print(f"{elapsed_s:.1f} s, attempts {made}, grown by {max(grown.values()) >> 10} KiB at most")
        # Two connections each. Waits double from at least 0.05 s up to at least 7.5 s.
        assert max(made.values()) <= 2 * (9 + elapsed_s / 7.5)
        assert max(grown.values()) <= GROWTH_MAX


def everyone_says(network: processes.Processes, event: str) -> Callable[[], None]:
    """Return what waits until every service has logged ``event`` once more than now."""
    before = {name: len(network.log(name, event)) for name in SERVICES}

    def wait() -> None:
        for name, count in before.items():
            eventually(lambda n=name, c=count: len(network.log(n, event)) > c, timeout_s=60, what=f"{event} at {name}")

    return wait


def test_the_broker_is_restarted(network: processes.Processes, rabbitmq: RabbitMqServer) -> None:
    with patience(network):
        said = everyone_says(network, "broker.lost")
        rabbitmq.restart()
        said()


ALARMS = {
    "memory": (("set_vm_memory_high_watermark", "0.000001"), ("set_vm_memory_high_watermark", "0.4")),
    "disk": (("set_disk_free_limit", "100000GB"), ("set_disk_free_limit", "50MB")),
}


@pytest.mark.parametrize("short_of", ALARMS)
def test_the_broker_runs_short(short_of: str, network: processes.Processes, rabbitmq: RabbitMqServer) -> None:
    raise_alarm, clear = ALARMS[short_of]
    with patience(network):
        before = {name: len(network.log(name, "broker.blocked")) for name in SERVICES}
        rabbitmq.control(*raise_alarm)
        try:
            # Who has nothing to publish is not blocked; whoever has says so, and nothing moves.
            def blocked() -> bool:
                return any(len(network.log(name, "broker.blocked")) > count for name, count in before.items())

            eventually(blocked, what="a service to say that the broker blocks")
            way = {"QKDRELAY_BROKER": network.cli.addresses, "QKDRELAY_BROKER_VHOST": network.cli.vhost}
            secrets = {"QKDRELAY_CLI_PASSWORD": network.cli.password, "QKDRELAY_CLI_KEY": network.cli_key.hex()}
            answer = stack.command("coordinator", "relays", **secrets, **way)
            assert answer.code == 3
            assert f"the broker takes nothing: low on {short_of}" in answer.err
        finally:
            rabbitmq.control(*clear)
    reasons = {log["reason"] for name in SERVICES for log in network.log(name, "broker.blocked")}
    assert any(short_of in reason for reason in reasons), reasons


def test_connections_are_cut_in_mid_message(network: processes.Processes, proxy: Proxy) -> None:
    seed = int(os.environ.get("QKDRELAY_SEED", random.randrange(2**32)))
    print(f"QKDRELAY_SEED={seed}")
    choice = random.Random(seed)
    with patience(network):
        proxy.cut_after = lambda: choice.randrange(8, 20_000)
        taken = proxy.accepted
        assert proxy.cut() >= 2 * len(SERVICES)
        try:
            eventually(lambda: proxy.accepted >= taken + 6 * len(SERVICES), timeout_s=60, what="cuts")
        finally:
            proxy.cut_after = None


def test_connections_hang_half_open(network: processes.Processes, proxy: Proxy) -> None:
    with patience(network):
        said = everyone_says(network, "broker.lost")
        proxy.hang()
        said()
    assert proxy.cut() > 2 * len(SERVICES)
