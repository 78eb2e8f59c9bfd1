"""Writer of log lines: it never holds up or ends the service that logs; what is lost is counted."""

from __future__ import annotations

import atexit
import errno
import os
import select
import stat
import threading
from collections.abc import Callable
from typing import TextIO

QUEUED_BYTES_MAX = 8 << 20
"""Bytes of lines that wait for a reader who is slow or stopped; further ones are lost until it has read all of these.

A batch that alone is larger is taken where nothing waits.
"""
CLOSE_S = 1.0
"""Seconds for which lines that wait may hold up the end of the process."""
_TELL_AGAIN_S = 5.0
"""Seconds until it is tried again to say that lines were lost, while none are written."""
_LOOK_AGAIN_MS = 1_000
_SLOW = "they were not read in time"


class LogWriter:
    """Writes lines to a stream, from any thread; raises nothing.

    A pipe or a terminal can be full for as long as its reader likes, so a thread of its own writes to these.
    """

    def __init__(self, stream: TextIO | None, tell: Callable[[int, str], str]) -> None:
        """``tell`` renders the line that says how many were lost, and why; without a stream all are."""
        self._tell = tell
        # Were it closed, being nobody's any more, its descriptor would soon be another file's.
        self._stream = stream
        self._write_some, blocks = _way_to(stream)
        self._torn = False
        """Whether the last line that was begun has no end."""
        self._lost = self._told = 0
        self._why = ""
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._size = 0
        """Bytes that wait or are being written."""
        self._full = self._closing = False
        self._thread: threading.Thread | None = None
        if blocks:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    @property
    def lost(self) -> int:
        """Lines that were lost so far."""
        return self._lost

    def write(self, text: str) -> None:
        """Write a line, or several at once."""
        data = text.encode(errors="backslashreplace") + b"\n"
        with self._changed:
            if self._thread is None:
                self._put(data)
            elif self._full or self._closing or (self._size and self._size + len(data) > QUEUED_BYTES_MAX):
                self._full = True
                self._lose(data, _SLOW)
            else:
                self._waiting.append(data)
                self._size += len(data)
                self._changed.notify()

    def close(self, within_s: float = CLOSE_S) -> None:
        """Write what waits, as far as that takes no longer."""
        atexit.unregister(self.close)
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(within_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._full and not self._closing:
                    self._changed.wait(_TELL_AGAIN_S if self._lost > self._told else None)
                data = b"".join(self._waiting)
                self._waiting.clear()
                if not data:
                    self._full = False  # all that waited has been written; what was lost meanwhile is told now
                    if self._lost == self._told and self._closing:
                        return
            self._put(data)
            with self._changed:
                self._size -= len(data)
                if self._closing and not self._waiting and (self._lost == self._told or not data):
                    return

    def _put(self, data: bytes) -> None:
        """Write what was lost and then ``data``; count the lines of it that cannot be written."""
        lost = self._lost
        head = b"\n" if self._torn else b""
        # While lines are still being lost they are told later, together.
        if lost > self._told and not self._full:
            head += self._tell(lost - self._told, self._why).encode(errors="backslashreplace") + b"\n"
        else:
            lost = self._told
        left = memoryview(head + data)
        why = ""
        while left and not why:
            try:
                left = left[self._write_some(left) :]
            except Exception as error:  # whatever it is, it is not worth a service
                why = getattr(error, "strerror", None) or type(error).__name__
        written = len(head) + len(data) - len(left)
        if written:
            self._torn = (head + data)[written - 1 : written] != b"\n"
        if written >= len(head):
            self._told = lost
        self._lose(data[max(0, written - len(head)) :], why)

    def _lose(self, data: bytes, why: str) -> None:
        if lines := data.count(b"\n"):
            with self._changed:
                self._lost += lines
                self._why = why


def _way_to(stream: TextIO | None) -> tuple[Callable[[memoryview], int], bool]:
    """Return what writes some bytes and says how many, and whether that can take for ever."""
    if stream is None:
        return _closed, False
    try:
        descriptor = stream.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):  # no file of the operating system's
        return lambda data: _to_text(stream, data), False
    return lambda data: _to_file(descriptor, data), not stat.S_ISREG(mode)


def _closed(_data: memoryview) -> int:
    raise OSError(errno.EBADF, "there is no output: it was closed before the start")


def _to_text(stream: TextIO, data: memoryview) -> int:
    stream.write(str(data, "utf-8"))
    stream.flush()
    return len(data)


def _to_file(descriptor: int, data: memoryview) -> int:
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:  # another process has made our common terminal or pipe so
            wait_for_room(descriptor)


def wait_for_room(descriptor: int) -> None:
    """Wait until a descriptor takes bytes again, at most a second.

    Its number may be as high as the system allows; ``select`` would take none above 1,023.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll(_LOOK_AGAIN_MS)
