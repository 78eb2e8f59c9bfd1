"""What was handed to the broker and is not confirmed yet, counted by routing key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from qkdrelay.broker.port import Publication


class Backlog:
    """What is in the outbox and not confirmed, by routing key: a queue that nobody reads must stop nobody else."""

    def __init__(self) -> None:
        self._keys: dict[int, tuple[str, int]] = {}
        self._counts: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def add(self, publications: Iterable[Publication]) -> None:
        """Count what was handed to the broker."""
        for publication in publications:
            if publication.id is not None:
                self._keys[publication.id] = publication.routing_key, len(publication.body)
                self._counts[publication.routing_key] += 1
                self._bytes[publication.routing_key] += len(publication.body)

    def confirmed(self, ids: Iterable[int]) -> None:
        """Take off what the broker has taken over."""
        for number in ids:
            key, size = self._keys.pop(number, ("", 0))
            self._counts[key] -= 1
            self._bytes[key] -= size

    def of(self, routing_key: str) -> tuple[int, int]:
        """Return how many messages with this routing key are not confirmed, and their bytes."""
        return self._counts[routing_key], self._bytes[routing_key]

    def by_queue(self) -> dict[str, tuple[int, int]]:
        """Return `of` each routing key that was ever counted."""
        return {key: (count, self._bytes[key]) for key, count in self._counts.items() if key}

    def total(self) -> tuple[int, int]:
        """Return how many messages are not confirmed, and their bytes."""
        return len(self._keys), sum(self._bytes.values())
