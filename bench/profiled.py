"""Runs one of the services under cProfile: python -m bench.profiled OUTPUT (kme run | coordinator serve)."""

from __future__ import annotations

import cProfile
import importlib
import sys

if __name__ == "__main__":
    output, service, *arguments = sys.argv[1:]
    sys.argv = [service, *arguments]
    main = importlib.import_module(f"{service}.__main__").main
    profile = cProfile.Profile()
    try:
        profile.runcall(main)
    finally:
        profile.dump_stats(output)
