"""A service's durable memory: one SQLite file, one transaction a batch, one process at a time.

Every service has the same three things in it, each a room of its own: the transactional outbox, the numbers it has
given out, and those it has seen. The services' tables come beside them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from qkdrelay.errors import InvalidPlanError, MalformedMessageError, StoreError
from qkdrelay.service import numbers, outbox
from qkdrelay.service.batch import Batch
from qkdrelay.service.meta import Meta
from qkdrelay.service.numbers import OwnNumbers, SeenNumbers
from qkdrelay.service.outbox import Outbox
from qkdrelay.service.tables import Table
from qkdrelay.storage.connection import HINT_DAMAGED
from qkdrelay.storage.database import Access, Database, Sizes
from qkdrelay.storage.files import resolved

_SCHEMA_VERSION = 7
_NOT_OURS = (ValueError, TypeError, AttributeError, LookupError, MalformedMessageError, InvalidPlanError)
"""What reading something raises that no service wrote."""
T = TypeVar("T")


class Journal:
    """The durable memory of one service (a `qkdrelay.service.tables.Store`).

    Everything is written inside `transaction`. Raises StoreError, at any time, when the file cannot be used,
    belongs to another service, or is in use by another process.
    """

    def __init__(self, path: Path | None, name: str, schema: str, *, access: Access = "own") -> None:
        """Open or create the store of the service ``name`` at ``path``, owner-only; ``None`` keeps it in memory."""
        self.path = None if path is None else resolved(path)
        """The file, without links on the way to it; None for a store in memory."""
        self.batch = Batch()
        self._tables: list[Table] = []
        tables = f"{outbox.SCHEMA}{numbers.SCHEMA}{schema}"
        self._database = Database(self.path, name, _SCHEMA_VERSION, tables, access)
        self.connection = self._database.connection
        try:
            self.meta = Meta(self)
            self.outbox = Outbox(self)
            self.numbers = OwnNumbers(self, self.meta)
            self.seen = SeenNumbers(self, self.meta)
        except BaseException:
            self.close()
            raise

    def register(self, table: Table) -> None:
        """Have ``table`` flushed at the end of each transaction."""
        self._tables.append(table)

    def close(self) -> None:
        """Close the file and let others have it."""
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, on the disk and in memory; raises StoreError when the disk does not take it."""
        self.batch.begin()
        try:
            with self._database.transaction():
                yield
                for table in self._tables:
                    table.flush()
        except BaseException:
            self.batch.undo()
            raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise StoreError if what is read is nothing that a service wrote; it may be a secret, so it is not quoted."""
        try:
            yield
        except _NOT_OURS as error:
            raise self._damaged(error) from None

    def parsed(self, parse: Callable[[Any], T], stored: object) -> T:
        """Return what ``parse`` makes of something stored. Raises StoreError if that cannot be (see `reading`)."""
        try:
            return parse(stored)
        except _NOT_OURS as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> StoreError:
        what = f"the store {self.path} cannot be used: it is damaged ({type(error).__name__})"
        self.connection.failure = failure = StoreError(what, hint=HINT_DAMAGED)
        return failure

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
        self.meta.set("probe", secrets.token_bytes(8))

    def sizes(self) -> Sizes | None:
        """Return how much room the store takes and has; None for one in memory."""
        return self._database.sizes()
