"""SQLite connections whose errors, wherever they come up, are StoreErrors: one line, and nothing of what is stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

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


class Connection(sqlite3.Connection):
    """A connection to the store at ``path``; raises StoreError for what fails of any statement, or of its rows."""

    path: Path | None
    mode: _Mode
    failure: StoreError | None = None
    """The last one: a transaction in which something failed is not committed, whoever made what of the error."""

    # One call from Python to SQLite's module for each statement: there are some hundreds in a relay.

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:  # type: ignore[override]
        """Execute a statement; its rows are read from what this returns, one by one."""
        try:
            return _execute(self.cursor(_Cursor), sql, parameters)
        except _ERRORS as error:
            raise self.failed(error) from None

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:  # type: ignore[override]
        """Execute a statement with each of ``rows``."""
        # Most batches have nothing for most tables, and a statement costs as much for no row as for one.
        if rows:
            try:
                _executemany(self, sql, rows)
            except _ERRORS as error:
                raise self.failed(error) from None

    def one(self, sql: str, parameters: Sequence[object] = ()) -> Any:
        """Execute a query; return its first row, or None if there is none."""
        try:
            return _run(self, sql, parameters).fetchone()
        except _ERRORS as error:
            raise self.failed(error) from None

    def all(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Execute a query; return its rows."""
        try:
            return _run(self, sql, parameters).fetchall()
        except _ERRORS as error:
            raise self.failed(error) from None

    def failed(self, error: Exception) -> Exception:
        """Return what to raise for ``error``, and remember that something has failed; a mistake of ours as it is."""
        if isinstance(error, _OUR_MISTAKES):
            return error
        self.failure = _store_error(self.path, self.mode, error)
        return self.failure


class _Cursor(sqlite3.Cursor):
    connection: Connection

    def fetchone(self) -> Any:
        try:
            return super().fetchone()
        except _ERRORS as error:
            raise self.connection.failed(error) from None

    def fetchall(self) -> list[Any]:
        try:
            return super().fetchall()
        except _ERRORS as error:
            raise self.connection.failed(error) from None

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except _ERRORS as error:
            raise self.connection.failed(error) from None


_run, _executemany, _execute = sqlite3.Connection.execute, sqlite3.Connection.executemany, sqlite3.Cursor.execute


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
