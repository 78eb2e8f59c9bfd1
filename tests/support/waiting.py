"""Waiting for a condition, with a deadline, instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

POLL_S = 0.02


def eventually(condition: Callable[[], _T], *, timeout_s: float = 20.0, what: str = "") -> _T:
    """Call ``condition`` until it returns something true, and return that; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while True:
        if result := condition():
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}; last: {result!r}")
        time.sleep(POLL_S)
