"""Consumes one queue on a channel of its own: its deliveries, and which of them are still to be acknowledged."""

from __future__ import annotations

from collections.abc import Callable

from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from qkdrelay.broker.port import Delivery, place
from qkdrelay.broker.rabbitmq.bundle import unpacked
from qkdrelay.broker.rabbitmq.channel import LiveChannel
from qkdrelay.broker.rabbitmq.inbox import Inbox
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.messages.link import BUNDLE_MAX


class Reader:
    """Lives on the I/O loop's thread; all methods are called there."""

    def __init__(
        self, queue: str, settings: RabbitMqSettings, loop: IOLoop, inbox: Inbox, on_change: Callable[[], None]
    ) -> None:
        """``on_change`` is told when the queue begins, or ceases, to be consumed."""
        self.queue, self._site, self._place = queue, settings.site, place(queue, settings.site)
        self._prefetch = settings.prefetch
        self._inbox = inbox
        self._on_change = on_change
        self._live = LiveChannel(queue, settings, loop, inbox, on_channel=self._set_up, on_lost=self._lost)
        self._channel: Channel | None = None
        self._generation = 0
        self._first_generation: int | None = None
        self.asked = self.consumes = False
        """Whether the broker was asked for the queue and has not answered (before its connection was lost), and whether
        it has given it."""
        self._outstanding: dict[int, int] = {}
        """For each delivery tag not settled yet, ascending, which of its parts are not acknowledged: a bit for each."""

    def start(self, connection: SelectConnection, generation: int | None = None) -> None:
        """Consume on a new connection, with deliveries of ``generation``; None counts a new one when it succeeds."""
        self._first_generation = generation
        self.asked = True
        self._live.start(connection)

    def acknowledge(self, generation: int, parts: set[int]) -> None:
        """Acknowledge deliveries of one generation; those of an earlier one, or settled already, are ignored.

        A bundle is acknowledged once all in it is.
        The broker closes a channel that acknowledges a tag twice or one it does not know.
        """
        channel = self._channel
        if channel is None or not channel.is_open or generation != self._generation:
            return
        for part in parts:
            tag, number = divmod(part, BUNDLE_MAX)
            if tag in self._outstanding:
                self._outstanding[tag] &= ~(1 << number)
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
        self.asked = True
        # Deleted, or its node is gone: nothing else would tell.
        channel.add_on_cancel_callback(lambda _: self._live.drop(channel, "cancelled by the broker: deleted?"))
        channel.basic_qos(
            prefetch_count=self._prefetch,
            callback=lambda _: channel.basic_consume(
                self.queue, self._deliver, callback=lambda _: self._begin(channel)
            ),
        )

    def _begin(self, channel: Channel) -> None:
        self._channel = channel
        self._generation = self._first_generation or self._inbox.new_generation()
        self._first_generation = None
        self.asked, self.consumes = False, True
        self._live.works()
        self._on_change()

    def _deliver(self, channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        # No broker that keeps to the protocol does so; what is not acknowledged is kept here, and is bounded by that.
        if len(self._outstanding) >= self._prefetch:
            self._live.drop(channel, f"more than {self._prefetch} messages at a time, which nobody asked for")
            return
        if method.delivery_tag in self._outstanding:
            self._live.drop(channel, "two messages under one tag")
            return
        bodies = unpacked(body, properties.content_type)
        self._outstanding[method.delivery_tag] = (1 << len(bodies)) - 1
        self._inbox.deliver(
            [
                Delivery(
                    queue=self.queue,
                    exchange=_text(method.exchange),
                    routing_key=_text(method.routing_key),
                    body=part,
                    redelivered=method.redelivered,
                    token=(self._generation, method.delivery_tag * BUNDLE_MAX + number),
                    site=self._site,
                )
                for number, part in enumerate(bodies)
            ]
        )

    def _lost(self, alone: bool) -> None:
        self._channel = self._first_generation = None
        self._outstanding.clear()
        self._inbox.forget_deliveries(self._place)
        self.consumes = False
        self.asked = self.asked and not alone
        self._on_change()


def _text(name: str | bytes) -> str:
    """Return a name as it was sent; of one that is no UTF-8 pika hands over the bytes."""
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")
