"""SQLite connections whose errors, wherever they come up, are StoreErrors: one line, and nothing of what is stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from qkdrelay.errors import StoreError

SQLITE_VERSION = sqlite3.sqlite_version
Cursor = sqlite3.Cursor
BUSY_TIMEOUT_S = 5.0
HINT_DAMAGED = "stop the service, put back one copy of all its files, or move them away; no link key is used again"
_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite's module raises: the second for an error whose text is damaged, too."""
_OUR_MISTAKES = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.NotSupportedError, sqlite3.InterfaceError)
"""Errors of SQLite's that no disk is to blame for."""
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT)
"""Codes of what a whole store never gives: also the error of a statement, since its tables are missing, then."""
_Mode = Literal["own", "read", "alone"]

P = ParamSpec("P")
T = TypeVar("T")


def _telling(method: Callable[P, T]) -> Callable[P, T]:
    def told(*args: P.args, **options: P.kwargs) -> T:
        try:
            return method(*args, **options)
        except _ERRORS as error:
            if isinstance(error, _OUR_MISTAKES):
                raise
            db: Connection = args[0].connection  # type: ignore[attr-defined]
            db.failure = _store_error(db.path, db.mode, error)
            raise db.failure from None

    return told


class _Cursor(sqlite3.Cursor):
    execute = _telling(sqlite3.Cursor.execute)
    executemany = _telling(sqlite3.Cursor.executemany)
    fetchone = _telling(sqlite3.Cursor.fetchone)
    fetchall = _telling(sqlite3.Cursor.fetchall)
    __next__ = _telling(sqlite3.Cursor.__next__)  # type: ignore[arg-type]


class Connection(sqlite3.Connection):
    """A connection to the store at ``path``."""

    path: Path | None
    mode: _Mode
    failure: StoreError | None = None
    """The last one: a transaction in which something failed is not committed, whoever made what of the error."""

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:  # type: ignore[override]
        """Execute a statement. Raises StoreError, as the cursor does that this returns."""
        cursor: sqlite3.Cursor = self.cursor(_Cursor).execute(sql, parameters)
        return cursor

    def check_failure(self) -> None:
        """Raise the error of a statement that failed, if one has."""
        if self.failure is not None:
            raise self.failure

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> sqlite3.Cursor:  # type: ignore[override]
        """Execute a statement with each of ``rows``. Raises StoreError."""
        cursor = self.cursor(_Cursor)
        # Most batches have nothing for most tables, and a statement costs as much for no row as for one.
        return cursor if rows == [] else cursor.executemany(sql, rows)


def connect(path: Path | None, mode: _Mode) -> Connection:
    """Connect to the store at ``path`` (None: in memory): as its owner, to read it, or to read the main file alone.

    Alone is without the write-ahead log, as if there were none; also where the file is not whole without it.
    """
    access = {"own": "mode=rw", "read": "mode=ro", "alone": "mode=ro&immutable=1"}[mode]
    where = ":memory:" if path is None else f"{path.absolute().as_uri()}?{access}"
    try:
        db = sqlite3.connect(
            where, uri=path is not None, isolation_level=None, timeout=BUSY_TIMEOUT_S, factory=Connection
        )
    except _ERRORS as error:
        raise _store_error(path, mode, error) from None
    db.path, db.mode = path, mode
    if mode == "alone":
        db.execute("PRAGMA writable_schema=ON")  # a file that is too short for its header is not refused
    return db


def is_contradiction(error: BaseException) -> bool:
    """Whether a statement was against a rule of its table: a mistake of ours, unless the file is damaged."""
    return isinstance(error, sqlite3.IntegrityError)


def _store_error(path: Path | None, mode: _Mode, error: Exception) -> StoreError:
    """Return what ``error`` means for the store. What could not be decoded may be a secret, and is not repeated."""
    code = getattr(error, "sqlite_errorcode", None)
    text = " ".join(str(error).split())  # it may quote what is damaged
    if code is None or code & 0xFF in _DAMAGE:
        what = "it is damaged" if code is None else text
        return StoreError(f"the store {path} cannot be used: {what}", hint=HINT_DAMAGED)
    fails = "does not take a commit" if mode == "own" else "cannot be read"
    return StoreError(f"the store {path} {fails}: {text}")
