"""One service's connection to the in-process broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from typing import Final

import structlog

from qkdrelay.broker.intake import Intake
from qkdrelay.broker.memory.hub import MemoryHub
from qkdrelay.broker.memory.queue import QueuedMessage
from qkdrelay.broker.memory.routing import no_route
from qkdrelay.broker.port import Delivery, Publication, Received, check_size

_RETRY_S: Final = 0.05

_log = structlog.get_logger()


class MemoryBroker:
    """Implements `qkdrelay.broker.port.Broker`, and `QueueConsumer` towards the hub.

    Of each of ``queues`` it holds up to ``prefetch`` deliveries unacknowledged.
    """

    def __init__(self, hub: MemoryHub, user: str, queues: Sequence[str] = (), prefetch: int = 100) -> None:
        self.user = user
        self._hub = hub
        self._queues = tuple(queues)
        self._prefetch = prefetch
        self._changed = threading.Condition(hub.lock)
        self._inbox = Intake()
        self._unacknowledged: dict[int, tuple[str, QueuedMessage]] = {}
        self._load = dict.fromkeys(queues, 0)
        self._confirmed: list[int] = []
        self._held: list[Publication] = []
        self._retry_at = 0.0
        self._generation = self._connections = 0
        self._tag = 0
        self._connected = False
        self._consumed: set[str] = set()
        self._refused: dict[str, str] = {}
        self._unrouted: dict[str, str] = {}
        self._started = self._closed = self._woken = False

    def start(self) -> None:
        """See `Broker.start`."""
        with self._changed:
            self._started = True
            self._connect()

    def wake(self) -> None:
        """See `Broker.wake`."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def receive(self, limit: int, timeout_s: float, resting: Collection[str] = ()) -> Received:
        """See `Broker.receive`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if self._started and not self._closed:
                    self._connect()
                self._retry()
                now = time.monotonic()
                has_any = self._confirmed or (limit > 0 and self._inbox.has_any(resting))
                if has_any or now >= deadline or self._closed or self._woken:
                    break
                wake_at = min(deadline, self._retry_at) if self._held else deadline
                self._changed.wait(max(0.0, wake_at - now))
            self._woken = False
            confirmed, self._confirmed = self._confirmed, []
            return Received(
                deliveries=self._inbox.take(limit, resting),
                confirmed=confirmed,
                connected=self._connected and (bool(self._consumed) or not self._queues),
                generation=self._generation,
                publishing=self._connections,
                refused=dict(self._refused),
                unrouted=dict(self._unrouted),
            )

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.acknowledge`."""
        with self._changed:
            freed = set()
            for delivery in deliveries:
                _, tag = delivery.token  # counts up for ever: no later connection has the same
                if tag in self._unacknowledged:
                    queue, _ = self._unacknowledged.pop(tag)
                    self._load[queue] -= 1
                    freed.add(queue)
            for queue in freed & self._consumed:
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

    def _connect(self) -> None:
        """Consume what is not consumed yet and can be: a queue that is refused does not concern the others."""
        if self._connected and len(self._consumed) == len(self._queues):
            return
        can = [queue for queue in self._queues if queue not in self._consumed and self._may_consume(queue)]
        if can or not self._connected:
            self._generation += 1
            self._woken = True
        if not self._connected:
            self._connections += 1
            self._connected = True
            self._hub.join(self)
        for name in can:
            self._consumed.add(name)
            queue = self._hub.queues[name]
            queue.consumers.append(self)
            self._hub.dispatch(queue)

    def _may_consume(self, queue: str) -> bool:
        if queue not in self._hub.queues:
            return self._refuse(queue, f"no queue {queue}")
        if not self._hub.may_read(self.user, queue):
            return self._refuse(queue, f"access to queue {queue} refused for user {self.user}")
        return self._refuse(queue, None)

    def _refuse(self, name: str, reason: str | None) -> bool:
        """Note why ``name`` cannot be used, or that it can; return whether it can."""
        before = self._refused.pop(name, None)
        if reason is not None:
            self._refused[name] = reason
            if before is None:
                _log.warning("broker.refused", user=self.user, name=name, reason=reason)
        return reason is None

    def lose(self) -> None:
        """See `QueueConsumer.lose`."""
        if self._connected:
            self._connected = False
            self._hub.leave(self)
        for name in tuple(self._consumed):
            self.lose_queue(name)
        self._changed.notify_all()

    def lose_queue(self, name: str) -> None:
        """See `QueueConsumer.lose_queue`."""
        self._consumed.discard(name)
        self._hub.queues[name].consumers.remove(self)
        given_back = [each for each in self._unacknowledged.values() if each[0] == name]
        self._unacknowledged = {tag: each for tag, each in self._unacknowledged.items() if each[0] != name}
        self._inbox.drop(name)
        self._load[name] = 0
        self._hub.give_back(given_back)

    def has_room(self, queue: str) -> bool:
        """See `QueueConsumer.has_room`."""
        return self._load[queue] < self._prefetch

    def deliver(self, queue: str, message: QueuedMessage) -> None:
        """See `QueueConsumer.deliver`."""
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
        self._note_outcome(publication, refusal)
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

    def _note_outcome(self, publication: Publication, refusal: str | None) -> None:
        """Name what refuses it, if that is its exchange or the want of a binding and not a queue that is full."""
        exchange, key = publication.exchange, publication.routing_key
        self._refuse(exchange, self._hub.refusal(self.user, exchange))
        self._unrouted.pop(key, None)
        if refusal == no_route(exchange, key) and publication.id is not None:
            self._unrouted[key] = exchange

    def _retry(self) -> None:
        if self._held and time.monotonic() >= self._retry_at:
            held, self._held = self._held, []
            for publication in held:
                self._try(publication)
