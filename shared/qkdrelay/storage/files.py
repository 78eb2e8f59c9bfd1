"""The files of a store: one name, one owner, and nobody who puts others in their place."""

from __future__ import annotations

import fcntl
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qkdrelay.errors import StoreError, StoreInUseError

_HINT_FOLDER = "its folder must exist and be writable by this user"
_HINT_REPLACED = "stop the service, put the files back as one copy or let them be, and start it again"
_HINT_LOST_FILE = "put both back from one copy, or move both away and start with an empty store"
_held: set[tuple[int, int]] = set()
"""The files this process owns: to open one once more and close it would release the locks that SQLite has on it."""


def resolved(path: Path) -> Path:
    """Return the file that ``path`` names, whatever links lead there: SQLite's log is named after that."""
    return Path(os.path.realpath(path))


def log_of(path: Path) -> Path:
    """Return the write-ahead log of the store at ``path``."""
    return path.with_name(f"{path.name}-wal")


def check_files(path: Path) -> None:
    """Raise StoreError unless what is at ``path`` may be a store, whole or about to be made.

    SQLite would delete the log of a file that is empty.
    """
    with _told(path, hint=_HINT_FOLDER):
        try:
            found: os.stat_result | None = path.stat()
        except FileNotFoundError:
            found = None
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise StoreError(f"the store {path} is no file", hint="QKDRELAY_STORE names a file, not a folder or device")
        if found is not None and found.st_nlink > 1:
            hint = "a store has one name, which its log is named after; remove the other hard links"
            raise StoreError(f"the store {path} has {found.st_nlink} names", hint=hint)
        for other in (log_of(path), path.with_name(f"{path.name}-journal")):
            try:
                size = other.stat().st_size
            except FileNotFoundError:
                continue
            if size and (found is None or found.st_size == 0):
                missing = "is missing" if found is None else "is empty"
                raise StoreError(f"the store {path} {missing}, but {other.name} is not", hint=_HINT_LOST_FILE)


class StoreFiles:
    """The files of one store, owned by this process until `close`."""

    def __init__(self, path: Path) -> None:
        """Make the file (its folder, too) if need be, close it to others, and lock it.

        ``path`` is `resolved`. Raises StoreError; StoreInUseError if another process owns it.
        """
        self.path = path
        self._main_name, self._log_name = str(path), str(log_of(path))
        check_files(path)
        with _told(path, hint=_HINT_FOLDER):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.exists() and _identity(path.stat()) in _held:
                raise _in_use(path)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with _told(path, hint=_HINT_FOLDER):
                os.fchmod(self._file, 0o600)
                self._identity = _identity(os.fstat(self._file))
            self._lock()
        except BaseException:
            os.close(self._file)
            raise
        _held.add(self._identity)
        # Also of a store that is dropped unclosed: the number of a file that is gone is soon another's.
        self._release = weakref.finalize(self, _release, self._file, self._identity)
        self._release.atexit = False
        self._written: tuple[int, int] | None = None
        self._log_identity: tuple[int, int] | None = None

    def _lock(self) -> None:
        # The file itself, not one beside it: whatever name leads here, it is the same. SQLite has locks of another
        # kind on it; on Linux' local file systems the two do not meet.
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(self.path) from None
        except OSError as error:
            raise StoreError(
                f"the store {self.path} cannot be locked: {error.strerror}",
                hint="a store lies on a local file system that has locks (flock)",
            ) from None

    def note(self) -> None:
        """Take note of the main file as it is now that SQLite has written into it, and, once, which log it has."""
        with _told(self.path):
            self._written = _written(os.fstat(self._file))
            if self._log_identity is None:
                self._log_identity = _identity(log_of(self.path).stat())

    def check(self) -> int:
        """Return the bytes of the write-ahead log; raise StoreError if the files are not the ones that were noted.

        Somebody has moved, restored or changed them: what is written now would be lost, or spoil what is there.
        """
        try:
            main, log = os.stat(self._main_name), os.stat(self._log_name)  # noqa: PTH116 - before each transaction
        except OSError as error:
            raise StoreError(
                f"the store {self.path} is not there any more: {error.strerror}", hint=_HINT_REPLACED
            ) from None
        same = _identity(main) == self._identity and _identity(log) == self._log_identity
        if not same or _written(main) != self._written:
            what = "changed by somebody else" if same else "replaced"
            raise StoreError(f"the store {self.path} was {what} while in use", hint=_HINT_REPLACED)
        return log.st_size

    def close(self) -> None:
        """Let others have the store; after SQLite has closed it."""
        self._release()


def _release(file: int, identity: tuple[int, int]) -> None:
    _held.discard(identity)
    os.close(file)


def _in_use(path: Path) -> StoreInUseError:
    hint = "one service holds a store; stop the other one"
    return StoreInUseError(f"the store {path} is in use by another process", hint=hint)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _written(found: os.stat_result) -> tuple[int, int]:
    return found.st_mtime_ns, found.st_size


@contextmanager
def _told(path: Path, *, hint: str | None = None) -> Iterator[None]:
    """Raise StoreError for what the operating system refuses."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"the store {path} cannot be opened: {error.strerror}", hint=hint) from None
