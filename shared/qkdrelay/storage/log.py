"""Whether a store's main file and its write-ahead log belong together, and who carries the log over.

SQLite replays any log that is whole in itself over any file, also over one that was restored from another time.
So each commit leaves a mark that is never given again. The file, read without the log, shows how far it has been
carried; the log shows where it began and where it ends. They belong together if the former lies within the latter.

Only the owner writes and carries over. So the log begins anew when it says, and two processes that meet at a
checkpoint, which SQLite before 3.51.3 may get wrong, do not exist.
"""

from __future__ import annotations

import secrets
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qkdrelay.errors import StoreError
from qkdrelay.storage.connection import BUSY_TIMEOUT_S, HINT_DAMAGED, Connection, connect
from qkdrelay.storage.files import StoreFiles

LOG_BYTES = 16 << 20
"""What the log holds before it is carried over into the main file."""
LOG_BYTES_KEPT = LOG_BYTES - 1
"""What its file is cut to when it begins anew, to be written over: less, or it would count as long for ever."""
_HINDERED_REST_S = 1.0
"""How long to wait before the log is tried to be carried over once more, where a reader hindered it."""
_LOOK_EVERY_S = 0.1
"""How often to look who else is at the store while nothing is committed."""
# One row, and so one page, which never moves; the first, so that it is carried over before any other.
MARK_TABLE = "CREATE TABLE mark (id INTEGER PRIMARY KEY, generation BLOB, number INTEGER, parent BLOB);"
_HINT_MIXTURE = f"the files are copies of different times: {HINT_DAMAGED}"


@dataclass(frozen=True, slots=True)
class Mark:
    """Of one commit: nothing else in any copy of this store, or in another store, has it."""

    generation: bytes = b""
    """Of the log, from when it was last empty: random."""
    number: int = 0
    """Grows with each commit."""
    parent: bytes = b""
    """The commit that all before this generation ended with, as its `name`."""

    @property
    def name(self) -> bytes:
        """Bytes that say which commit this is."""
        return self.generation + self.number.to_bytes(8, "big")

    def includes(self, main: Mark) -> bool:
        """Whether a log that ends here has all that a main file that has come to ``main`` may lack."""
        return self.parent == main.name or (self.generation == main.generation and self.number >= main.number)


@dataclass(frozen=True, slots=True)
class Found:
    """What is there before anything is written: the format (0: nothing yet), and the last commit."""

    version: int
    mark: Mark


def look(db: Connection, path: Path) -> Found:
    """Return what a store has, through ``db`` that reads it. Raises StoreError unless file and log belong together."""
    db.execute("BEGIN")  # until its end nothing is carried over that it does not see
    try:
        with closing(connect(path, "alone")) as alone:
            whole, main = _look(db), _look(alone)
    finally:
        db.execute("ROLLBACK")
    if whole.mark.includes(main.mark):
        return whole
    raise StoreError(
        f"the store {path} cannot be used: {path.name} and {path.name}-wal do not belong together", hint=_HINT_MIXTURE
    )


def _look(db: Connection) -> Found:
    version = db.one("PRAGMA user_version")[0]
    if db.one("SELECT 1 FROM sqlite_schema WHERE name = 'mark'") is None:
        return Found(version, Mark())
    match db.one("SELECT generation, number, parent FROM mark"):
        case (bytes(generation), int(number), bytes(parent)) if number >= 0:
            return Found(version, Mark(generation, number, parent))
    raise StoreError(f"the store {db.path} cannot be used: it does not say what it is", hint=HINT_DAMAGED)


class Log:
    """The write-ahead log of the one connection that writes."""

    def __init__(self, db: Connection, files: StoreFiles | None, mark: Mark) -> None:
        """``mark`` is the last commit's; ``files`` is None for a store in memory."""
        self._db, self._files = db, files
        self._last, self._next = mark, mark if mark.generation else _begun_after(mark)
        self._size = 0
        self._rests_until = self._look_at = 0.0
        self._wrote = self._checked = False
        """Whether the last transaction was a commit, and whether the files were looked at before this one."""
        self._version = self._data_version()

    def _data_version(self) -> int:
        return int(self._db.one("PRAGMA data_version")[0])

    def begin(self) -> None:
        """Carry the log over if it has become long, before a transaction. Raises StoreError.

        Looks at the files after each commit, and else now and then: `check` does it where that was left out.
        """
        now = time.monotonic()
        due = now >= self._look_at
        self._checked = self._wrote or due
        if self._files is not None and self._checked:
            self._size = self._files.check()
            if due:  # else `check` is soon enough, and costs less within the transaction
                self._check_alone()
                self._look_at = now + _LOOK_EVERY_S
            self._wrote = False
        begins_anew = self._next.generation != self._last.generation
        if self._size >= LOG_BYTES and not begins_anew and now >= self._rests_until and not self.carry_over():
            self._rests_until = time.monotonic() + _HINDERED_REST_S

    def check(self) -> None:
        """Raise StoreError before a commit that would be lost, or be wrong: somebody else has changed the store."""
        if self._files is not None:  # in memory nobody else has it
            if not self._checked:
                self._size = self._files.check()
            self._check_alone()

    def _check_alone(self) -> None:
        if self._data_version() != self._version:
            raise StoreError(
                f"the store {self._db.path} was changed by somebody else while in use",
                hint="start the service again; nobody else may write into its store",
            )

    def mark(self) -> None:
        """Mark this transaction, at its end, as a commit."""
        self._next = Mark(self._next.generation, self._next.number + 1, self._next.parent)
        if self._next.generation == self._last.generation:
            self._db.execute("UPDATE mark SET number = ?", (self._next.number,))
            return
        row = (self._next.generation, self._next.number, self._next.parent)
        self._db.execute("INSERT OR REPLACE INTO mark VALUES (1, ?, ?, ?)", row)

    def committed(self) -> None:
        """Remember that what `mark` marked is committed."""
        self._last, self._wrote = self._next, True

    def carry_over(self, how: Literal["RESTART", "TRUNCATE"] = "RESTART", *, wait_s: float = 0.0) -> bool:
        """Carry the log over into the main file and begin it anew; with TRUNCATE nothing is left in it.

        Returns whether that is done: somebody who reads the store hinders it, and is waited for ``wait_s``.
        Raises StoreError if the disk does not take it.
        """
        self._checked = False
        self.check()
        self._db.execute(f"PRAGMA busy_timeout={wait_s * 1000:.0f}")
        try:
            busy, pages, carried = self._db.one(f"PRAGMA wal_checkpoint({how})")
        finally:
            self._db.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}")
            if self._files is not None:
                self._files.note()
        if not busy or pages == carried:  # then SQLite may begin it anew with the next commit
            self._next = _begun_after(self._last, self._next.number)
        return not busy


def _begun_after(last: Mark, number: int = 0) -> Mark:
    """Return the mark of no commit yet, in a log that begins anew after ``last``."""
    return Mark(secrets.token_bytes(16), number, last.name)
