"""A client's connection to RabbitMQ, with a limit to each wait, precise about what is wrong."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel
from pika.delivery_mode import DeliveryMode
from pika.exceptions import ChannelClosedByBroker, ConnectionClosed
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from qkdrelay.broker.names import EVENTS_EXCHANGE, REPLIES_EXCHANGE, REQUESTS_KEY, client_exchange
from qkdrelay.broker.port import CLIENT_PREFETCH, Client, Publication, check_size
from qkdrelay.broker.rabbitmq.bundle import unpacked
from qkdrelay.broker.rabbitmq.connection_errors import HINT_PROVISION, blocked, describe, explain
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.broker.rabbitmq.sockets import Sockets
from qkdrelay.errors import BrokerUnreachableError
from qkdrelay.network.names import CLI, client_queue_prefix

BLOCKED_S: Final = 2.0
"""Seconds that a broker may take nothing before that is said: an alarm may pass."""
_CLOSE_S: Final = 1.0
_NOT_FOUND: Final = 404
_NOBODYS_KEY: Final = "nobody"
"""Nothing is bound to it: what is published so goes nowhere, and the broker says whether it takes it."""


class RabbitMqClient(Client):
    """Implements `qkdrelay.broker.port.Client`.

    Connects to the first of the settings' addresses that answers. ``watch`` lists topic patterns of
    events to receive beside the replies. Not for several threads. Whatever the broker is asked for, it has
    ``connect_timeout_s`` to answer, and `BLOCKED_S` if it says itself that it takes nothing.
    """

    def __init__(
        self, settings: RabbitMqSettings, client: str = CLI, *, watch: Sequence[str] = (), reads: str | None = None
    ) -> None:
        """``client`` is one of `CLIENTS`, whatever the user is called.

        ``reads`` is a queue that is there, and is read instead of one of its own, if nobody else does; empty for none.
        """
        self._settings, self._exchange, self._reads = settings, client_exchange(client), reads
        self._address = f"{client_queue_prefix(client)}{uuid.uuid4()}" if reads is None else reads
        self._arrived: deque[tuple[int | None, tuple[str, str, bytes]]] = deque()
        """Messages with the delivery tag to acknowledge once each is taken: of those in a bundle, the last has it."""
        self._loop = IOLoop()
        self._failure: BaseException | None = None
        self._blocked: tuple[float, str] | None = None
        """Since when (monotonic clock) and why the broker takes nothing."""
        self._published = 0
        self._outcomes: dict[int, str] = {}
        self._returned = False
        self._connection = self._connect()
        try:
            self._channel = self._set_up(watch)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """See `Client.address`."""
        return self._address

    def send(self, body: bytes) -> None:
        """See `Client.send`."""
        check_size([Publication(None, self._exchange, REQUESTS_KEY, body)])
        match self._publish(REQUESTS_KEY, body):
            case "returned":
                raise BrokerUnreachableError(
                    f"the coordinator has no queue on the broker (virtual host {self._settings.vhost!r})",
                    hint=HINT_PROVISION,
                )
            case "refused":
                raise BrokerUnreachableError(
                    "the coordinator's queue is full: it does not read its requests",
                    hint="look whether the coordinator is running",
                )

    def check(self) -> None:
        """See `Client.check`."""
        for _ in range(2):  # the first since the alarm is still taken
            self._publish(_NOBODYS_KEY, b"")

    def receive(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        """See `Client.receive`; heartbeats go on while it waits."""
        self._wait(lambda: bool(self._arrived), time.monotonic() + timeout_s)
        if not self._arrived:
            return None
        tag, message = self._arrived.popleft()
        if tag is not None:
            self._channel.basic_ack(tag)
        return message

    def close(self) -> None:
        """See `Client.close`."""
        if self._connection.is_open:
            self._failure = None
            self._connection.close()
            # Lost instead of closed is just as gone.
            until = time.monotonic() + _CLOSE_S
            while self._failure is None and time.monotonic() < until:
                self._run(until)
        self._loop.close()

    def _connect(self) -> SelectConnection:
        """Return a connection to the first address that takes one; raise what is wrong with the last."""
        failure: BrokerUnreachableError | None = None
        for address in self._settings.hosts:
            self._failure = None
            connection = SelectConnection(
                self._settings.parameters(address, "client"),
                on_open_callback=lambda _: self._loop.stop(),
                on_open_error_callback=self._fail,
                on_close_callback=self._fail,
                custom_ioloop=Sockets(self._loop),
            )
            while self._failure is None and not connection.is_open:  # pika sees to the time-out
                self._run(time.monotonic() + self._settings.connect_timeout_s)
            if self._failure is None:
                connection.add_on_connection_blocked_callback(self._block)
                connection.add_on_connection_unblocked_callback(self._unblock)
                return connection
            failure = explain(self._failure, self._settings, address)
        self._loop.close()
        assert failure is not None  # noqa: S101 - the settings have at least one address
        raise failure from None

    def _set_up(self, watch: Sequence[str]) -> Channel:
        channel = self._connection.channel(on_open_callback=lambda _: self._loop.stop())
        channel.add_on_close_callback(self._fail)
        self._until(lambda: channel.is_open, "channel")
        channel.add_on_return_callback(self._note_return)
        self._answered(partial(channel.confirm_delivery, self._settle))
        if self._reads is not None:
            if self._reads:
                self._answered(partial(channel.basic_qos, prefetch_count=CLIENT_PREFETCH))
                self._answered(partial(channel.basic_consume, self._reads, self._keep, exclusive=True))
            return channel
        # Its type is said outright: a virtual host's default may be quorum, which cannot be exclusive.
        declare = partial(channel.queue_declare, exclusive=True, arguments={"x-queue-type": "classic"})
        self._answered(partial(declare, self._address))
        self._answered(partial(channel.queue_bind, self._address, REPLIES_EXCHANGE, self._address))
        for pattern in watch:
            self._answered(partial(channel.queue_bind, self._address, EVENTS_EXCHANGE, pattern))
        self._answered(partial(channel.basic_qos, prefetch_count=CLIENT_PREFETCH))
        self._answered(partial(channel.basic_consume, self._address, self._keep))
        return channel

    def _publish(self, key: str, body: bytes) -> str:
        """Publish and return what became of it: "taken", "returned" or "refused"."""
        self._check()
        self._published += 1
        number = self._published
        properties = BasicProperties(delivery_mode=DeliveryMode.Persistent)
        self._channel.basic_publish(self._exchange, key, body, properties, mandatory=True)
        self._until(lambda: number in self._outcomes, "confirm")
        return self._outcomes.pop(number)

    def _answered(self, call: Callable[..., Any]) -> None:
        """Ask the broker for something and wait for its answer."""
        answers: list[object] = []

        def answered(frame: object) -> None:
            answers.append(frame)
            self._loop.stop()

        call(callback=answered)
        self._until(lambda: bool(answers), "answer")

    def _until(self, done: Callable[[], bool], what: str) -> None:
        """Wait until it is done; raise if the broker takes too long for it, and if it says that it takes nothing."""
        until = time.monotonic() + self._settings.connect_timeout_s
        while not done():
            deadline = until if self._blocked is None else min(until, self._blocked[0] + BLOCKED_S)
            if time.monotonic() >= deadline:
                if self._blocked is not None:
                    raise blocked(self._blocked[1])
                raise BrokerUnreachableError(
                    f"the broker hangs: no {what} within {self._settings.connect_timeout_s:g} s",
                    hint="look at the broker's log; what was asked for may still be carried out",
                )
            self._check()
            self._run(deadline)

    def _wait(self, done: Callable[[], bool], until: float) -> None:
        """Wait until it is done, at most ``until`` (monotonic clock)."""
        while not done() and time.monotonic() < until:
            self._check()
            self._run(until)

    def _run(self, until: float) -> None:
        """Send and receive until something has happened, at most ``until`` (monotonic clock)."""
        timer = self._loop.call_later(max(0.0, until - time.monotonic()), self._loop.stop)
        self._loop.start()
        self._loop.remove_timeout(timer)

    def _check(self) -> None:
        """Turn what the broker refuses, or that it has gone away, into our error."""
        match self._failure:
            case None:
                return
            case ChannelClosedByBroker() as error:
                hint = "this user may not do that: use the user made for it"
                raise BrokerUnreachableError(
                    f"the broker refuses user {self._settings.user!r}: {error.reply_text}",
                    hint=HINT_PROVISION if error.reply_code == _NOT_FOUND else hint,
                )
            case error:
                raise BrokerUnreachableError(
                    f"the connection to the broker was lost: {describe(error)}", hint="try again"
                )

    def _fail(self, _of: object, error: BaseException) -> None:
        """Note the end of the connection or its channel; of several the last, if it has more to say."""
        if self._failure is None or isinstance(error, ConnectionClosed):
            self._failure = error
        self._loop.stop()

    def _block(self, _connection: SelectConnection, frame: Any) -> None:
        self._blocked = time.monotonic(), str(frame.method.reason)
        self._loop.stop()

    def _unblock(self, _connection: SelectConnection, _frame: Any) -> None:
        self._blocked = None

    def _note_return(self, *_: object) -> None:
        self._returned = True  # its confirm comes right after

    def _settle(self, frame: Method) -> None:
        outcome = "refused" if isinstance(frame.method, Basic.Nack) else "returned" if self._returned else "taken"
        self._returned = False
        self._outcomes = {frame.method.delivery_tag: outcome}
        self._loop.stop()

    def _keep(self, _channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        *others, last = unpacked(body, properties.content_type)
        for part in others:
            self._arrived.append((None, (method.exchange, method.routing_key, part)))
        self._arrived.append((method.delivery_tag, (method.exchange, method.routing_key, last)))
        self._loop.stop()
