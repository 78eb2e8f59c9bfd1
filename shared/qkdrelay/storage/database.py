"""A store's SQLite database, as its one owner has it or as others may read it."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qkdrelay.errors import StoreError
from qkdrelay.storage.connection import BUSY_TIMEOUT_S, HINT_DAMAGED, Connection, connect, is_contradiction
from qkdrelay.storage.files import StoreFiles, check_files, log_of
from qkdrelay.storage.log import LOG_BYTES_KEPT, MARK_TABLE, Found, Log, Mark, look

Access = Literal["own", "read"]
"""As the one service that holds the store, or to look into it."""
PAGE_BYTES = 8192
_SCHEMA = f"{MARK_TABLE}CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a store on its disk."""

    free: int
    """What is left where it is."""
    log: int
    """What its write-ahead log takes."""


class Database:
    """The database of the store at ``path``: whole, of the right format, and of the service called ``name``."""

    connection: Connection
    log: Log

    def __init__(self, path: Path | None, name: str, version: int, schema: str, access: Access) -> None:
        """Open it, or make it with the tables of ``schema``; None: in memory. Raises StoreError."""
        self._path, self._files = path, None
        self._reader: Connection | None = None
        """Kept open by an owner: so that SQLite, at the end, removes no log by its name, whosever it may be by then."""
        with ExitStack() as opened:
            found = Found(0, Mark())
            if path is not None:
                if access == "own":
                    self._files = StoreFiles(path)
                    opened.callback(self._files.close)
                found = self._check(opened, path, name, version, access)
            if access == "read" and self._reader is not None:
                self.connection, self.log = self._reader, Log(self._reader, None, found.mark)
            else:
                self.connection = connect(path, "own")
                opened.callback(self.connection.close)
                self.log = self._take(found, name, version, schema)
            self._transaction = _Transaction(self.connection, self.log)
            self._opened = opened.pop_all()

    def _check(self, opened: ExitStack, path: Path, name: str, version: int, access: Access) -> Found:
        """Return what is there; raise StoreError unless it is a whole store of this format and service, or nothing."""
        if access == "read":
            if not path.exists():
                raise StoreError(f"there is no store at {path}", hint="has the service been started here?")
            check_files(path)
        reader = self._reader = connect(path, "read")
        opened.callback(reader.close)
        found = look(reader, path)
        if found.version == 0 and access == "own":
            if reader.one("SELECT 1 FROM sqlite_schema"):
                wrong = f"the store {path} cannot be used: it is a database of something else"
                raise StoreError(wrong, hint="QKDRELAY_STORE names a file of its own")
            return found
        if found.version != version:
            raise StoreError(
                f"the store {path} has format {found.version}; this version reads {version}",
                hint="fetch its keys with the version that wrote it, then move it away; no link key is used again",
            )
        row = reader.one("SELECT value FROM meta WHERE key = 'name'")
        owner = row[0].decode(errors="replace") if row and isinstance(row[0], bytes) else "nobody"
        if owner != name:
            raise StoreError(f"the store {path} belongs to {owner}, not to {name}")
        if access == "own" and (wrong := _damage(reader)):
            raise StoreError(wrong, hint=HINT_DAMAGED)
        return found

    def _take(self, found: Found, name: str, version: int, schema: str) -> Log:
        """Make what is missing, and carry over what an earlier owner left in the log; return the new one."""
        db = self.connection
        for pragma in (
            # What SQLite puts aside, to sort it say, may be secret, and its files would lie where there is little room.
            "temp_store=MEMORY",
            # Both for long messages: half as many pages to write, and few that are read again to be deleted.
            f"page_size={PAGE_BYTES}",
            "cache_size=-16384",
            "journal_mode=WAL",
            # FULL, not NORMAL: a power cut must not undo a commit, or link key would be used again.
            "synchronous=FULL",
            "secure_delete=ON",
            f"journal_size_limit={LOG_BYTES_KEPT}",
            # This class does it, so as to know when.
            "wal_autocheckpoint=0",
        ):
            db.execute(f"PRAGMA {pragma}")
        mine = Log(db, self._files, found.mark)
        db.execute("BEGIN IMMEDIATE")
        if found.version == 0:
            # All or nothing, or a store that was half made would belong to nobody.
            for statement in f"{_SCHEMA}{schema}".split(";"):
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('name', ?)", (name.encode(),))
            db.execute(f"PRAGMA user_version={version}")
        # Also where nothing else changes: what the last owner did not finish to carry over must not look as if done.
        mine.mark()
        db.execute("COMMIT")
        mine.committed()
        if self._files is not None and self._reader is not None:
            self._reader.one("SELECT 1 FROM mark")  # from now on it holds the file
            self._files.note()
        if not mine.carry_over("TRUNCATE", wait_s=BUSY_TIMEOUT_S):
            raise StoreError(
                f"the store {self._path} cannot be used: somebody has been reading it for {BUSY_TIMEOUT_S:.0f} s",
                hint="end whatever has it open; `kme keys` lets go at once",
            )
        return mine

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing. Raises StoreError if the disk does not take it, or if somebody else has changed the store."""
        return self._transaction

    def sizes(self) -> Sizes | None:
        """Return how much room the store takes and has; None for one in memory. Raises StoreError."""
        if self._path is None:
            return None
        try:
            return Sizes(shutil.disk_usage(self._path.parent).free, log_of(self._path).stat().st_size)
        except OSError as error:
            raise StoreError(f"the store {self._path} is not there any more: {error.strerror}") from None

    def close(self) -> None:
        """Carry the log over if nobody hinders it, close the file and let others have it."""
        if self._files is not None and self._reader is not None:
            with suppress(StoreError):
                if self.log.carry_over("TRUNCATE"):
                    self._reader.close()
            self._files = None
        self._opened.close()


class _Transaction:
    """The transactions on ``db``, one after the other; ``log`` knows of each commit."""

    def __init__(self, db: Connection, log: Log) -> None:
        self._db, self._log = db, log
        self._changes = 0
        """Rows that were changed before."""

    def __enter__(self) -> None:
        db = self._db
        self._log.begin()
        db.execute("BEGIN IMMEDIATE")
        self._changes, db.failure = db.total_changes, None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None:
            try:
                self._commit()
            except BaseException as failed:
                self._roll_back(failed)
                raise
        else:
            self._roll_back(error)

    def _commit(self) -> None:
        db = self._db
        if db.failure is not None:
            raise db.failure
        if db.total_changes == self._changes:
            db.execute("COMMIT")
        else:
            self._log.check()
            self._log.mark()
            db.execute("COMMIT")
            self._log.committed()

    def _roll_back(self, error: BaseException) -> None:
        """Undo what failed with ``error``. Raises StoreError if that was because the file is damaged."""
        db = self._db
        with suppress(StoreError):
            if db.in_transaction:
                db.execute("ROLLBACK")
        if is_contradiction(error) and (wrong := _damage(db)):
            raise StoreError(wrong, hint=HINT_DAMAGED) from None


def _damage(db: Connection) -> str:
    """Return what is wrong with the file as such, or nothing."""
    wrong = " ".join(db.one("PRAGMA quick_check(1)")[0].split())
    return "" if wrong == "ok" else f"the store {db.path} cannot be used: it is damaged ({wrong})"
