"""Numbers against replay: those given out here, and those of others that were seen (protocol, section 7)."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Literal

from qkdrelay.errors import ForgedMessageError, NumberReusedError
from qkdrelay.randomness import epoch_after
from qkdrelay.service.batch import Cell
from qkdrelay.service.meta import Meta
from qkdrelay.service.tables import Store, Table

WINDOW_BACK = 32_768
"""How far behind the highest finished number of a stream a late message may still be."""
WINDOW_ENDED = 4_096
"""The same for a stream whose sender has begun a new epoch since."""
_FORGET_EVERY = 64
"""So many numbers that are too far behind may still be remembered."""
EPOCHS_MAX = 64
"""Epochs of one stream that are remembered: a peer begins one at each start. Older ones are refused."""

SCHEMA = """
CREATE TABLE given (stream TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE heard (id INTEGER PRIMARY KEY, stream TEXT NOT NULL, epoch BLOB NOT NULL,
                    highest INTEGER NOT NULL, below INTEGER NOT NULL, UNIQUE (stream, epoch));
CREATE TABLE finished (heard INTEGER NOT NULL, number INTEGER NOT NULL, tag BLOB NOT NULL,
                       PRIMARY KEY (heard, number)) WITHOUT ROWID;
"""


class OwnNumbers(Table):
    """Numbers of what is signed here: what is given out is never given again."""

    def __init__(self, store: Store, meta: Meta) -> None:
        super().__init__(store)
        self._meta = meta
        self._next: dict[str, int] = store.batch.cache({})
        """The next number of each stream, as far as it was asked for."""
        self._given: set[str] = store.batch.scratch(set())
        """The streams to write."""
        self._epoch = Cell[bytes | None](store.batch, None)

    @property
    def epoch(self) -> bytes:
        """Of what is signed now: numbers are never those of an earlier start or connection.

        So a store that was lost, or restored from an old copy, gives none again that was given before; nor does one of
        two copies of a running machine, once it has noticed that the connection it goes on with is a new one. With
        another epoch the link key that was granted is dropped, too.
        """
        epoch = self._epoch.value
        if epoch is None:
            epoch = self._epoch.value = self._begin_epoch()
        return epoch

    def end_epoch(self) -> None:
        """Have the next message begin another epoch: there is a new connection on which messages leave."""
        self._epoch.value = None

    def is_beyond(self, epoch: bytes) -> bool:
        """Whether ``epoch`` is later than all that were begun here."""
        return epoch > (self._epoch.value or self._meta.get("epoch") or b"")

    def go_beyond(self, epoch: bytes) -> None:
        """Have the next message begin an epoch after ``epoch``, which is later than all here."""
        self._meta.set("epoch", epoch)
        self._epoch.value = None

    def _begin_epoch(self) -> bytes:
        """Return an epoch after all of this store: peers refuse one that is older than all they know."""
        epoch = epoch_after(self._meta.get("epoch") or b"", time.time(), secrets.token_bytes)
        self._meta.set("epoch", epoch)
        return epoch

    def flush(self) -> None:
        """Write how far each stream is."""
        if self._given:
            given = [(stream, self._next[stream]) for stream in self._given]
            insert = "INSERT INTO given VALUES (?, ?) ON CONFLICT DO UPDATE SET next = excluded.next"
            self._db.executemany(insert, given)
            self._given.clear()

    def next(self, stream: str) -> int:
        """Return the next number of ``stream`` and move on by one."""
        number = self._next.get(stream)
        if number is None:
            row = self.one("SELECT next FROM given WHERE stream = ?", stream)
            number = row[0] if row else 0
        self._next[stream] = number + 1
        self._given.add(stream)
        return number


@dataclass(eq=False, slots=True)
class _Stream:
    """One epoch of a stream of numbers that somebody else gives out."""

    id: int
    highest: int
    """The highest number that was finished."""
    below: int
    """Up to this one all are refused."""
    written: int
    """The highest number that the store has: none above it was finished before this transaction."""
    forgotten: int
    """The highest number when those too far behind it were deleted last."""


class SeenNumbers(Table):
    """Numbers of what others have signed: each is handled once."""

    def __init__(self, store: Store, meta: Meta) -> None:
        super().__init__(store)
        self._meta = meta
        self._streams: dict[tuple[str, bytes], _Stream] = store.batch.cache({})
        """What is known of each epoch of a stream, as far as it was asked for."""
        self._latest: dict[str, bytes] = store.batch.cache({})
        self._finished: dict[_Stream, dict[int, bytes]] = store.batch.scratch({})
        """Numbers to write, with their tags."""

    def flush(self) -> None:
        """Write what was finished."""
        if not self._finished:
            return
        for stream, finished in self._finished.items():
            rows = [(stream.id, number, tag) for number, tag in sorted(finished.items())]
            self._db.executemany("INSERT INTO finished VALUES (?, ?, ?)", rows)
            self._db.execute("UPDATE heard SET highest = ? WHERE id = ?", (stream.highest, stream.id))
            # By how far the numbers have come, not at some of them: they are the sender's choice.
            if stream.highest - stream.forgotten >= _FORGET_EVERY:
                stream.forgotten = stream.highest
                forgotten = (stream.id, stream.highest - WINDOW_BACK)
                self._db.execute("DELETE FROM finished WHERE heard = ? AND number <= ?", forgotten)
            stream.written = stream.highest
        self._finished.clear()

    def take(self, stream: str, epoch: bytes, number: int, tag: bytes) -> bool:
        """Remember ``number`` as handled; return whether it was not before. Raises as `check`."""
        if self.check(stream, epoch, number, tag) == "finished":
            return False
        self.finish(stream, epoch, number, tag)
        return True

    def check(self, stream: str, epoch: bytes, number: int, tag: bytes) -> Literal["new", "finished"]:
        """Say whether ``number`` was finished before.

        Raises ForgedMessageError for a number too far behind, for one that was finished with another tag, and for an
        epoch too many. However far ahead a number is, its tag was verified: what lies between was lost.
        """
        known = self._known(stream, epoch)
        if known is None:
            epochs, oldest = self.one("SELECT count(*), min(epoch) FROM heard WHERE stream = ?", stream)
            if epochs >= EPOCHS_MAX and epoch < oldest:
                raise ForgedMessageError(f"the epoch is older than the {epochs} of {stream} that are remembered")
            # Wherever it begins: this store may be younger than the peer's.
            return "new"
        highest = known.highest
        if number <= max(known.below, highest - WINDOW_BACK):
            raise ForgedMessageError(f"number {number} is too far behind {highest}, the highest of {stream}")
        done = self._finished_with(known, number)
        if done is None:
            return "new"
        if done != tag:
            raise NumberReusedError(f"number {number} of {stream} was used for another message before")
        return "finished"

    def latest(self, stream: str) -> bytes:
        """Return the latest epoch that is remembered of ``stream``; empty if there is none."""
        latest = self._latest.get(stream)
        if latest is None:
            latest = self._latest[stream] = self.one("SELECT max(epoch) FROM heard WHERE stream = ?", stream)[0] or b""
        return latest

    def finish(self, stream: str, epoch: bytes, number: int, tag: bytes) -> None:
        """Remember that ``number`` was handled, with its tag."""
        known = self._known(stream, epoch) or self._begin(stream, epoch, number)
        known.highest = max(known.highest, number)
        self._finished.setdefault(known, {})[number] = tag

    def verified_under(self, stream: str, mark: bytes) -> None:
        """Take note of the key of which ``mark`` is: what was seen of ``stream`` under another is forgotten.

        It verifies no more; and who knew that key may have had all epochs remembered that are to come.
        """
        before = self._meta.get(f"key of {stream}")
        if before == mark:
            return
        if before is not None:
            self._streams.clear()
            self._latest.clear()
            self.run("DELETE FROM finished WHERE heard IN (SELECT id FROM heard WHERE stream = ?)", stream)
            self._db.execute("DELETE FROM heard WHERE stream = ?", (stream,))
        self._meta.set(f"key of {stream}", mark)

    def epochs(self) -> dict[str, int]:
        """Return how many epochs of each stream are remembered."""
        return dict(self.all("SELECT stream, count(*) FROM heard GROUP BY stream"))

    def _known(self, stream: str, epoch: bytes) -> _Stream | None:
        known = self._streams.get((stream, epoch))
        if known is None:
            query = "SELECT id, highest, below FROM heard WHERE stream = ? AND epoch = ?"
            row = self.one(query, stream, epoch)
            if row is not None:
                known = self._streams[stream, epoch] = _Stream(
                    row[0], row[1], row[2], written=row[1], forgotten=row[1] - _FORGET_EVERY
                )
        return known

    def _finished_with(self, known: _Stream, number: int) -> bytes | None:
        """Return the tag that ``number`` was finished with, or None."""
        tag = self._finished.get(known, {}).get(number)
        if tag is None and number <= known.written:
            # Not through `run`: what is yet to be written was looked at above.
            query = "SELECT tag FROM finished WHERE heard = ? AND number = ?"
            row = self._db.one(query, (known.id, number))
            tag = None if row is None else row[0]
        return tag

    def _begin(self, stream: str, epoch: bytes, number: int) -> _Stream:
        """Remember a new epoch of a stream; of the others little is still to come, and the oldest are forgotten."""
        self.flush()
        self._streams.clear()
        self._latest.clear()
        self._db.execute("UPDATE heard SET below = max(below, highest - ?) WHERE stream = ?", (WINDOW_ENDED, stream))
        # One by one, so that only what goes is looked at: whoever sends may begin an epoch with each message.
        ended = self._db.all("SELECT id, below FROM heard WHERE stream = ?", (stream,))
        self._db.executemany("DELETE FROM finished WHERE heard = ? AND number <= ?", ended)
        surplus = "SELECT id FROM heard WHERE stream = ? ORDER BY epoch DESC LIMIT -1 OFFSET ?"
        for table, column in (("finished", "heard"), ("heard", "id")):
            self._db.execute(f"DELETE FROM {table} WHERE {column} IN ({surplus})", (stream, EPOCHS_MAX - 1))
        values = (stream, epoch, number, -1)
        cursor = self._db.execute("INSERT INTO heard (stream, epoch, highest, below) VALUES (?, ?, ?, ?)", values)
        begun = self._streams[stream, epoch] = _Stream(cursor.lastrowid or 0, number, -1, -1, number)
        return begun
