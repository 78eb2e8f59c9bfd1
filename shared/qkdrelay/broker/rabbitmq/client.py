"""The command line's connection to RabbitMQ: short-lived, blocking, precise about what is wrong."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout
from pika.exceptions import (
    AMQPError,
    ChannelClosedByBroker,
    NackError,
    UnroutableError,
)

from qkdrelay.broker.names import (
    CLI_EXCHANGE,
    CLIENT_QUEUE_PREFIX,
    EVENTS_EXCHANGE,
    REPLIES_EXCHANGE,
    REQUESTS_KEY,
)
from qkdrelay.broker.port import Publication, check_size
from qkdrelay.broker.rabbitmq.bundle import unpacked
from qkdrelay.broker.rabbitmq.explain import HINT_PROVISION, describe, explain
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.broker.rabbitmq.sockets import RESET_ON_CONNECTING
from qkdrelay.errors import BrokerUnreachableError

_PREFETCH: Final = 100
_PERSISTENT: Final = 2
_NOT_FOUND: Final = 404

_T = TypeVar("_T")


class RabbitMqClient:
    """Implements `qkdrelay.broker.port.Client`.

    Connects to the first of the settings' addresses that answers. ``watch`` lists topic patterns of
    events to receive beside the replies. Not for several threads.
    """

    def __init__(self, settings: RabbitMqSettings, *, watch: Sequence[str] = ()) -> None:
        self._settings = settings
        self._address = f"{CLIENT_QUEUE_PREFIX}{uuid.uuid4()}"
        self._arrived: deque[tuple[int | None, tuple[str, str, bytes]]] = deque()
        """Messages with the delivery tag to acknowledge once each is taken: of those in a bundle, the last has it."""
        self._connection = _connect(settings)
        try:
            self._channel = self._guard(lambda: self._set_up(watch))
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """See `Client.address`."""
        return self._address

    def send(self, body: bytes) -> None:
        """See `Client.send`."""
        check_size([Publication(None, CLI_EXCHANGE, REQUESTS_KEY, body)])
        try:
            self._guard(
                lambda: self._channel.basic_publish(
                    CLI_EXCHANGE,
                    REQUESTS_KEY,
                    body,
                    pika.BasicProperties(delivery_mode=_PERSISTENT),
                    mandatory=True,
                )
            )
        except UnroutableError:
            raise BrokerUnreachableError(
                f"the coordinator has no queue on the broker (virtual host {self._settings.vhost!r})",
                hint=HINT_PROVISION,
            ) from None
        except NackError:
            raise BrokerUnreachableError(
                "the coordinator's queue is full: it does not read its requests",
                hint="look whether the coordinator is running",
            ) from None

    def receive(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        """See `Client.receive`; heartbeats go on while it waits."""
        deadline = time.monotonic() + timeout_s
        while not self._arrived and (left := deadline - time.monotonic()) > 0:
            self._guard(lambda: self._connection.process_data_events(time_limit=left))
        if not self._arrived:
            return None
        tag, message = self._arrived.popleft()
        if tag is not None:
            self._guard(lambda: self._channel.basic_ack(tag))
        return message

    def close(self) -> None:
        """See `Client.close`."""
        if self._connection.is_open:
            with suppress(AMQPError):  # lost instead of closed: just as gone
                self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _set_up(self, watch: Sequence[str]) -> Any:
        channel = self._connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(
            self._address,
            exclusive=True,
            # Said outright: a virtual host's default may be quorum, which cannot be exclusive.
            arguments={"x-queue-type": "classic"},
        )
        channel.queue_bind(self._address, REPLIES_EXCHANGE, self._address)
        for pattern in watch:
            channel.queue_bind(self._address, EVENTS_EXCHANGE, pattern)
        channel.basic_qos(prefetch_count=_PREFETCH)
        channel.basic_consume(self._address, self._keep)
        return channel

    def _keep(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        *others, last = unpacked(body, properties.content_type)
        for part in others:
            self._arrived.append((None, (method.exchange, method.routing_key, part)))
        self._arrived.append((method.delivery_tag, (method.exchange, method.routing_key, last)))

    def _guard(self, call: Callable[[], _T]) -> _T:
        """Run ``call`` and turn what pika raises when the broker refuses or goes away into our error."""
        try:
            return call()
        except (UnroutableError, NackError):
            raise
        except ChannelClosedByBroker as error:
            missing = error.reply_code == _NOT_FOUND
            raise BrokerUnreachableError(
                f"the broker refuses user {self._settings.user!r}: {error.reply_text}",
                hint=HINT_PROVISION if missing else "this user may not do that: use the user made for the command line",
            ) from None
        except AMQPError as error:
            raise BrokerUnreachableError(
                f"the connection to the broker was lost: {describe(error)}", hint="try again"
            ) from None


def _connect(settings: RabbitMqSettings) -> Any:
    """Return a connection to the first address that takes one; raise what is wrong with the last."""
    failure: BrokerUnreachableError | None = None
    for address in settings.hosts:
        parameters = settings.parameters(address, "client")
        try:
            return pika.BlockingConnection(parameters)
        except (AMQPError, AMQPConnectorStackTimeout, OSError, UnicodeError) as error:
            failure = explain(error, settings, address)
        except ValueError:  # see Sockets
            failure = explain(ConnectionResetError(RESET_ON_CONNECTING), settings, address)
    assert failure is not None  # noqa: S101 - the settings have at least one address
    raise failure from None
