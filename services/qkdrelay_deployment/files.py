"""Files of a deployment: replaced in one step, and only where they change."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qkdrelay.errors import SettingsError


def make_folder(path: Path, *, mode: int) -> None:
    """Make a folder, and those above it, with this mode; OSError."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)


def write_file(path: Path, text: str, *, mode: int) -> None:
    """Replace a file in one step, and only if it changes; nobody sees it with a wider mode. OSError."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        path.chmod(mode)
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Have what is in a folder, which is made, to oneself while it is written; whoever else writes there waits.

    SettingsError for what cannot be read or written meanwhile.
    """
    try:
        make_folder(folder, mode=0o755)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
    except OSError as error:
        raise SettingsError(f"{error.filename or folder}: {error.strerror}") from None
