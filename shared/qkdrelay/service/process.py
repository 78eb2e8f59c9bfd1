"""Set-up of a process that is all a service's: signals, garbage collector, allocator."""

from __future__ import annotations

import ctypes
import gc
import signal
import threading

from qkdrelay.service.logs import log_what_python_says

_COLLECT = 50_000, 20, 100
"""Objects made after which the garbage collector looks for cycles among the young, and how often among the older."""
_MEMORY_KEPT = 16 << 20
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


def prepare_process() -> threading.Event:
    """Set up a process that is all a service's; return the event that SIGTERM and SIGINT set."""
    # What is loaded stays, and what a batch makes is gone after it: looking through all of it for cycles every
    # 700 objects took 5 % of a relay.
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    keep_freed_memory()
    log_what_python_says()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
