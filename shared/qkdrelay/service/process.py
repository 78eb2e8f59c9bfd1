"""Set-up of a process that is all a service's: signals, garbage collector, allocator."""

from __future__ import annotations

import _thread
import ctypes
import gc
import resource
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

from qkdrelay.service.logs import log_what_python_says

_COLLECT = 50_000, 20, 100
"""Objects made after which the garbage collector looks for cycles among the young, and how often among the older."""
_MEMORY_KEPT = 16 << 20
_PR_SET_DUMPABLE = 4
"""Of ``sys/prctl.h``."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's names for two options of its allocator (``malloc.h``)."""


def keep_freed_memory() -> None:
    """Have the allocator keep up to `_MEMORY_KEPT` bytes that were freed, for what comes next.

    Else glibc gives long messages and shares back to the operating system at once, and gets the next ones from it
    page by page: most of what a split of 1 MiB takes. Another C library is left as it is.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    set_option(_M_MMAP_THRESHOLD, _MEMORY_KEPT)
    set_option(_M_TRIM_THRESHOLD, _MEMORY_KEPT)


def forbid_core_dumps() -> None:
    """Have nothing of this process's memory written to disk when it crashes, or read by others of the same user.

    The limit alone does not do: the kernel does not heed it where core dumps are piped into a program.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Another C library, or another system, has no such call: the limit must do there.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class StopRequest:
    """Whether the process was asked to end; may be set from a signal handler, whatever its thread is doing."""

    def __init__(self) -> None:
        self._is_set = False
        self._told = threading.Event()
        self._wakes: list[Callable[[], None]] = []

    def wakes(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called when it is set: the thread that is to end may wait for something else."""
        self._wakes.append(wake)

    def set(self) -> None:
        """Ask the process to end; once more it does nothing, and needs nothing that may be gone at the very end."""
        if self._is_set:
            return
        self._is_set = True
        # By another thread, which waits for the locks of the one that a handler interrupts: that one may have looked
        # whether to wait, and not wait yet. And not by a `threading.Thread`, whose start takes locks of its own.
        _thread.start_new_thread(self._tell, ())

    def _tell(self) -> None:
        self._told.set()
        for wake in self._wakes:
            wake()

    def is_set(self) -> bool:
        """Whether it was asked to."""
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, at most ``timeout_s`` seconds; return whether it is."""
        return self._told.wait(timeout_s)


def prepare_process() -> StopRequest:
    """Set up a process that is all a service's; return what SIGTERM and SIGINT set."""
    # What is loaded stays, and what a batch makes is gone after it: looking through all of it for cycles every
    # 700 objects took 5 % of a relay.
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    keep_freed_memory()
    forbid_core_dumps()
    log_what_python_says()
    stop = StopRequest()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
