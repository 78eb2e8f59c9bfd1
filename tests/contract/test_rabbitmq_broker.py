"""The contract, kept by RabbitMQ; and what only a real broker can do to its clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest
from structlog.testing import capture_logs

from contract.broker_contract import (
    KMES,
    LINK,
    LINKS,
    OTHER_LINK,
    Adjust,
    BrokerContract,
    Network,
    NetworkFactory,
    Service,
    numbered,
)
from qkdrelay.broker.names import REPLIES_EXCHANGE, control_queue, results_queue
from qkdrelay.broker.port import Publication
from qkdrelay.broker.rabbitmq import RabbitMqBroker, RabbitMqClient, RabbitMqSettings
from qkdrelay.network.names import CLI, COORDINATOR
from support.ports import free_port
from support.proxy import resetting_port
from support.rabbitmq import RabbitMqServer, VirtualHost
from support.waiting import eventually

pytestmark = pytest.mark.rabbitmq


class RabbitMqNetwork:
    def __init__(self, host: VirtualHost, closing: ExitStack, elsewhere: str = "") -> None:
        self.host, self.elsewhere = host, elsewhere
        self._closing = closing
        self.drop = host.drop_connections
        self.bind = host.bind
        self.unbind = host.unbind
        self.make_queue, self.delete_queue = host.make_queue, host.delete_queue
        self.make_exchange, self.delete_exchange = host.make_exchange, host.delete_exchange

    def settings(self, user: str, **others: Any) -> RabbitMqSettings:
        login = {"user": user, "password": self.host.passwords[user], "vhost": self.host.vhost}
        return RabbitMqSettings(**{"addresses": self.host.addresses, **login, **others})

    def connect(self, user: str, queues: Sequence[str] = (), prefetch: int = 100, **others: Any) -> RabbitMqBroker:
        broker = self.made(user, queues, prefetch, **others)
        broker.start()
        return broker

    def made(self, user: str, queues: Sequence[str] = (), prefetch: int = 100, **others: Any) -> RabbitMqBroker:
        options = {"prefetch": prefetch, "backoff_max_s": 1.0, **others}
        own = self.settings(user, queues=() if self.elsewhere else tuple(queues), **options)
        far = [self.settings(user, queues=tuple(queues), site=self.elsewhere, **options)] if self.elsewhere else []
        broker = RabbitMqBroker(own, far)
        self._closing.callback(broker.close, 0)
        return broker

    def client(self, watch: Sequence[str] = ()) -> RabbitMqClient:
        return RabbitMqClient(self.settings(CLI), watch=watch)


@pytest.fixture
def make_network(rabbitmq: RabbitMqServer) -> NetworkFactory:
    @contextmanager
    def make(adjust: Adjust) -> Iterator[Network]:
        with rabbitmq.vhost(KMES, LINKS, adjust=adjust) as host, ExitStack() as closing:
            yield RabbitMqNetwork(host, closing)

    return make


class TestRabbitMqBroker(BrokerContract):
    pass


class TestRabbitMqBrokerOfAnotherSite(BrokerContract):
    @pytest.fixture
    def make_network(self, rabbitmq: RabbitMqServer) -> NetworkFactory:
        @contextmanager
        def make(adjust: Adjust) -> Iterator[Network]:
            with rabbitmq.vhost(KMES, LINKS, adjust=adjust) as host, ExitStack() as closing:
                yield RabbitMqNetwork(host, closing, "far")

        return make


class TestRabbitMqFailures:
    @pytest.fixture
    def network(self, make_network: NetworkFactory) -> Iterator[RabbitMqNetwork]:
        with make_network(lambda _: None) as network:
            yield network  # type: ignore[misc]

    def test_a_broker_that_is_away_is_waited_for_and_left_at_once(self, network: RabbitMqNetwork) -> None:
        with capture_logs() as logs:
            away = Service(network.connect("kme-1", addresses=_nobody()))
            away.until(lambda: [log for log in logs if log["event"] == "broker.unreachable"])
            away.broker.close(10)
        assert not away.last.connected
        assert any("nothing answers" in log["reason"] for log in logs)

    def test_the_next_address_is_tried_when_one_does_not_answer(self, network: RabbitMqNetwork) -> None:
        addresses = f"{_nobody()}, {network.host.addresses}"
        Service(network.connect("kme-1", addresses=addresses)).publish([b"found"])

    @pytest.mark.parametrize("tls", [False, True])
    def test_connections_reset_the_moment_they_are_made_are_failures_like_others(
        self, network: RabbitMqNetwork, rabbitmq: RabbitMqServer, tmp_path: Path, tls: bool
    ) -> None:
        (tmp_path / "ca.pem").write_text(rabbitmq.authority.pem)
        with capture_logs() as logs, resetting_port() as port:
            away = {"addresses": f"127.0.0.1:{port}", "backoff_min_s": 1e-4, "backoff_max_s": 1e-3}
            sender = Service(network.connect("kme-1", tls=tmp_path if tls else None, **away))
            sender.until(lambda: len(logs) > 500)
        assert {log["event"] for log in logs} == {"broker.unreachable"}

    def test_a_deleted_queue_is_noticed_and_consumed_again_when_it_is_back(self, network: RabbitMqNetwork) -> None:
        receiver = Service(network.connect("kme-2", [LINK])).until_connected()
        network.host.delete_queue(LINK)
        receiver.until(lambda: not receiver.last.connected, "the loss of the queue")
        network.host.make_queue(LINK)
        network.bind("kme.kme-1", LINK, LINK)
        receiver.until_connected()
        Service(network.connect("kme-1")).publish([b"back"])
        assert receiver.receive(1)[0].body == b"back"

    def test_an_exchange_that_is_back_is_found_without_anything_more_to_publish(self, network: RabbitMqNetwork) -> None:
        settings = {"connect_timeout_s": 1.0, "backoff_min_s": 0.1}
        coordinator = Service(network.connect(COORDINATOR, **settings)).until_connected()
        network.delete_exchange(REPLIES_EXCHANGE)
        with capture_logs() as lines:
            coordinator.broker.publish([Publication(None, REPLIES_EXCHANGE, "cli.q.gone", b"reply")])
            coordinator.until(lambda: len([line for line in lines if line["event"] == "broker.refused"]) > 5)
        assert all("no exchange" in line["reason"] for line in lines if line["event"] == "broker.refused")
        network.make_exchange(REPLIES_EXCHANGE)
        coordinator.until(lambda: not coordinator.last.refused, "the exchange to be used again")

    @pytest.mark.parametrize("there_at_first", [True, False])
    @pytest.mark.parametrize("hindrance", ["without_leader", "locked", "never_answers"])
    def test_a_queue_that_cannot_be_had_is_named_and_the_others_go_on(
        self, network: RabbitMqNetwork, hindrance: str, there_at_first: bool
    ) -> None:
        """A queue without a leader costs the whole connection that asks for it; one that is locked, its channel."""
        sender = Service(network.connect("kme-10"))
        queues = [control_queue("kme-2"), LINK, OTHER_LINK]
        settings = {"connect_timeout_s": 1.0}
        receiver = Service(network.connect("kme-2", queues, **settings), acknowledges=True)
        if there_at_first:
            receiver.until(lambda: receiver.last.connected)
        with HINDRANCES[hindrance](network.host):
            network.drop("kme-2")
            receiver.until(lambda: LINK in receiver.last.refused, "the name of the queue")
            receiver.until(lambda: set(receiver.last.refused) == {LINK} and receiver.last.connected, "the others")
            for number in range(200):
                sender.publish([b"meanwhile"], OTHER_LINK, "kme.kme-10", first=number)
                receiver.step()
                assert receiver.last.connected
            receiver.until(lambda: len(receiver.deliveries) == 200, "what is for the others")
            assert not any(delivery.redelivered for delivery in receiver.deliveries)
        receiver.until(lambda: not receiver.last.refused, "the queue")
        Service(network.connect("kme-1")).publish([b"back"])
        assert receiver.receive(1)[0].body == b"back"
        receiver.broker.close(10)
        Service(network.connect("kme-2", queues)).until_connected().gets_nothing()

    def test_a_queue_that_stands_still_holds_up_only_what_is_for_it(self, network: RabbitMqNetwork) -> None:
        sender = Service(network.connect("kme-1"))
        sender.until_connected()
        with never_answers(network.host):
            sender.broker.publish([Publication(i, "kme.kme-1", LINK, body) for i, body in enumerate(numbered(1000))])
            for number in range(1000, 1100):
                sender.publish([b"report"], results_queue("kme-1"), first=number)
            assert len(sender.confirmed) == 100
        sender.until(lambda: len(sender.confirmed) == 1100, "all confirms")
        receiver = Service(network.connect("kme-2", [LINK]), acknowledges=True)
        assert [delivery.body for delivery in receiver.receive(1000)] == numbered(1000)

    def test_a_broker_short_of_memory_still_takes_acknowledgements_and_publishes_later(
        self, network: RabbitMqNetwork, rabbitmq: RabbitMqServer
    ) -> None:
        sender = Service(network.connect("kme-1"))
        receiver = Service(network.connect("kme-2", [LINK], prefetch=1))
        sender.publish([b"before", b"too"])
        deliveries = receiver.receive(1)
        with short_of_memory(rabbitmq):
            sender.broker.publish([Publication(7, "kme.kme-1", LINK, b"during")])
            sender.until(lambda: not sender.last.connected, "the broker to block")
            receiver.broker.acknowledge(deliveries)
            receiver.broker.acknowledge(receiver.receive(1))
            assert 7 not in sender.confirmed
        sender.until(lambda: 7 in sender.confirmed, "the confirm")
        assert receiver.receive(1)[0].body == b"during"

    def test_what_happens_to_connections_is_logged_without_bodies(self, network: RabbitMqNetwork) -> None:
        with capture_logs() as logs:
            sender = Service(network.connect("kme-1"))
            sender.publish([b"a secret"])
            network.drop("kme-1")
            eventually(lambda: [log for log in logs if log["event"] == "broker.lost"])
            sender.broker.publish([Publication(1, "kme.kme-1", "nobody.listens", b"a secret")])
            eventually(lambda: [log for log in logs if "NO_ROUTE" in log.get("reason", "")])
        assert {log["role"] for log in logs if log["event"] == "broker.connected"} == {"consume", "publish"}
        lost = next(log for log in logs if log["event"] == "broker.lost")
        assert lost["user"] == "kme-1"
        assert "320" in lost["reason"]
        retried = next(log for log in logs if "NO_ROUTE" in log.get("reason", ""))
        assert retried["event"] == "broker.publish_retried"
        assert retried["count"] == 1
        assert "secret" not in repr(logs)

    @pytest.mark.parametrize(("nodes", "steady_s"), [(1, 0.0), (2, 0.0), (2, 3_600.0)])
    def test_a_connection_that_goes_on_refusing_is_given_up_for_another_node_once_it_is_old_enough(
        self, make_network: NetworkFactory, nodes: int, steady_s: float
    ) -> None:
        """As of a channel that does not notice that its node has found the others again."""

        def hold_one(document: dict[str, Any]) -> None:
            for policy in document["policies"]:
                if policy["name"] == "links":
                    policy["definition"]["max-length"] = 1

        given_up = "the broker refuses what is published again and again"
        with make_network(hold_one) as network, capture_logs() as logs:
            addresses = ",".join([network.settings("kme-1").addresses] * nodes)  # type: ignore[attr-defined]
            sender = Service(network.connect("kme-1", steady_s=steady_s, addresses=addresses))  # type: ignore[call-arg]
            sender.publish([b"all there is room for"])
            sent = 1

            def refused_often() -> bool:
                nonlocal sent
                if len(sender.confirmed) == sent:  # a burst may overshoot the bound
                    sender.broker.publish([Publication(sent, "kme.kme-1", LINK, b"more")])
                    sent += 1
                return any(log["failures"] > 4 for log in logs if log["event"] == "broker.publish_retried")

            sender.until(refused_often, "a message to be refused again and again")
            reasons = [log["reason"] for log in logs if log["event"] == "broker.lost"]
            assert (given_up in reasons) == (nodes > 1 and steady_s == 0.0)
            receiver = Service(network.connect("kme-2", [LINK]), acknowledges=True)

            def all_there() -> bool:
                receiver.step()
                return len(sender.confirmed) == sent

            sender.until(all_there, "all messages, late")

    def test_messages_that_travel_together_come_and_are_acknowledged_one_by_one(self, network: RabbitMqNetwork) -> None:
        sender = Service(network.connect("kme-1", bundle_max=64))
        receiver = Service(network.connect("kme-2", [LINK]))
        sender.publish(numbered(150))
        ready = ["messages_ready", "messages_unacknowledged"]
        queue = f"queues/{network.host.vhost}/{LINK}"

        def left() -> int:
            return sum(network.host.server.call("GET", queue).get(name, 0) for name in ready)

        eventually(lambda: left() == 3, what="three bundles")
        deliveries = receiver.receive(150)
        assert [delivery.body for delivery in deliveries] == numbered(150)
        # The first bundle but for one message, the second whole, nothing of the third.
        receiver.broker.acknowledge(deliveries[1:128])
        eventually(lambda: left() == 2, what="the acknowledgement to arrive")
        network.drop("kme-2")
        again = receiver.receive_any_order(64 + 22)
        assert again == numbered(64) + numbered(22, start=128)
        receiver.broker.acknowledge(receiver.deliveries[-86:])
        receiver.broker.acknowledge(receiver.deliveries[-86:])
        receiver.gets_nothing()
        receiver.broker.close(10)
        Service(network.connect("kme-2", [LINK])).until_connected().gets_nothing()


@contextmanager
def without_leader(host: VirtualHost) -> Iterator[None]:
    """The link's queue is there, but nobody leads it, as where most of its members are away."""
    member = f"quorum_queues, {{'{host.vhost}_{LINK}', node()}}"
    host.server.control("eval", f"ra:stop_server({member}).")
    try:
        yield
    finally:
        host.server.control("eval", f"ra:restart_server({member}).")


@contextmanager
def never_answers(host: VirtualHost) -> Iterator[None]:
    """The link's queue is there, and whoever asks for it waits."""
    process = f"whereis('{host.vhost}_{LINK}')"
    host.server.control("eval", f"sys:suspend({process}).")
    try:
        yield
    finally:
        host.server.control("eval", f"sys:resume({process}).")


@contextmanager
def locked(host: VirtualHost) -> Iterator[None]:
    """In the place of the link's queue is somebody else's exclusive one."""
    host.delete_queue(LINK)
    name, port = host.addresses.split(":")
    login = pika.PlainCredentials(*host.server.administrator)
    with pika.BlockingConnection(pika.ConnectionParameters(name, int(port), host.vhost, login)) as connection:
        connection.channel().queue_declare(LINK, exclusive=True)
        yield
    host.make_queue(LINK)
    host.bind("kme.kme-1", LINK, LINK)


HINDRANCES = {"without_leader": without_leader, "locked": locked, "never_answers": never_answers}


@contextmanager
def short_of_memory(rabbitmq: RabbitMqServer) -> Iterator[None]:
    rabbitmq.control("set_vm_memory_high_watermark", "0.000001")
    try:
        yield
    finally:
        rabbitmq.control("set_vm_memory_high_watermark", "0.4")


def _nobody() -> str:
    """Return an address at which nothing listens."""
    return f"127.0.0.1:{free_port()}"
