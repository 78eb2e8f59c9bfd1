"""Deliveries that a service has yet to take: its queues in turn, so that a full one holds up no other."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from qkdrelay.broker.port import Delivery


class Intake:
    """Deliveries not taken yet, by their queue's place; within a queue in its order. Not for several threads."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Delivery]] = {}
        """The queue whose turn is next comes first; an empty one is not there."""
        self._dropped: frozenset[str] = frozenset()

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Put deliveries behind those of their queues."""
        for delivery in deliveries:
            self._waiting.setdefault(delivery.place, deque()).append(delivery)

    def has_any(self, resting: Collection[str]) -> bool:
        """Whether a queue that is not ``resting`` has something to take."""
        return any(queue not in resting for queue in self._waiting)

    def take(self, limit: int, resting: Collection[str]) -> list[Delivery]:
        """Return up to ``limit`` deliveries, one from each queue in turn, but for those that are ``resting``."""
        taken: list[Delivery] = []
        while len(taken) < limit and (ready := [queue for queue in self._waiting if queue not in resting]):
            for queue in ready[: limit - len(taken)]:
                deliveries = self._waiting.pop(queue)
                taken.append(deliveries.popleft())
                if deliveries:
                    self._waiting[queue] = deliveries
        return taken

    def drop(self, place: str) -> None:
        """Drop what has come of one queue."""
        self._waiting.pop(place, None)
        self._dropped |= {place}

    def dropped(self) -> frozenset[str]:
        """Return the queues of which `drop` was told since the last call."""
        dropped, self._dropped = self._dropped, frozenset()
        return dropped

    def clear(self) -> None:
        """Drop all."""
        self._waiting.clear()
