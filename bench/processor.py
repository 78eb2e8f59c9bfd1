"""Whose processor time it is: the broker's, that of the way to its port, each service's (Linux: /proc)."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def spent() -> Counter[str]:
    """Return the seconds of processor time each process of interest has used so far, by what it is."""
    seconds: Counter[str] = Counter()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = _name(process)
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended, or is somebody else's
            continue
        if name:
            seconds[name] += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return seconds


def _name(process: Path) -> str:
    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    if "beam.smp" in command:
        return "broker"
    if "docker-proxy" in command:
        return "way to the broker's port"
    if "multiprocessing.spawn" in command:
        return "bare chain"
    if "coordinator serve" in command or "qkdrelay_cli serve" in command:
        return "coordinator"
    if "qkdrelay_cli page" in command:
        return "page"
    if "bench.page" in command:
        return "viewers"
    if "kme run" in command:
        found = re.search(rb"QKDRELAY_KME=([^\0]*)", (process / "environ").read_bytes())
        return found[1].decode() if found else ""
    return "client" if process.name == str(os.getpid()) else ""
