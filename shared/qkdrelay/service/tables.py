"""Tables of a store whose rows are written behind, and read only after that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from qkdrelay.service.batch import Batch
from qkdrelay.storage.connection import Connection, Cursor

T = TypeVar("T")


class Store(Protocol):
    """What a table needs of the store it is in."""

    connection: Connection
    batch: Batch

    def register(self, table: Table) -> None:
        """Have ``table`` flushed at the end of each transaction."""
        ...

    def parsed(self, parse: Callable[[Any], T], stored: object) -> T:
        """Return what ``parse`` makes of something stored. Raises StoreError if it is nothing a service wrote."""
        ...


class Table:
    """One or more tables of a store. What a batch changes may stay in memory until its end, or until it is read."""

    def __init__(self, store: Store, *others: Table) -> None:
        """``others`` are those that its statements run on, too."""
        self._store, self._db, self._others = store, store.connection, others
        store.register(self)

    def flush(self) -> None:
        """Write what is in memory only."""

    def _flush_all(self) -> None:
        for table in self._others:
            table.flush()
        self.flush()

    def run(self, sql: str, *values: object) -> Cursor:
        """Execute a statement, on what is flushed. Raises StoreError."""
        self._flush_all()
        return self._db.execute(sql, values)

    def one(self, sql: str, *values: object) -> Any:
        """Return the first row of a query, or None. Raises StoreError."""
        self._flush_all()
        return self._db.one(sql, values)

    def all(self, sql: str, *values: object) -> list[Any]:
        """Return the rows of a query. Raises StoreError."""
        self._flush_all()
        return self._db.all(sql, values)
