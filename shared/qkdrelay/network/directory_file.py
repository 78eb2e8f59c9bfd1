"""The directory of SAEs from its file: read again once the file has changed."""

from __future__ import annotations

from pathlib import Path

from qkdrelay.errors import TopologyError
from qkdrelay.network.directory import Directory, load_directory


class DirectoryFile:
    """The file with a directory. Called, it returns the directory as it is in the file now; the same if that is so."""

    def __init__(self, path: Path) -> None:
        """Nothing is read before the first call."""
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._is = Directory({})
        self._error: TopologyError | None = TopologyError("it was not read yet")

    def __call__(self) -> Directory:
        """Return the directory. Raises TopologyError."""
        try:
            found = self._path.stat()
            seen = found.st_mtime_ns, found.st_ino, found.st_size
            if seen != self._seen:
                self._seen, self._error = seen, None
                try:
                    self._is = load_directory(self._path)
                except TopologyError as error:
                    self._error = error
        except OSError as error:
            self._seen = None
            raise TopologyError(f"{self._path}: {error.strerror or error}") from None
        if self._error is not None:
            raise self._error
        return self._is
