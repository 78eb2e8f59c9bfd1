"""A queue of the in-process broker, and the messages in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(slots=True)
class QueuedMessage:
    """One message in a queue."""

    number: int
    """Counts up through the hub: what comes back finds its place again."""
    exchange: str
    routing_key: str
    body: bytes = field(repr=False)
    returns: int = 0
    """Times it was delivered and came back."""


class QueueConsumer(Protocol):
    """A user's connection that consumes queues; the hub calls its methods with its lock held."""

    user: str

    def has_room(self, queue: str) -> bool:
        """Whether the prefetch allows one more of ``queue``."""
        ...

    def deliver(self, queue: str, message: QueuedMessage) -> None:
        """Take one message of ``queue``."""
        ...

    def lose(self) -> None:
        """Lose the connection: what is unacknowledged goes back."""
        ...

    def lose_queue(self, name: str) -> None:
        """Consume one queue no longer: what is unacknowledged of it goes back."""
        ...


@dataclass(slots=True)
class Queue:
    """Messages that are ready, and those who consume them, in turn or, if single active, the first only."""

    name: str
    single_active_consumer: bool
    policy: Mapping[str, Any]
    ready: deque[QueuedMessage] = field(default_factory=deque)
    ready_bytes: int = 0
    consumers: list[QueueConsumer] = field(default_factory=list)

    def add(self, message: QueuedMessage) -> None:
        """Append a message."""
        self.ready.append(message)
        self.ready_bytes += len(message.body)

    def take(self) -> QueuedMessage:
        """Remove the oldest message and return it."""
        message = self.ready.popleft()
        self.ready_bytes -= len(message.body)
        return message

    def full_with(self, body: bytes) -> bool:
        """Say whether ``body`` on top would exceed the policy's bound."""
        bound = self.policy.get("max-length-bytes")
        return bound is not None and self.ready_bytes + len(body) > bound
