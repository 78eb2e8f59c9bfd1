"""One service's connection to the in-process broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from qkdrelay.broker.intake import Intake
from qkdrelay.broker.memory.queue import Message
from qkdrelay.broker.port import Delivery, Publication, Received, check_size

if TYPE_CHECKING:
    from qkdrelay.broker.memory.hub import MemoryHub

_RETRY_S: Final = 0.05

_log = structlog.get_logger()


class MemoryBroker:
    """Implements `qkdrelay.broker.port.Broker`; made by `MemoryHub.connect`.

    `lose`, `has_room` and `deliver` are the hub's to call, with its lock held.
    """

    def __init__(self, hub: MemoryHub, user: str, queues: tuple[str, ...], prefetch: int) -> None:
        self.user = user
        self._hub = hub
        self._queues = queues
        self._prefetch = prefetch
        self._changed = threading.Condition(hub.lock)
        self._inbox = Intake()
        self._unacknowledged: dict[int, tuple[str, Message]] = {}
        self._load = dict.fromkeys(queues, 0)
        self._confirmed: list[int] = []
        self._held: list[Publication] = []
        self._retry_at = 0.0
        self._generation = 0
        self._tag = 0
        self._connected = False
        self._closed = False
        self._connect()

    def receive(self, limit: int, timeout_s: float, resting: Collection[str] = ()) -> Received:
        """See `Broker.receive`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if not self._connected and not self._closed:
                    self._connect()
                self._retry()
                now = time.monotonic()
                if self._confirmed or (limit > 0 and self._inbox.has_any(resting)) or now >= deadline or self._closed:
                    break
                wake_at = min(deadline, self._retry_at) if self._held else deadline
                self._changed.wait(max(0.0, wake_at - now))
            confirmed, self._confirmed = self._confirmed, []
            return Received(
                deliveries=self._inbox.take(limit, resting),
                confirmed=confirmed,
                connected=self._connected,
                generation=self._generation,
                publishing=self._generation,  # one connection for both
            )

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.acknowledge`."""
        with self._changed:
            freed = set()
            for delivery in deliveries:
                generation, tag = delivery.token
                if generation == self._generation and tag in self._unacknowledged:
                    queue, _ = self._unacknowledged.pop(tag)
                    self._load[queue] -= 1
                    freed.add(queue)
            for queue in freed:
                self._hub.dispatch(self._hub.queues[queue])

    def publish(self, publications: Sequence[Publication]) -> None:
        """See `Broker.publish`."""
        check_size(publications)
        with self._changed:
            if self._closed:
                return
            for publication in publications:
                self._try(publication)

    def close(self, timeout_s: float) -> None:
        """See `Broker.close`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            if self._closed:
                return
            self.lose()
            self._closed = True
            while self._held and time.monotonic() < deadline:
                self._changed.wait(max(0.0, min(deadline, self._retry_at) - time.monotonic()))
                self._retry()
            self._hub.leave(self)

    def _connect(self) -> None:
        """Consume, all queues or none, as RabbitMQ does: one refusal closes the channel."""
        hub = self._hub
        if not all(queue in hub.queues and hub.may_read(self.user, queue) for queue in self._queues):
            return
        self._generation += 1
        self._connected = True
        for name in self._queues:
            queue = hub.queues[name]
            queue.consumers.append(self)
            hub.dispatch(queue)

    def lose(self) -> None:
        """Lose the connection: everything unacknowledged goes back."""
        was_connected, self._connected = self._connected, False
        given_back = list(self._unacknowledged.values())
        self._unacknowledged.clear()
        self._inbox.clear()
        self._load = dict.fromkeys(self._queues, 0)
        if was_connected:
            for name in self._queues:
                self._hub.queues[name].consumers.remove(self)
        self._hub.give_back(given_back)
        self._changed.notify_all()

    def has_room(self, queue: str) -> bool:
        """Say whether the prefetch allows one more of ``queue``."""
        return self._load[queue] < self._prefetch

    def deliver(self, queue: str, message: Message) -> None:
        """Take one message of ``queue`` into the inbox."""
        self._tag += 1
        self._load[queue] += 1
        self._unacknowledged[self._tag] = (queue, message)
        delivery = Delivery(
            queue=queue,
            exchange=message.exchange,
            routing_key=message.routing_key,
            body=message.body,
            redelivered=message.returns > 0,
            token=(self._generation, self._tag),
        )
        self._inbox.add([delivery])
        self._changed.notify_all()

    def _try(self, publication: Publication) -> None:
        refusal = self._hub.publish(self.user, publication)
        if publication.id is None:
            return
        if refusal is None:
            self._confirmed.append(publication.id)
            self._changed.notify_all()
            return
        if not self._held:
            self._retry_at = time.monotonic() + _RETRY_S
            _log.warning("broker.publish_retried", user=self.user, reason=refusal)
        self._held.append(publication)

    def _retry(self) -> None:
        if self._held and time.monotonic() >= self._retry_at:
            held, self._held = self._held, []
            for publication in held:
                self._try(publication)
