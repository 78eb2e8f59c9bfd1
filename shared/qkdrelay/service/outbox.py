"""The transactional outbox: what leaves is what was committed, those same bytes, until the broker has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from itertools import groupby

from qkdrelay.broker.port import Publication
from qkdrelay.service.tables import Store, Table
from qkdrelay.storage.database import PAGE_BYTES

SCHEMA = """
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, exchange TEXT NOT NULL,
                     routing_key TEXT NOT NULL, body BLOB NOT NULL, expires REAL);
"""
_CONFIRMED_MAX, _CONFIRMED_AGE_S = 500, 1.0
"""Confirmed messages that are not deleted yet, and how long the first of them waits."""


class Backlog:
    """What is in the outbox and not confirmed, by routing key: a queue that nobody reads must stop nobody else."""

    def __init__(self) -> None:
        self._keys: dict[int, tuple[str, int]] = {}
        self._counts: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._size = 0
        """Of all."""

    def add(self, publications: Iterable[Publication]) -> None:
        """Count what was handed to the broker."""
        for publication in publications:
            if publication.id is not None:
                self._keys[publication.id] = publication.routing_key, len(publication.body)
                self._counts[publication.routing_key] += 1
                self._bytes[publication.routing_key] += len(publication.body)
                self._size += len(publication.body)

    def confirmed(self, ids: Iterable[int]) -> None:
        """Take off what the broker has taken over."""
        for number in ids:
            key, size = self._keys.pop(number, ("", 0))
            self._counts[key] -= 1
            self._bytes[key] -= size
            self._size -= size

    def of(self, routing_key: str) -> tuple[int, int]:
        """Return how many messages with this routing key are not confirmed, and their bytes."""
        return self._counts[routing_key], self._bytes[routing_key]

    def by_queue(self) -> dict[str, tuple[int, int]]:
        """Return `of` each routing key that was ever counted."""
        return {key: (count, self._bytes[key]) for key, count in self._counts.items() if key}

    def total(self) -> tuple[int, int]:
        """Return how many messages are not confirmed, and their bytes."""
        return len(self._keys), self._size


class Outbox(Table):
    """Messages to publish after the commit. All methods but `drain_committed` belong in a transaction."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.backlog = Backlog()
        self._fresh: list[Publication] = store.batch.scratch([])
        self._outgoing: list[tuple[int, str, str, bytes, float | None]] = store.batch.scratch([])
        self._confirmed: list[int] = []
        self._confirmed_since = 0.0
        """What is confirmed and not deleted yet, and since when there is any (seconds since the epoch)."""
        self._long: set[int] = set()
        """Messages that take pages of their own, until they are confirmed."""
        # Never the id of a message before, also if that is gone: AUTOINCREMENT's own promise, kept by hand.
        last = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)"
        self._next_id = 1 + store.parsed(int, self.one(last)[0])

    def flush(self) -> None:
        """Write what was put in so far: few statements for many messages."""
        if self._outgoing:
            self._db.executemany("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", self._outgoing)
            self._outgoing.clear()

    def put(
        self, exchange: str, routing_key: str, body: bytes, expires: float | None = None, *, urgent: bool = True
    ) -> None:
        """Put a message in; it is published after the commit, until confirmed.

        After ``expires`` (seconds since the epoch) it is of no use to anybody, and a restart leaves it out.
        ``urgent`` as for `Publication`.
        """
        self._fresh.append(Publication(self._next_id, exchange, routing_key, body, urgent))
        self._outgoing.append((self._next_id, exchange, routing_key, body, expires))
        self._next_id += 1

    def publish_once(self, exchange: str, routing_key: str, body: bytes) -> None:
        """Publish a message after the commit at most once: an answer that nobody may wait for any more."""
        self._fresh.append(Publication(None, exchange, routing_key, body))

    def drain_committed(self) -> list[Publication]:
        """Return what the last transaction is to publish."""
        fresh = self._fresh.copy()
        self._fresh.clear()
        self.backlog.add(fresh)
        self._long.update(message.id for message in fresh if message.id and len(message.body) >= PAGE_BYTES)
        return fresh

    def unconfirmed(self, now: float) -> list[Publication]:
        """Return everything that is not confirmed yet, oldest first; forget what has expired."""
        self.run("DELETE FROM outbox WHERE expires < ?", now)
        query = "SELECT id, exchange, routing_key, body FROM outbox ORDER BY id"
        return [Publication(*row) for row in self.run(query)]

    def publish_unconfirmed(self, now: float) -> None:
        """Publish everything that is not confirmed yet after the commit, as if it was put in just now. For a start."""
        self._fresh[:] = [*self.unconfirmed(now), *(each for each in self._fresh if each.id is None)]

    def drop(self, routing_key: str) -> None:
        """Delete what is there under this key: nobody takes it any more. Only before `publish_unconfirmed`."""
        self.run("DELETE FROM outbox WHERE routing_key = ?", routing_key)

    def note_confirmed(self, ids: Collection[int], now: float) -> None:
        """Take note, outside of a transaction, of what the broker has taken over."""
        if ids and not self._confirmed:
            self._confirmed_since = now
        self._confirmed += ids
        self.backlog.confirmed(ids)

    def forget_confirmed(self, now: float, *, can_wait: bool = False) -> None:
        """Delete what is noted as confirmed; if that can wait, only once it is much or old.

        At worst a message is sent again, and recognized.
        """
        ids, age_s = self._confirmed, abs(now - self._confirmed_since)
        if ids and not (can_wait and len(ids) < _CONFIRMED_MAX and age_s < _CONFIRMED_AGE_S):
            self._confirmed = []
            self._store.batch.restore(partial(self._note_again, ids))
            self.confirm(ids)

    def _note_again(self, ids: list[int]) -> None:
        self._confirmed = ids + self._confirmed

    def confirm(self, ids: Collection[int]) -> None:
        """Delete messages that the broker has taken over."""
        delete = "DELETE FROM outbox WHERE id BETWEEN ? AND ?"
        long = self._long.intersection(ids)
        if not long:
            self._db.executemany(delete, _runs(ids))
            return
        self._long -= long
        self._store.batch.restore(partial(self._long.update, long))
        # What was to leave is sealed, signed or public: to wipe it would double what is written of long messages.
        self._db.execute("PRAGMA secure_delete=OFF")
        try:
            self._db.executemany(delete, _runs(ids))
        finally:
            self._db.execute("PRAGMA secure_delete=ON")


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of each run of consecutive numbers."""
    for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1]
