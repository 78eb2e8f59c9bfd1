"""Standard output and error of a command line: what cannot be written is dropped, and does not end what goes on.

A full disk, a closed descriptor and a reader that has gone are noticed at the lowest layer, below all buffers: whatever
prints sees a stream that takes everything, also when the interpreter flushes it at exit.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TextIO

from qkdrelay.service.log_writer import wait_for_room

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

OnLoss = Literal["fail", "tell", "end"]
"""Meaning of lost output for a command: it has failed; nothing, but it is told; or it ends, and well if the reader
went."""


class _File(io.FileIO):
    """The file below a stream; ``lost`` says why it takes nothing more."""

    lost: OSError | None = None
    on_loss: OnLoss = "fail"

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, or pretend to once that has failed."""
        if self.lost is None:
            try:
                # None comes from a file that somebody has set not to block.
                while (count := super().write(data)) is None:
                    wait_for_room(self.fileno())
            except OSError as error:
                self.lost = error
            else:
                return count
        return memoryview(data).nbytes


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let stdout and stderr take everything for the time of a ``with``; what a test has put in their place stays."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # What is opened next, such as a store, must not come to stand where others write.
            os.open(os.devnull, os.O_RDONLY)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding does not have
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__:
        sys.stdout = _taking_all(sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _taking_all(sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def on_loss(what: OnLoss) -> None:
    """Set what it means from now on that output is lost."""
    if (file := _file(sys.stdout)) is not None:
        file.on_loss = what


def lost_output() -> tuple[OSError, OnLoss] | None:
    """Return why stdout takes nothing more and what that means, or None if all was written so far."""
    sys.stdout.flush()
    file = _file(sys.stdout)
    return None if file is None or file.lost is None else (file.lost, file.on_loss)


def _taking_all(stream: TextIO | None) -> TextIO:
    """Return a stream over the same descriptor; for one that was closed (None), over one that takes nothing."""
    number = os.open(os.devnull, os.O_RDONLY) if stream is None else stream.fileno()
    return io.TextIOWrapper(
        io.BufferedWriter(_File(number, "w", closefd=False)),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=stream is not None and getattr(stream, "line_buffering", False),
    )


def _file(stream: TextIO) -> _File | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _File) else None
