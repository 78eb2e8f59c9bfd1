"""Descriptors of this process: what tests drop unclosed is closed before there are too many for one more."""

from __future__ import annotations

import gc
from pathlib import Path

MOST = 300
"""So many may be left open: a shell allows 1,024."""


def spare() -> None:
    """Have stores closed that were dropped in circles, if many files are open."""
    if sum(1 for _ in Path("/proc/self/fd").iterdir()) > MOST:
        gc.collect()
