"""Part 5: where the time goes in a KME and in the coordinator under load, as text."""

from __future__ import annotations

import io
import pstats
import shutil
import tempfile
from pathlib import Path

from bench import against_broker, stack
from qkdrelay.network.topology_file import load_topology
from support import rabbitmq

PROFILED = ("kme-6", "kme-8", "coordinator")
ROWS = 30


def write(folder: Path, relays: int) -> None:
    """Relay under cProfile and write profile-NAME.txt for each of `PROFILED`."""
    topology = load_topology(against_broker.TOPOLOGY)
    here = Path(tempfile.mkdtemp(prefix="qkdrelay-profile-"))
    try:
        with rabbitmq.running() as server, server.vhost(topology.kmes, topology.links) as host:
            with stack.running(host, topology, against_broker.TOPOLOGY, here, profiled=PROFILED) as full:
                full.relay(relays)
            for name in PROFILED:
                text = io.StringIO()
                stats = pstats.Stats(str(here / f"{name}.prof"), stream=text)
                stats.strip_dirs().sort_stats("tottime").print_stats(ROWS)
                lines = [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]
                head = f"{name} while {relays} relays of one key run at once; waiting is in 'acquire' and 'poll'"
                (folder / f"profile-{name}.txt").write_text("\n".join([head, *lines[1:]]) + "\n")
    finally:
        shutil.rmtree(here)
