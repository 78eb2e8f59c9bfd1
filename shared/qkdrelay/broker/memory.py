"""The broker's contract within one process: for the demo, and for tests that drive a network by hand.

Built from the same definitions document as the real one, it routes, refuses, bounds, redelivers and
dead-letters as that does. It works with one thread that steps every service in turn (``timeout_s=0``)
and with a thread for each service.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

import structlog

from qkdrelay.broker.names import (
    CLI,
    CLI_EXCHANGE,
    CLIENT_QUEUE_PREFIX,
    EVENTS_EXCHANGE,
    REPLIES_EXCHANGE,
    REQUESTS_KEY,
)
from qkdrelay.broker.port import Delivery, Publication, Received, check_size
from qkdrelay.errors import BrokerUnreachableError

_RETRY_S: Final = 0.05
_CLIENT_PREFETCH: Final = 100

_log = structlog.get_logger()


@dataclass(slots=True)
class _Message:
    number: int
    exchange: str
    routing_key: str
    body: bytes = field(repr=False)
    returns: int = 0
    """How often it was delivered and came back."""


@dataclass(slots=True)
class _Queue:
    name: str
    single_active_consumer: bool
    policy: Mapping[str, Any]
    ready: deque[_Message] = field(default_factory=deque)
    ready_bytes: int = 0
    consumers: list[MemoryBroker] = field(default_factory=list)

    def add(self, message: _Message) -> None:
        self.ready.append(message)
        self.ready_bytes += len(message.body)

    def take(self) -> _Message:
        message = self.ready.popleft()
        self.ready_bytes -= len(message.body)
        return message

    def full_with(self, body: bytes) -> bool:
        bound = self.policy.get("max-length-bytes")
        return bound is not None and self.ready_bytes + len(body) > bound


class MemoryHub:
    """The broker itself. Takes what `qkdrelay.broker.names.definitions` returns."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._lock = threading.RLock()
        self._numbers = count()
        self._kinds = {exchange["name"]: exchange["type"] for exchange in definitions["exchanges"]}
        self._bindings: dict[str, list[tuple[str, str, str]]] = {name: [] for name in self._kinds}
        self._policies = [
            (re.compile(policy["pattern"]), policy["definition"]) for policy in definitions["policies"]
        ]
        self._permissions = {
            granted["user"]: (re.compile(granted["write"]), re.compile(granted["read"]))
            for granted in definitions["permissions"]
        }
        self._queues: dict[str, _Queue] = {}
        for queue in definitions["queues"]:
            self._declare(queue["name"], bool(queue["arguments"].get("x-single-active-consumer")))
        for binding in definitions["bindings"]:
            self.bind(
                binding["source"], binding["routing_key"], binding["destination"], binding["destination_type"]
            )
        self._brokers: list[MemoryBroker] = []

    def connect(self, user: str, queues: Sequence[str] = (), prefetch: int = 100) -> MemoryBroker:
        """Return ``user``'s broker; of each of ``queues`` it holds up to ``prefetch`` unacknowledged."""
        with self._lock:
            broker = MemoryBroker(self, user, tuple(queues), prefetch)
            self._brokers.append(broker)
            return broker

    def client(self, user: str = CLI, *, watch: Sequence[str] = ()) -> MemoryClient:
        """Return a command line's client; ``watch`` lists topic patterns of events to receive too."""
        return MemoryClient(self, user, watch)

    def drop(self, user: str) -> None:
        """Lose ``user``'s connections: what is unacknowledged goes back; the next `receive` reconnects."""
        with self._lock:
            for broker in [broker for broker in self._brokers if broker.user == user]:
                broker._lose()

    def bind(self, source: str, routing_key: str, destination: str, kind: str = "queue") -> None:
        """Add a binding from the exchange ``source`` to a queue or (``kind="exchange"``) an exchange."""
        with self._lock:
            self._bindings[source].append((routing_key, destination, kind))

    def unbind(self, source: str, routing_key: str, destination: str, kind: str = "queue") -> None:
        """Remove a binding that `bind` or the definitions made."""
        with self._lock:
            self._bindings[source].remove((routing_key, destination, kind))

    def depth(self, queue: str) -> int:
        """Return how many messages wait in ``queue``, those delivered and unacknowledged not counted."""
        with self._lock:
            return len(self._queues[queue].ready)

    # What follows is called with the lock held, by the classes of this module.

    def _may_write(self, user: str, exchange: str) -> bool:
        return user in self._permissions and bool(self._permissions[user][0].search(exchange))

    def _may_read(self, user: str, name: str) -> bool:
        return user in self._permissions and bool(self._permissions[user][1].search(name))

    def _declare(self, name: str, single_active_consumer: bool) -> None:
        policy: Mapping[str, Any] = next(
            (definition for pattern, definition in self._policies if pattern.search(name)), {}
        )
        self._queues[name] = _Queue(name, single_active_consumer, policy)

    def _delete(self, name: str) -> None:
        del self._queues[name]
        for source, bound in self._bindings.items():
            self._bindings[source] = [binding for binding in bound if binding[1:] != (name, "queue")]

    def _publish(self, user: str, publication: Publication) -> str | None:
        """Route one publication; return None if it was taken over, else why not."""
        exchange, key = publication.exchange, publication.routing_key
        if exchange not in self._kinds:
            return f"no exchange {exchange}"
        if not self._may_write(user, exchange):
            return f"access to exchange {exchange} refused for user {user}"
        queues = self._route(exchange, key)
        if not queues:
            return f"NO_ROUTE {exchange} {key}"
        accepted = [self._enqueue(queue, exchange, key, publication.body) for queue in queues]
        return None if all(accepted) else f"refused {key}"

    def _route(self, exchange: str, routing_key: str) -> list[_Queue]:
        found: dict[str, _Queue] = {}
        seen = {exchange}
        open_exchanges = [exchange]
        while open_exchanges:
            source = open_exchanges.pop()
            for pattern, destination, kind in self._bindings[source]:
                if not _matches(self._kinds[source], pattern, routing_key):
                    continue
                if kind == "queue":
                    found[destination] = self._queues[destination]
                elif destination not in seen:
                    seen.add(destination)
                    open_exchanges.append(destination)
        return list(found.values())

    def _enqueue(self, queue: _Queue, exchange: str, routing_key: str, body: bytes) -> bool:
        if queue.full_with(body) and queue.policy.get("overflow") == "reject-publish":
            return False
        queue.add(_Message(next(self._numbers), exchange, routing_key, body))
        while queue.full_with(b"") and queue.ready:
            queue.take()
        self._dispatch(queue)
        return True

    def _dispatch(self, queue: _Queue) -> None:
        while queue.ready:
            willing = queue.consumers[:1] if queue.single_active_consumer else queue.consumers
            consumer = next((each for each in willing if each._has_room(queue.name)), None)
            if consumer is None:
                return
            consumer._deliver(queue.name, queue.take())
            if not queue.single_active_consumer:  # its turn is over
                queue.consumers.remove(consumer)
                queue.consumers.append(consumer)

    def _give_back(self, unacknowledged: Iterable[tuple[str, _Message]]) -> None:
        """Put messages back where they were, or dead-letter what has come back too often."""
        touched: dict[str, _Queue] = {}
        for name, message in unacknowledged:
            queue = self._queues.get(name)
            if queue is None:
                continue
            message.returns += 1
            if message.returns > queue.policy.get("delivery-limit", message.returns):
                if dead_letters := queue.policy.get("dead-letter-exchange"):
                    for target in self._route(dead_letters, message.routing_key):
                        self._enqueue(target, dead_letters, message.routing_key, message.body)
                continue
            queue.add(message)
            touched[name] = queue
        for queue in touched.values():
            queue.ready = deque(sorted(queue.ready, key=lambda message: message.number))
            self._dispatch(queue)


class MemoryBroker:
    """Implements `qkdrelay.broker.port.Broker`; made by `MemoryHub.connect`."""

    def __init__(self, hub: MemoryHub, user: str, queues: tuple[str, ...], prefetch: int) -> None:
        self.user = user
        self._hub = hub
        self._queues = queues
        self._prefetch = prefetch
        self._changed = threading.Condition(hub._lock)
        self._inbox: deque[Delivery] = deque()
        self._unacknowledged: dict[int, tuple[str, _Message]] = {}
        self._load = dict.fromkeys(queues, 0)
        self._confirmed: list[int] = []
        self._held: list[Publication] = []
        self._retry_at = 0.0
        self._generation = 0
        self._tag = 0
        self._connected = False
        self._closed = False
        self._connect()

    def receive(self, limit: int, timeout_s: float) -> Received:
        """See `Broker.receive`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if not self._connected and not self._closed:
                    self._connect()
                self._retry()
                now = time.monotonic()
                if self._confirmed or (limit > 0 and self._inbox) or now >= deadline or self._closed:
                    break
                wake_at = min(deadline, self._retry_at) if self._held else deadline
                self._changed.wait(max(0.0, wake_at - now))
            confirmed, self._confirmed = self._confirmed, []
            taken = min(limit, len(self._inbox))
            return Received(
                deliveries=[self._inbox.popleft() for _ in range(taken)],
                confirmed=confirmed,
                connected=self._connected,
                generation=self._generation,
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
                self._hub._dispatch(self._hub._queues[queue])

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
            self._lose()
            self._closed = True
            while self._held and time.monotonic() < deadline:
                self._changed.wait(max(0.0, min(deadline, self._retry_at) - time.monotonic()))
                self._retry()
            self._hub._brokers.remove(self)

    # What follows is called with the hub's lock held.

    def _connect(self) -> None:
        """Consume, all queues or none, as RabbitMQ does: one refusal closes the channel."""
        hub = self._hub
        if not all(queue in hub._queues and hub._may_read(self.user, queue) for queue in self._queues):
            return
        self._generation += 1
        self._connected = True
        for name in self._queues:
            queue = hub._queues[name]
            queue.consumers.append(self)
            hub._dispatch(queue)

    def _lose(self) -> None:
        was_connected, self._connected = self._connected, False
        given_back = list(self._unacknowledged.values())
        self._unacknowledged.clear()
        self._inbox.clear()
        self._load = dict.fromkeys(self._queues, 0)
        if was_connected:
            for name in self._queues:
                self._hub._queues[name].consumers.remove(self)
        self._hub._give_back(given_back)
        self._changed.notify_all()

    def _has_room(self, queue: str) -> bool:
        return self._load[queue] < self._prefetch

    def _deliver(self, queue: str, message: _Message) -> None:
        self._tag += 1
        self._load[queue] += 1
        self._unacknowledged[self._tag] = (queue, message)
        self._inbox.append(
            Delivery(
                queue=queue,
                exchange=message.exchange,
                routing_key=message.routing_key,
                body=message.body,
                redelivered=message.returns > 0,
                token=(self._generation, self._tag),
            )
        )
        self._changed.notify_all()

    def _try(self, publication: Publication) -> None:
        refusal = self._hub._publish(self.user, publication)
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


class MemoryClient:
    """Implements `qkdrelay.broker.port.Client`; made by `MemoryHub.client`."""

    def __init__(self, hub: MemoryHub, user: str, watch: Sequence[str]) -> None:
        self._hub = hub
        self._user = user
        self._address = f"{CLIENT_QUEUE_PREFIX}{uuid.uuid4()}"
        with hub._lock:
            hub._declare(self._address, single_active_consumer=False)
            hub.bind(REPLIES_EXCHANGE, self._address, self._address)
            for pattern in watch:
                hub.bind(EVENTS_EXCHANGE, pattern, self._address)
        self._broker = hub.connect(user, [self._address], _CLIENT_PREFETCH)

    @property
    def address(self) -> str:
        """See `Client.address`."""
        return self._address

    def send(self, body: bytes) -> None:
        """See `Client.send`."""
        publication = Publication(None, CLI_EXCHANGE, REQUESTS_KEY, body)
        check_size([publication])
        with self._hub._lock:
            refusal = self._hub._publish(self._user, publication)
        if refusal is not None:
            raise BrokerUnreachableError(f"the coordinator's queue does not take the request: {refusal}")

    def receive(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        """See `Client.receive`."""
        received = self._broker.receive(1, timeout_s)
        if not received.connected:
            raise BrokerUnreachableError(f"user {self._user!r} may not read replies")
        self._broker.acknowledge(received.deliveries)
        return next(((each.exchange, each.routing_key, each.body) for each in received.deliveries), None)

    def close(self) -> None:
        """See `Client.close`."""
        with self._hub._lock:
            self._broker.close(0)
            if self._address in self._hub._queues:
                self._hub._delete(self._address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _matches(kind: str, pattern: str, routing_key: str) -> bool:
    """Whether a binding's ``pattern`` on an exchange of ``kind`` lets ``routing_key`` through."""
    if kind == "fanout":
        return True
    if kind == "direct":
        return pattern == routing_key
    return _topic(pattern).fullmatch("." + routing_key) is not None


@lru_cache(maxsize=4096)
def _topic(pattern: str) -> re.Pattern[str]:
    """Compile a topic pattern: ``*`` is one word, ``#`` any number of words."""
    parts = {"#": r"(\.[^.]*)*", "*": r"\.[^.]*"}
    return re.compile("".join(parts.get(word, r"\." + re.escape(word)) for word in pattern.split(".")))
