"""Whose processor time it is: the broker's, that of the way to its port, each service's (Linux: /proc)."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_CLIENT = "client"


def spent(of: re.Pattern[bytes] | None = None) -> Counter[str]:
    """Return the seconds of processor time each process of interest has used so far, by what it is.

    With ``of`` only of those whose command line or environment it is found in, and of this one, the client.
    """
    seconds: Counter[str] = Counter()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = _name(process)
            if name and name != _CLIENT and of is not None and not _is(process, of):
                continue
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended, or is somebody else's
            continue
        if name:
            seconds[name] += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return seconds


def resident_mib(process_id: int) -> float:
    """Return the memory of a process that is in use now, in MiB."""
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _is(process: Path, wanted: re.Pattern[bytes]) -> bool:
    return any(wanted.search((process / file).read_bytes()) for file in ("cmdline", "environ"))


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
    return _CLIENT if process.name == str(os.getpid()) else ""
