"""The hub of the in-process broker: exchanges, queues, permissions."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from qkdrelay.broker.memory.queue import Queue, QueueConsumer, QueuedMessage
from qkdrelay.broker.memory.routing import matches, no_route
from qkdrelay.broker.port import Publication


class MemoryHub:
    """The exchanges and queues of one network, made from what `qkdrelay.broker.definitions.definitions` returns.

    `MemoryBroker` and `MemoryClient` connect to it. Tests disturb it by `drop`, and make and delete what the
    definitions hold; the methods after those are for the connections, which hold ``lock`` when they call them.
    """

    def __init__(self, definitions: Mapping[str, Any], lock: threading.RLock | None = None) -> None:
        """``lock`` is that of the hubs of other sites, at which the same services read."""
        self.lock = lock or threading.RLock()
        self._numbers = count()
        self._kinds = {exchange["name"]: exchange["type"] for exchange in definitions["exchanges"]}
        self._bindings: dict[str, list[tuple[str, str, str]]] = {name: [] for name in self._kinds}
        self._policies = [(re.compile(policy["pattern"]), policy["definition"]) for policy in definitions["policies"]]
        self._permissions = {
            granted["user"]: (re.compile(granted["write"]), re.compile(granted["read"]))
            for granted in definitions["permissions"]
        }
        self.queues: dict[str, Queue] = {}
        for queue in definitions["queues"]:
            single = bool(queue["arguments"].get("x-single-active-consumer"))
            self.declare(queue["name"], single_active_consumer=single)
        for binding in definitions["bindings"]:
            self.bind(binding["source"], binding["routing_key"], binding["destination"], binding["destination_type"])
        self._connections: list[QueueConsumer] = []

    def drop(self, user: str) -> None:
        """Lose ``user``'s connections: what is unacknowledged goes back; the next `receive` reconnects."""
        with self.lock:
            for connection in [each for each in self._connections if each.user == user]:
                connection.lose()

    def bind(self, source: str, routing_key: str, destination: str, kind: str = "queue") -> None:
        """Add a binding from the exchange ``source`` to a queue or (``kind="exchange"``) an exchange."""
        with self.lock:
            self._bindings[source].append((routing_key, destination, kind))

    def unbind(self, source: str, routing_key: str, destination: str, kind: str = "queue") -> None:
        """Remove a binding that `bind` or the definitions made."""
        with self.lock:
            self._bindings[source].remove((routing_key, destination, kind))

    def make_queue(self, name: str) -> None:
        """Make a queue as in the definitions."""
        with self.lock:
            self.declare(name, single_active_consumer=True)

    def delete_queue(self, name: str) -> None:
        """Remove a queue with its messages and bindings."""
        with self.lock:
            self.delete(name)

    def make_exchange(self, name: str) -> None:
        """Make a topic exchange, to which nothing is bound yet."""
        with self.lock:
            self._kinds[name] = "topic"
            self._bindings[name] = []

    def delete_exchange(self, name: str) -> None:
        """Remove an exchange with its bindings to queues."""
        with self.lock:
            del self._kinds[name], self._bindings[name]

    def depth(self, queue: str) -> int:
        """Return how many messages wait in ``queue``, those delivered and unacknowledged not counted."""
        with self.lock:
            return len(self.queues[queue].ready)

    def join(self, connection: QueueConsumer) -> None:
        """Know a new connection."""
        self._connections.append(connection)

    def leave(self, connection: QueueConsumer) -> None:
        """Forget a connection that has closed."""
        self._connections.remove(connection)

    def may_read(self, user: str, name: str) -> bool:
        """Whether the permissions let ``user`` read ``name``."""
        return user in self._permissions and bool(self._permissions[user][1].search(name))

    def declare(self, name: str, *, single_active_consumer: bool) -> None:
        """Make a queue."""
        policy: Mapping[str, Any] = next(
            (definition for pattern, definition in self._policies if pattern.search(name)), {}
        )
        self.queues[name] = Queue(name, single_active_consumer, policy)

    def delete(self, name: str) -> None:
        """Remove a queue with its messages and bindings."""
        self.queues[name].ready.clear()
        for consumer in tuple(self.queues[name].consumers):
            consumer.lose_queue(name)
        del self.queues[name]
        for source, bound in self._bindings.items():
            self._bindings[source] = [binding for binding in bound if binding[1:] != (name, "queue")]

    def publish(self, user: str, publication: Publication) -> str | None:
        """Route one publication; return None if it was taken over, else why not."""
        exchange, key = publication.exchange, publication.routing_key
        if refusal := self.refusal(user, exchange):
            return refusal
        queues = self._route(exchange, key)
        if not queues:
            return no_route(exchange, key)
        accepted = [self._enqueue(queue, exchange, key, publication.body) for queue in queues]
        return None if all(accepted) else f"refused {key}"

    def refusal(self, user: str, exchange: str) -> str | None:
        """Return why ``user`` cannot publish to ``exchange``, or None."""
        if exchange not in self._kinds:
            return f"no exchange {exchange}"
        if user not in self._permissions or not self._permissions[user][0].search(exchange):
            return f"access to exchange {exchange} refused for user {user}"
        return None

    def _route(self, exchange: str, routing_key: str) -> list[Queue]:
        found: dict[str, Queue] = {}
        seen = {exchange}
        open_exchanges = [exchange]
        while open_exchanges:
            source = open_exchanges.pop()
            for pattern, destination, kind in self._bindings[source]:
                if not matches(self._kinds[source], pattern, routing_key):
                    continue
                if kind == "queue":
                    found[destination] = self.queues[destination]
                elif destination not in seen:
                    seen.add(destination)
                    open_exchanges.append(destination)
        return list(found.values())

    def _enqueue(self, queue: Queue, exchange: str, routing_key: str, body: bytes) -> bool:
        if queue.full_with(body) and queue.policy.get("overflow") == "reject-publish":
            return False
        queue.add(QueuedMessage(next(self._numbers), exchange, routing_key, body))
        while queue.full_with(b"") and queue.ready:
            queue.take()
        self.dispatch(queue)
        return True

    def dispatch(self, queue: Queue) -> None:
        """Deliver as much of a queue as its consumers have room for."""
        while queue.ready:
            willing = queue.consumers[:1] if queue.single_active_consumer else queue.consumers
            consumer = next((each for each in willing if each.has_room(queue.name)), None)
            if consumer is None:
                return
            consumer.deliver(queue.name, queue.take())
            if not queue.single_active_consumer:  # its turn is over
                queue.consumers.remove(consumer)
                queue.consumers.append(consumer)

    def give_back(self, unacknowledged: Iterable[tuple[str, QueuedMessage]]) -> None:
        """Put messages back where they were, or dead-letter what has come back too often."""
        touched: dict[str, Queue] = {}
        for name, message in unacknowledged:
            queue = self.queues.get(name)
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
            self.dispatch(queue)
