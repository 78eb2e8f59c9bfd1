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

    def run(self, sql: str, *values: object) -> Cursor:
        """Execute a statement, on what is flushed. Raises StoreError."""
        for table in (*self._others, self):
            table.flush()
        return self._db.execute(sql, values)
