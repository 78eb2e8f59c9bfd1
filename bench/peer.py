"""A bare pika client that is as fast as pika allows: pipelined confirms, manual acknowledgements, no more.

Its connection has the streams that the services have under theirs: pika's own read 4 KiB at a time, and took up to a
third of the rate (`docs/performance.md`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop, SelectConnection

from qkdrelay.broker.rabbitmq.sockets import Sockets

WINDOW_MAX = 500
"""Messages unconfirmed, and messages unacknowledged, where they are short."""
WINDOW_MIN = 50
WINDOW_BYTES = 8 << 20
"""Long messages are the faster the fewer are on their way, down to some fifty."""
_PERSISTENT = pika.BasicProperties(delivery_mode=2)

OnMessage = Callable[["Peer", str, bytes], None]


def window(size: int) -> int:
    """Return how many messages of ``size`` bytes are on their way at once."""
    return max(WINDOW_MIN, min(WINDOW_MAX, WINDOW_BYTES // max(1, size)))


class Peer:
    """One connection, one channel. A message is acknowledged once all that was published because of it is confirmed."""

    def __init__(
        self,
        parameters: pika.ConnectionParameters,
        queues: Sequence[str],
        on_message: OnMessage,
        *,
        in_flight: int = WINDOW_MAX,
        pikas_streams: bool = False,
    ) -> None:
        """``on_message`` gets (this peer, queue, body) of each delivery; ``in_flight`` bounds each way."""
        self.loop = IOLoop()
        self.on_ready: Callable[[], None] = lambda: None
        self._queues, self._on_message, self._in_flight = queues, on_message, in_flight
        self._waiting: deque[tuple[str, str, bytes]] = deque()
        self._sent = self._enqueued = self._confirmed = 0
        self._unconfirmed: dict[int, None] = {}
        """Numbers of messages, oldest first."""
        self._handled: deque[tuple[int, int]] = deque()
        """(delivery tag, number of the last message published because of it)."""
        self._channel: Any = None
        self._connection = SelectConnection(
            parameters,
            on_open_callback=self._opened,
            on_close_callback=self._lost,
            custom_ioloop=self.loop if pikas_streams else Sockets(self.loop),
        )

    def publish(self, exchange: str, routing_key: str, body: bytes) -> None:
        """Publish a persistent message as soon as few enough are unconfirmed."""
        self._waiting.append((exchange, routing_key, body))
        self._enqueued += 1
        self._send()

    def declare_own_queue(self, name: str, exchange: str) -> None:
        """Consume an exclusive queue of this peer's own, bound to ``exchange`` by its name."""
        self._channel.queue_declare(name, exclusive=True, arguments={"x-queue-type": "classic"})
        self._channel.queue_bind(name, exchange, name)
        self._consume(name)

    def run(self) -> None:
        """Run until `stop`."""
        self.loop.start()

    def _lost(self, _connection: object, reason: Exception) -> None:
        raise RuntimeError(f"the broker closed the benchmark's connection: {reason}")

    def _opened(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._channel_opened)

    def _channel_opened(self, channel: Any) -> None:
        self._channel = channel
        channel.basic_qos(prefetch_count=self._in_flight)
        channel.confirm_delivery(self._settle, callback=self._confirming)

    def _confirming(self, _frame: object) -> None:
        for queue in self._queues:
            self._consume(queue)
        self.on_ready()
        self._send()

    def _consume(self, queue: str) -> None:
        def deliver(_channel: object, method: Any, _properties: object, body: bytes) -> None:
            self._on_message(self, queue, body)
            self._handled.append((method.delivery_tag, self._enqueued))
            self._acknowledge()

        self._channel.basic_consume(queue, deliver)

    def _send(self) -> None:
        while self._waiting and self._channel is not None and len(self._unconfirmed) < self._in_flight:
            exchange, key, body = self._waiting.popleft()
            self._sent += 1
            self._unconfirmed[self._sent] = None
            self._channel.basic_publish(exchange, key, body, _PERSISTENT, mandatory=True)

    def _settle(self, frame: Any) -> None:
        if frame.method.NAME != "Basic.Ack":
            raise RuntimeError("the broker refused a message of the benchmark")
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            while self._unconfirmed and (oldest := next(iter(self._unconfirmed))) <= tag:
                del self._unconfirmed[oldest]
        else:
            self._unconfirmed.pop(tag, None)
        self._confirmed = next(iter(self._unconfirmed), self._sent + 1) - 1
        self._acknowledge()
        self._send()

    def _acknowledge(self) -> None:
        """Acknowledge, several at once, what is handled and confirmed."""
        last = 0
        while self._handled and self._handled[0][1] <= self._confirmed:
            last, _ = self._handled.popleft()
        if last:
            self._channel.basic_ack(last, multiple=True)
