"""A service's durable memory: one SQLite file, one transaction a batch, one process at a time.

Here is what every service needs: the transactional outbox, the numbers it has given out and those
it has finished. The services' stores add their own tables.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

from qkdrelay.broker.port import Publication
from qkdrelay.errors import ForgedMessageError, InvalidPlanError, MalformedMessageError, NumberReusedError, StoreError
from qkdrelay.service.backlog import Backlog
from qkdrelay.storage.connection import HINT_DAMAGED
from qkdrelay.storage.database import Access, Database, Sizes
from qkdrelay.storage.files import resolved

WINDOW_BACK = 32_768
"""How far behind the highest finished number of a stream a late message may still be."""
WINDOW_ENDED = 4_096
"""The same for a stream whose sender has begun a new epoch since."""
EPOCHS_MAX = 64
"""Epochs of one stream that are remembered: a peer begins one at each start. Older ones are refused."""
_SCHEMA_VERSION = 5
T = TypeVar("T")
_SCHEMA = """
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, exchange TEXT NOT NULL,
                     routing_key TEXT NOT NULL, body BLOB NOT NULL, expires REAL);
CREATE TABLE given (stream TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE heard (id INTEGER PRIMARY KEY, stream TEXT NOT NULL, epoch BLOB NOT NULL,
                    highest INTEGER NOT NULL, below INTEGER NOT NULL, UNIQUE (stream, epoch));
CREATE TABLE finished (heard INTEGER NOT NULL, number INTEGER NOT NULL, tag BLOB NOT NULL,
                       PRIMARY KEY (heard, number)) WITHOUT ROWID;
"""


@dataclass(eq=False, slots=True)
class _Heard:
    """One epoch of a stream of numbers that somebody else gives out."""

    id: int
    highest: int
    """The highest number that was finished."""
    below: int
    """Up to this one all are refused."""
    written: int
    """The highest number that the store has: none above it was finished before this transaction."""


class Journal:
    """The durable memory of the service called ``name``.

    Everything is written inside `transaction`. Raises StoreError, at any time, when the file cannot be used,
    belongs to another service, or is in use by another process.
    """

    def __init__(self, path: Path | None, name: str, schema: str, *, access: Access = "own") -> None:
        """Open or create the store at ``path``, owner-only; ``None`` keeps it in memory (the demo and tests)."""
        self.path = None if path is None else resolved(path)
        """The file, without links on the way to it; None for a store in memory."""
        self._fresh: list[Publication] = []
        self.backlog = Backlog()
        self._given: dict[str, int] = {}
        """The next number of each stream, as far as it was asked for."""
        self._heard: dict[tuple[str, bytes], _Heard] = {}
        """What is known of each epoch of a stream, as far as it was asked for."""
        self._outgoing: list[tuple[int, str, str, bytes, float | None]] = []
        self._given_now: set[str] = set()
        self._heard_now: dict[_Heard, dict[int, bytes]] = {}
        """What this transaction has yet to write: messages, streams, and numbers finished with their tags."""
        self._epoch: bytes | None = None
        self._database = Database(self.path, name, _SCHEMA_VERSION, f"{_SCHEMA}{schema}", access)
        self._db = self._database.connection
        # Never the id of a message before, also if that is gone: AUTOINCREMENT's own promise, kept by hand.
        last = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)"
        try:
            with self.looking():
                self._next_id = 1 + int(self._db.execute(last).fetchone()[0])
        except BaseException:
            self.close()
            raise

    @property
    def epoch(self) -> bytes:
        """Of what is sealed and signed now: numbers, and link key, are never those of an earlier start or connection.

        So a store that was lost, or restored from an old copy, draws no key again that was drawn before; nor does one
        of two copies of a running machine, once it has noticed that the connection it goes on with is a new one.
        """
        if self._epoch is None:
            self._epoch = self._begin_epoch()
        return self._epoch

    def end_epoch(self) -> None:
        """Have the next message begin another epoch: there is a new connection on which messages leave."""
        self._epoch = None

    def _begin_epoch(self) -> bytes:
        """Return 16 bytes that nobody else has and that sort after all earlier ones: milliseconds, then chance.

        After those of this store also where the clock was stepped back; peers refuse an epoch older than all they know.
        """
        with self.looking():
            last = int.from_bytes((self.get_meta("epoch") or b"")[:6], "big")
        milliseconds = max(time.time_ns() // 1_000_000, min(last + 1, 2**48 - 1))
        epoch = milliseconds.to_bytes(6, "big") + secrets.token_bytes(10)
        self.set_meta("epoch", epoch)
        return epoch

    def close(self) -> None:
        """Close the file and let others have it."""
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; raises StoreError when the disk does not take it."""
        self._fresh.clear()
        epoch = self._epoch
        try:
            with self._database.transaction():
                yield
                self._write()
        except BaseException:
            self._fresh.clear()
            self._forget_cached()
            if self._epoch != epoch:  # begun here, and not kept
                self._epoch = None
            raise

    def _forget_cached(self) -> None:
        """Forget what is kept in memory of the store: it is not, or no longer, what the store has."""
        for cached in (self._given, self._heard, self._outgoing, self._given_now, self._heard_now):
            cached.clear()

    def _write(self) -> None:
        """Write what this transaction has kept in memory so far: few statements for many messages."""
        self._db.executemany("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", self._outgoing)
        self._outgoing.clear()
        given = [(stream, self._given[stream]) for stream in self._given_now]
        self._db.executemany("INSERT INTO given VALUES (?, ?) ON CONFLICT DO UPDATE SET next = excluded.next", given)
        for heard, finished in self._heard_now.items():
            rows = [(heard.id, number, tag) for number, tag in sorted(finished.items())]
            self._db.executemany("INSERT INTO finished VALUES (?, ?, ?)", rows)
            self._db.execute("UPDATE heard SET highest = ? WHERE id = ?", (heard.highest, heard.id))
            # Each time, not now and then: the numbers are the sender's choice, and it could avoid the occasion.
            forgotten = (heard.id, heard.highest - WINDOW_BACK)
            self._db.execute("DELETE FROM finished WHERE heard = ? AND number <= ?", forgotten)
            heard.written = heard.highest
        self._given_now.clear()
        self._heard_now.clear()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Raise StoreError if what is read is nothing that a service wrote; it may be a secret, so it is not quoted."""
        try:
            yield
        except (ValueError, TypeError, AttributeError, MalformedMessageError, InvalidPlanError) as error:
            what = f"the store {self.path} cannot be used: it is damaged ({type(error).__name__})"
            self._db.failure = StoreError(what, hint=HINT_DAMAGED)
            raise self._db.failure from None

    def made(self, make: Callable[[Any], T], row: object) -> T:
        """Return what ``make`` makes of what was stored. Raises StoreError if that cannot be (see `looking`)."""
        with self.looking():
            return make(row)

    def scrub(self) -> bool:
        """Empty the write-ahead log, which still holds deleted rows; after a commit that destroyed keys.

        Returns whether it is done: somebody who reads the store meanwhile hinders it, and is not waited for.
        """
        try:
            return self._database.log.carry_over("TRUNCATE")
        except StoreError:  # a full disk, say: tried again later
            return False

    def probe(self) -> None:
        """Write something, whatever else this transaction does: its commit then proves that the disk takes it."""
        self.set_meta("probe", secrets.token_bytes(8))

    def sizes(self) -> Sizes | None:
        """Return how much room the store takes and has; None for one in memory."""
        return self._database.sizes()

    def epochs(self) -> dict[str, int]:
        """Return how many epochs of each stream are remembered."""
        return dict(self._db.execute("SELECT stream, count(*) FROM heard GROUP BY stream").fetchall())

    def get_meta(self, key: str) -> bytes | None:
        """Return a setting kept in the store."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def set_meta(self, key: str, value: bytes | None) -> None:
        """Keep or delete a setting."""
        if value is None:
            self._db.execute("DELETE FROM meta WHERE key = ?", (key,))
        else:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # --- the outbox --------------------------------------------------------------------------------

    def enqueue(
        self, exchange: str, routing_key: str, body: bytes, expires: float | None = None, *, hurried: bool = True
    ) -> None:
        """Put a message into the outbox; it is published after the commit, those same bytes, until confirmed.

        After ``expires`` (seconds since the epoch) it is of no use to anybody, and a restart leaves it out.
        ``hurried`` as for `Publication`.
        """
        self._fresh.append(Publication(self._next_id, exchange, routing_key, body, hurried))
        self._outgoing.append((self._next_id, exchange, routing_key, body, expires))
        self._next_id += 1

    def observe(self, exchange: str, routing_key: str, body: bytes) -> None:
        """Publish a message after the commit at most once: an answer that nobody may wait for any more."""
        self._fresh.append(Publication(None, exchange, routing_key, body))

    def take_fresh(self) -> list[Publication]:
        """Return what the last transaction is to publish."""
        fresh, self._fresh = self._fresh, []
        self.backlog.add(fresh)
        return fresh

    def outbox(self, now: float) -> list[Publication]:
        """Return everything that is not confirmed yet, oldest first; forget what has expired."""
        with self.transaction():
            self._db.execute("DELETE FROM outbox WHERE expires < ?", (now,))
        rows = self._db.execute("SELECT id, exchange, routing_key, body FROM outbox ORDER BY id")
        found = [Publication(*row) for row in rows]
        self.backlog.add(found)
        return found

    def drop_outgoing(self, routing_key: str) -> None:
        """Delete what is in the outbox under this key: nobody takes it any more. Only before `outbox` is read."""
        with self.transaction():
            self._db.execute("DELETE FROM outbox WHERE routing_key = ?", (routing_key,))

    def forget(self, ids: Iterable[int]) -> None:
        """Delete confirmed messages from the outbox."""
        # What was to leave is sealed, signed or public: to wipe it would double what is written of long messages.
        self._db.execute("PRAGMA secure_delete=OFF")
        try:
            self._db.executemany("DELETE FROM outbox WHERE id BETWEEN ? AND ?", _runs(ids))
        finally:
            self._db.execute("PRAGMA secure_delete=ON")

    # --- numbers -----------------------------------------------------------------------------------

    def next_number(self, stream: str, step: int = 1) -> int:
        """Return the next number of ``stream`` and move on by ``step``: what is given out is never given again."""
        if stream not in self._given:
            row = self._db.execute("SELECT next FROM given WHERE stream = ?", (stream,)).fetchone()
            self._given[stream] = row[0] if row else 0
        number = self._given[stream]
        self._given[stream] += step
        self._given_now.add(stream)
        return number

    def check_number(self, stream: str, epoch: bytes, number: int, tag: bytes) -> Literal["new", "finished"]:
        """Say whether ``number`` was finished before.

        Raises ForgedMessageError for a number too far behind, for one that was finished with another tag, and for an
        epoch too many. However far ahead a number is, its tag was verified: what lies between was lost.
        """
        heard = self._hear(stream, epoch)
        if heard is None:
            query = "SELECT count(*), min(epoch) FROM heard WHERE stream = ?"
            epochs, oldest = self._db.execute(query, (stream,)).fetchone()
            if epochs >= EPOCHS_MAX and epoch < oldest:
                raise ForgedMessageError(f"the epoch is older than the {epochs} of {stream} that are remembered")
            # Wherever it begins: this store may be younger than the peer's.
            return "new"
        highest = heard.highest
        if number <= max(heard.below, highest - WINDOW_BACK):
            raise ForgedMessageError(f"number {number} is too far behind {highest}, the highest of {stream}")
        done = self._finished_with(heard, number)
        if done is None:
            return "new"
        if done != tag:
            raise NumberReusedError(f"number {number} of {stream} was used for another message before")
        return "finished"

    def verified_under(self, stream: str, mark: bytes) -> None:
        """Take note of the key of which ``mark`` is: what was heard of ``stream`` under another is forgotten.

        It verifies no more; and who knew that key may have had all epochs remembered that are to come.
        """
        with self.transaction():
            before = self.get_meta(f"key of {stream}")
            if before is not None and before != mark:
                self._heard.clear()
                its = "SELECT id FROM heard WHERE stream = ?"
                self._db.execute(f"DELETE FROM finished WHERE heard IN ({its})", (stream,))
                self._db.execute("DELETE FROM heard WHERE stream = ?", (stream,))
            if before != mark:
                self.set_meta(f"key of {stream}", mark)

    def finish_number(self, stream: str, epoch: bytes, number: int, tag: bytes) -> None:
        """Remember that ``number`` was handled, with its tag."""
        heard = self._hear(stream, epoch) or self._begin(stream, epoch, number)
        heard.highest = max(heard.highest, number)
        self._heard_now.setdefault(heard, {})[number] = tag

    def _hear(self, stream: str, epoch: bytes) -> _Heard | None:
        heard = self._heard.get((stream, epoch))
        if heard is None:
            query = "SELECT id, highest, below FROM heard WHERE stream = ? AND epoch = ?"
            row = self._db.execute(query, (stream, epoch)).fetchone()
            if row is not None:
                heard = self._heard[stream, epoch] = _Heard(row[0], row[1], row[2], written=row[1])
        return heard

    def _finished_with(self, heard: _Heard, number: int) -> bytes | None:
        """Return the tag that ``number`` was finished with, or None."""
        tag = self._heard_now.get(heard, {}).get(number)
        if tag is None and number <= heard.written:
            query = "SELECT tag FROM finished WHERE heard = ? AND number = ?"
            row = self._db.execute(query, (heard.id, number)).fetchone()
            tag = None if row is None else row[0]
        return tag

    def _begin(self, stream: str, epoch: bytes, number: int) -> _Heard:
        """Remember a new epoch of a stream; of the others little is still to come, and the oldest are forgotten."""
        self._write()
        self._heard.clear()
        others = "SELECT id FROM heard WHERE stream = ?"
        self._db.execute("UPDATE heard SET below = max(below, highest - ?) WHERE stream = ?", (WINDOW_ENDED, stream))
        # One by one, so that only what goes is looked at: whoever sends may begin an epoch with each message.
        ended = self._db.execute("SELECT id, below FROM heard WHERE stream = ?", (stream,)).fetchall()
        self._db.executemany("DELETE FROM finished WHERE heard = ? AND number <= ?", ended)
        surplus = f"{others} ORDER BY epoch DESC LIMIT -1 OFFSET ?"
        for table, column in (("finished", "heard"), ("heard", "id")):
            self._db.execute(f"DELETE FROM {table} WHERE {column} IN ({surplus})", (stream, EPOCHS_MAX - 1))
        values = (stream, epoch, number, -1)
        cursor = self._db.execute("INSERT INTO heard (stream, epoch, highest, below) VALUES (?, ?, ?, ?)", values)
        heard = self._heard[stream, epoch] = _Heard(cursor.lastrowid or 0, number, -1, written=-1)
        return heard


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of each run of consecutive numbers."""
    for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1]
