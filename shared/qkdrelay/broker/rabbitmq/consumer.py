"""Consumes the queues of one service: the half of the broker that receives and acknowledges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pika.adapters.select_connection import IOLoop
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from qkdrelay.broker.port import Delivery
from qkdrelay.broker.rabbitmq.bundle import BUNDLE_MAX, unpacked
from qkdrelay.broker.rabbitmq.connection import LiveConnection
from qkdrelay.broker.rabbitmq.inbox import Inbox
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings

ROLE = "consume"


class Consumer:
    """Lives on the I/O loop's thread; all methods are called there."""

    def __init__(self, settings: RabbitMqSettings, loop: IOLoop, inbox: Inbox, on_stopped: Callable[[], None]) -> None:
        self._settings = settings
        self._inbox = inbox
        self._connection = LiveConnection(
            ROLE, settings, loop, on_channel=self._set_up, on_lost=self._lost, on_stopped=on_stopped
        )
        self._channel: Channel | None = None
        self._outstanding: dict[int, int] = {}
        """For each delivery tag not settled yet, ascending, which of its parts are not acknowledged: a bit for each."""

    def start(self) -> None:
        """Connect and consume."""
        self._connection.start()

    def stop(self) -> None:
        """Close; what is not acknowledged goes back to its queue."""
        self._connection.stop()

    def acknowledge(self, generation: int, parts: set[int]) -> None:
        """Acknowledge deliveries of one generation; those of an earlier one, or settled already, are ignored.

        A bundle is acknowledged once all in it is.
        The broker closes a channel that acknowledges a tag twice or one it does not know.
        """
        channel = self._channel
        if channel is None or not channel.is_open or generation != self._inbox.generation:
            return
        for part in parts:
            tag, place = divmod(part, BUNDLE_MAX)
            if tag in self._outstanding:
                self._outstanding[tag] &= ~(1 << place)
        first = []  # every outstanding tag up to the last of these is to be acknowledged
        for tag, missing in self._outstanding.items():
            if missing:
                break
            first.append(tag)
        whole = {part // BUNDLE_MAX for part in parts}
        rest = sorted(tag for tag in whole.difference(first) if self._outstanding.get(tag) == 0)
        for tag in rest:
            channel.basic_ack(tag)
        if first:
            channel.basic_ack(first[-1], multiple=True)
        for tag in (*first, *rest):
            del self._outstanding[tag]

    def _set_up(self, channel: Channel) -> None:
        self._channel = channel
        generation = self._inbox.new_generation()
        # Queue deleted, node gone: without its consumer a channel is of no use, and nothing else would tell.
        channel.add_on_cancel_callback(lambda _: self._connection.give_up("a consumer was cancelled by the broker"))
        channel.basic_qos(prefetch_count=self._settings.prefetch, callback=lambda _: self._consume(generation))

    def _consume(self, generation: int) -> None:
        channel = self._channel
        if channel is None:
            return
        for queue in self._settings.queues:
            channel.basic_consume(queue, partial(self._deliver, generation, queue))
        # Answered in order, so after every basic_consume: a cheap way to know that all of them are set.
        channel.basic_qos(prefetch_count=self._settings.prefetch, callback=lambda _: self._ready(generation))

    def _ready(self, generation: int) -> None:
        self._inbox.working(ROLE, works=True)
        self._connection.ready(generation=generation, queues=len(self._settings.queues))

    def _deliver(
        self,
        generation: int,
        queue: str,
        _channel: Channel,
        method: Basic.Deliver,
        properties: BasicProperties,
        body: bytes,
    ) -> None:
        bodies = unpacked(body, properties.content_type)
        self._outstanding[method.delivery_tag] = (1 << len(bodies)) - 1
        self._inbox.deliver(
            [
                Delivery(
                    queue=queue,
                    exchange=method.exchange,
                    routing_key=method.routing_key,
                    body=part,
                    redelivered=method.redelivered,
                    token=(generation, method.delivery_tag * BUNDLE_MAX + place),
                )
                for place, part in enumerate(bodies)
            ]
        )

    def _lost(self) -> None:
        self._channel = None
        self._outstanding.clear()
        self._inbox.working(ROLE, works=False)
        self._inbox.forget_deliveries()
