"""Times and counts in words, and what else the commands that show something have in common."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from qkdrelay.errors import RequestRefusedError

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that was asked for; raise RequestRefusedError if it cannot be written."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise RequestRefusedError(f"{path}: cannot be written: {error.strerror}", hint="name another file") from None


def duration(seconds: float) -> str:
    """Return a time with three digits that matter, or so."""
    if seconds < 60:
        return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(at: float) -> str:
    """Return a point in time, in seconds since the epoch, as the local time; with the day if it is another one."""
    local, today = time.localtime(at), time.localtime()
    same_day = local[:3] == today[:3]
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M", local)


def counted(n: int, what: str) -> str:
    """Return ``n`` of something, in the plural unless it is one."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
