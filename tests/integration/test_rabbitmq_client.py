"""What the command line is told when it cannot talk to the broker."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest

from qkdrelay.broker.names import REQUESTS_KEY, client_exchange, kme_exchange, requests_queue, results_queue
from qkdrelay.broker.port import MessageTooLargeError, Publication
from qkdrelay.broker.rabbitmq import RabbitMqBroker, RabbitMqClient, RabbitMqSettings
from qkdrelay.broker.rabbitmq import client as client_module
from qkdrelay.errors import BrokerUnreachableError
from qkdrelay.messages.codec import MESSAGE_BYTES_MAX
from qkdrelay.network.names import CLI
from support.proxy import Proxy, resetting_port
from support.rabbitmq import RabbitMqServer, VirtualHost
from support.waiting import eventually

pytestmark = pytest.mark.rabbitmq

SECRET = "not-the-password"


@pytest.fixture
def host(rabbitmq: RabbitMqServer) -> Iterator[VirtualHost]:
    with rabbitmq.vhost(["kme-1", "kme-2"], [("kme-1", "kme-2")]) as host:
        yield host


@pytest.fixture
def settings(host: VirtualHost) -> RabbitMqSettings:
    password = host.passwords[CLI]
    return RabbitMqSettings(addresses=host.addresses, vhost=host.vhost, user=CLI, password=password)


def refusal(settings: RabbitMqSettings) -> BrokerUnreachableError:
    with pytest.raises(BrokerUnreachableError) as caught:
        RabbitMqClient(settings)
    message = str(caught.value)
    assert "\n" not in message
    assert settings.password not in message
    assert caught.value.hint
    return caught.value


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_no_broker_at_the_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    error = refusal(RabbitMqSettings(addresses=address, user=CLI, password=SECRET))
    assert str(error) == f"nothing answers at {address}"


def test_unknown_host() -> None:
    error = refusal(RabbitMqSettings(addresses="no-such-host.invalid", user=CLI, password=SECRET))
    assert str(error) == "the broker's host 'no-such-host.invalid' is unknown"


def test_a_broker_that_does_not_answer(silent_port: int) -> None:
    address = f"127.0.0.1:{silent_port}"
    error = refusal(RabbitMqSettings(addresses=address, user=CLI, password=SECRET, connect_timeout_s=0.5))
    assert str(error) == f"no answer from {address} within 0.5 s"


def test_a_port_that_hangs_up_because_the_broker_behind_it_is_still_starting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(8)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        error = refusal(RabbitMqSettings(addresses=address, user=CLI, password=SECRET))
        thread.join(timeout=5)
    assert str(error) == f"what answers at {address} is no AMQP broker, or none that is ready, or it wants TLS"
    assert "still starting" in (error.hint or "")


def test_wrong_password(settings: RabbitMqSettings) -> None:
    error = refusal(replace(settings, password=SECRET))
    assert str(error) == f"the broker at {settings.addresses} does not accept user 'cli' with this password"


def test_missing_virtual_host(settings: RabbitMqSettings) -> None:
    error = refusal(replace(settings, vhost="nowhere"))
    assert str(error) == f"the broker at {settings.addresses} has no virtual host 'nowhere'"


def test_virtual_host_without_permission(settings: RabbitMqSettings, rabbitmq: RabbitMqServer) -> None:
    with rabbitmq.vhost(["kme-3"], []) as host:
        rabbitmq.call("DELETE", f"permissions/{host.vhost}/{CLI}")
        error = refusal(replace(settings, vhost=host.vhost))
    assert str(error) == f"the broker at {settings.addresses} does not let user 'cli' into '{host.vhost}'"


def test_a_user_who_may_not_have_a_queue(settings: RabbitMqSettings, host: VirtualHost) -> None:
    error = refusal(replace(settings, user="kme-1", password=host.passwords["kme-1"]))
    assert str(error).startswith("the broker refuses user 'kme-1': ACCESS_REFUSED")


def test_missing_queue_of_the_coordinator(settings: RabbitMqSettings, host: VirtualHost) -> None:
    host.unbind(client_exchange(CLI), REQUESTS_KEY, requests_queue(CLI))
    with (
        RabbitMqClient(settings) as client,
        pytest.raises(BrokerUnreachableError, match="the coordinator has no queue") as caught,
    ):
        client.send(b"hello")
    assert caught.value.hint


def test_a_lost_connection_is_told_to_who_waits(settings: RabbitMqSettings, host: VirtualHost) -> None:
    with RabbitMqClient(settings) as client:
        host.drop_connections(CLI)
        with pytest.raises(BrokerUnreachableError, match="lost: 320 CONNECTION_FORCED"):
            client.receive(20)


def test_a_connection_reset_the_moment_it_is_made(settings: RabbitMqSettings) -> None:
    with resetting_port() as port:
        away = replace(settings, addresses=f"127.0.0.1:{port}")
        for _ in range(200):  # at every moment of its making
            assert str(refusal(away)).startswith(f"what answers at 127.0.0.1:{port} ")


ALARMS = {
    "memory": (("set_vm_memory_high_watermark", "0.000001"), ("set_vm_memory_high_watermark", "0.4")),
    "disk": (("set_disk_free_limit", "100000GB"), ("set_disk_free_limit", "50MB")),
}


@contextmanager
def short_of(rabbitmq: RabbitMqServer, what: str) -> Iterator[None]:
    raise_alarm, clear = ALARMS[what]
    rabbitmq.control(*raise_alarm)
    try:
        yield
    finally:
        rabbitmq.control(*clear)


@pytest.mark.parametrize("what", ALARMS)
def test_a_broker_that_takes_nothing_is_told_in_time_with_its_alarm(
    settings: RabbitMqSettings, rabbitmq: RabbitMqServer, what: str
) -> None:
    with RabbitMqClient(settings) as before:
        before.send(b"hello")
        before.check()
        with short_of(rabbitmq, what), RabbitMqClient(settings) as client:
            began = time.monotonic()
            with pytest.raises(BrokerUnreachableError, match=f"^the broker takes nothing: low on {what}$") as caught:
                client.send(b"hello")
            assert time.monotonic() - began < 5
            assert caught.value.hint
            # Who has asked before the alarm, and hears nothing from a coordinator that is blocked.
            assert before.receive(0.1) is None
            with pytest.raises(BrokerUnreachableError, match=f"^the broker takes nothing: low on {what}$"):
                before.check()
    with RabbitMqClient(settings) as client:
        client.send(b"hello")


def test_an_alarm_that_passes_is_waited_for(
    settings: RabbitMqSettings, rabbitmq: RabbitMqServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BLOCKED_S", 60.0)
    with RabbitMqClient(replace(settings, connect_timeout_s=60.0)) as client, ThreadPoolExecutor() as threads:
        with short_of(rabbitmq, "memory"):
            sending = threads.submit(client.send, b"hello")
            eventually(lambda: client._blocked, what="the broker to block")
            assert not sending.done()
        sending.result(30)
        client.check()


def test_a_broker_that_hangs_is_told(settings: RabbitMqSettings, rabbitmq: RabbitMqServer) -> None:
    with Proxy((rabbitmq.host, rabbitmq.amqp_port)) as proxy:
        hanging = replace(settings, addresses=proxy.address, connect_timeout_s=2.0)
        with RabbitMqClient(hanging) as client:
            proxy.hang()
            with pytest.raises(BrokerUnreachableError, match=r"^the broker hangs: no confirm within 2 s$"):
                client.send(b"hello")
            assert client.receive(0.1) is None


def test_a_host_that_cannot_be_one() -> None:
    error = refusal(RabbitMqSettings(addresses="a..b:5672", user=CLI, password=SECRET))
    assert str(error) == "the broker's host 'a..b' is unknown"


def test_reports_that_travel_together_are_watched_one_by_one(settings: RabbitMqSettings, host: VirtualHost) -> None:
    kme = RabbitMqBroker(replace(settings, user="kme-1", password=host.passwords["kme-1"], bundle_max=64))
    kme.start()
    bodies = [b"one", b"two", b"three"]
    place = kme_exchange("kme-1"), results_queue("kme-1")
    try:
        with RabbitMqClient(settings, watch=["results.#"]) as client:
            kme.publish([Publication(number, *place, body) for number, body in enumerate(bodies)])
            assert [client.receive(20) for _ in bodies] == [(*place, body) for body in bodies]
            assert client.receive(0) is None
    finally:
        kme.close(10)


def test_a_request_that_is_too_large_is_not_sent(settings: RabbitMqSettings) -> None:
    with RabbitMqClient(settings) as client, pytest.raises(MessageTooLargeError):
        client.send(bytes(MESSAGE_BYTES_MAX + 1))


def test_the_first_address_that_answers_is_used(settings: RabbitMqSettings, silent_port: int) -> None:
    addresses = f"127.0.0.1:{silent_port}, {settings.addresses}"
    with RabbitMqClient(replace(settings, addresses=addresses, connect_timeout_s=0.5)) as client:
        client.send(b"hello")
        assert client.receive(0) is None
