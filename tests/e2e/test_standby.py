"""Two coordinators under load: the lead is killed, stopped and cut off, and the other one leads; no key is lost."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import pytest

from qkdrelay.broker.rabbitmq import RabbitMqClient
from qkdrelay.client import CoordinatorClient
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.network.names import COORDINATOR
from support import processes, stack
from support.network import DIAMOND
from support.processes import STANDBY
from support.proxy import Proxy
from support.rabbitmq import RabbitMqServer
from support.waiting import eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(600)]

COORDINATORS = (COORDINATOR, STANDBY)
CUSTOMERS = 4
TIMEOUT_S = 60.0
LEADS_WITHIN_S = 60.0


@dataclass
class Customers:
    """Several ask for relays, one after the other, and wait for how each ends."""

    network: processes.Processes
    ended: dict[str, str] = field(default_factory=dict)
    """By relay: its state, or why it is not known."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Customers:
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CUSTOMERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT_S)
            assert not thread.is_alive()

    def _ask(self) -> None:
        ends = DIAMOND.kmes[0], DIAMOND.kmes[-1]
        while not self._stop.is_set():
            relay_id = new_relay_id()
            try:
                with RabbitMqClient(self.network.cli) as client:
                    asked = CoordinatorClient(client, self.network.cli_key)
                    view = asked.follow(stack.asked(relay_id, *ends, "best", TIMEOUT_S)).until_decided()
                    self.ended[str(relay_id)] = view.state
            except QkdRelayError as error:
                self.ended[str(relay_id)] = str(error)
            self._stop.wait(0.05)

    def go_on(self, count: int = 20) -> None:
        """Wait until so many more relays are confirmed."""
        before = self.confirmed
        eventually(lambda: self.confirmed >= before + count, timeout_s=90, what=f"{count} more confirmed relays")

    @property
    def confirmed(self) -> int:
        return list(self.ended.values()).count("confirmed")


@dataclass
class Deployment:
    network: processes.Processes
    proxies: dict[str, Proxy]
    """The way of each coordinator to the broker."""

    def terms(self) -> dict[str, int]:
        """How often each has come to lead."""
        return {name: len(self.network.log(name, "coordinator.leads")) for name in COORDINATORS}

    def lead(self) -> str:
        """Name the one that came to lead last."""
        led = [
            (line["timestamp"], name) for name in COORDINATORS for line in self.network.log(name, "coordinator.leads")
        ]
        return max(led)[1]

    def restart(self, name: str) -> None:
        """Start it anew, as compose does with what has ended."""
        process = self.network.running[name]
        eventually(lambda: process.poll() is not None, timeout_s=60, what=f"{name} to end")
        self.network.start(name)


@pytest.fixture(scope="module")
def deployment(rabbitmq: RabbitMqServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with ExitStack() as exits:
        host = exits.enter_context(rabbitmq.vhost(DIAMOND.kmes, DIAMOND.links))
        direct = f"{rabbitmq.host}:{rabbitmq.amqp_port}"
        proxies = {name: exits.enter_context(Proxy((rabbitmq.host, rabbitmq.amqp_port))) for name in COORDINATORS}
        addresses = dict.fromkeys((*DIAMOND.kmes, "cli"), direct)
        addresses |= {name: proxy.address for name, proxy in proxies.items()}
        ways = {
            user: {"QKDRELAY_BROKER": address, "QKDRELAY_BROKER_VHOST": host.vhost}
            for user, address in addresses.items()
        }
        folder = tmp_path_factory.mktemp("standby")
        network = exits.enter_context(processes.running(DIAMOND, folder, host.passwords, ways))
        deployment = Deployment(network, proxies)
        eventually(lambda: sum(deployment.terms().values()) == 1, timeout_s=LEADS_WITHIN_S, what="one to lead")
        yield deployment


def is_killed(process: subprocess.Popen[bytes], proxy: Proxy) -> Callable[[], None]:
    process.kill()
    return lambda: None


def is_stopped(process: subprocess.Popen[bytes], proxy: Proxy) -> Callable[[], None]:
    process.send_signal(signal.SIGSTOP)
    return lambda: process.send_signal(signal.SIGCONT)


def is_cut_off(process: subprocess.Popen[bytes], proxy: Proxy) -> Callable[[], None]:
    """Nothing passes any more on its connections, which nobody closes."""
    proxy.hang()
    return lambda: None


def test_the_lead_is_killed_stopped_and_cut_off_in_turn_and_no_key_is_lost(deployment: Deployment) -> None:
    network, took = deployment.network, []
    with Customers(network) as customers:
        customers.go_on()
        for _, befalls in zip(range(6), cycle((is_killed, is_stopped, is_cut_off)), strict=False):
            lead, terms = deployment.lead(), sum(deployment.terms().values())
            since = time.monotonic()
            ends = befalls(network.running[lead], deployment.proxies[lead])
            eventually(
                lambda t=terms: sum(deployment.terms().values()) > t, timeout_s=LEADS_WITHIN_S, what="a new lead"
            )
            took.append((befalls.__name__, round(time.monotonic() - since, 1)))
            assert deployment.lead() != lead
            customers.go_on()
            ends()
            # Whoever goes on finds that it leads no longer, and ends.
            deployment.restart(lead)
            customers.go_on()
    states = list(customers.ended.values())
    print(
        f"another led after, in seconds, {took}; of {len(states)} relays {customers.confirmed} confirmed; {set(states)}"
    )
    check(network, customers.ended)
    # Each costs at most the relays that had been begun at one end alone; who gets no answer asks once more.
    cost = [state for state in states if state != "confirmed" and "did not answer" not in state]
    assert len(cost) <= CUSTOMERS * len(took)


def check(network: processes.Processes, ended: dict[str, str]) -> None:
    """What is confirmed is released at both ends, the same; the source has nothing that the target has not."""
    confirmed = {relay for relay, state in ended.items() if state == "confirmed"}

    def released(kme: str) -> dict[str, tuple[str, str]]:
        return {key_id: key for key_id, key in network._keys(kme).items() if key[0] in ended}

    def both() -> tuple[Any, Any] | None:
        source, target = released(DIAMOND.kmes[0]), released(DIAMOND.kmes[-1])
        return (source, target) if {relay for relay, _ in source.values()} >= confirmed else None

    source, target = eventually(both, timeout_s=60, what="what is confirmed to be released")
    assert source.items() <= target.items()
    assert {relay for relay, _ in target.values()} >= confirmed
    assert len({key for _, key in target.values()}) == len(target)


def test_orders_of_who_led_before_are_refused_by_name_and_lost_for_nobody(deployment: Deployment) -> None:
    """After all that: nothing is a dead letter, and no service failed."""
    network = deployment.network
    for name in (*COORDINATORS, *DIAMOND.kmes):
        assert (
            network.log(name, "service.failed", "message.rejected", "command.rejected", "service.message_failed") == []
        )
    letters = stack.command("coordinator", "dead-letters", "list", "--json", **client_environment(network))
    assert letters.code == 0
    assert letters.json()["dead_letters"] == []


def client_environment(network: processes.Processes) -> dict[str, str]:
    own = network.environments[COORDINATOR]
    return {
        "QKDRELAY_BROKER": network.cli.addresses,
        "QKDRELAY_BROKER_VHOST": network.cli.vhost,
        "QKDRELAY_CLI_PASSWORD": network.cli.password or "",
        "QKDRELAY_CLI_KEY": own["QKDRELAY_CLI_KEY"],
    }
