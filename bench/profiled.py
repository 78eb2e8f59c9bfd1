"""Runs one of the services, all its threads, under cProfile.

python -m bench.profiled OUTPUT (kme run | coordinator serve)
"""

from __future__ import annotations

import cProfile
import importlib
import pstats
import sys
import threading
from collections.abc import Callable

_profiles: list[cProfile.Profile] = []


def _run(thread: threading.Thread, run: Callable[[threading.Thread], None] = threading.Thread.run) -> None:
    _profiles.append(cProfile.Profile())
    _profiles[-1].runcall(run, thread)


if __name__ == "__main__":
    output, service, *arguments = sys.argv[1:]
    sys.argv = [service, *arguments]
    main = importlib.import_module(f"{service}.__main__").main
    threading.Thread.run = _run  # type: ignore[method-assign]
    profile = cProfile.Profile()
    try:
        profile.runcall(main)
    finally:
        pstats.Stats(profile, *_profiles).dump_stats(output)
