"""Part "sites": a broker for each KME, joined by TLS, against the same network on one broker with TLS.

Both are up at the same time, on the same cores, and relay in turn; what the one that rests takes is measured, too.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.against_broker import TOPOLOGY
from bench.processor import spent
from bench.provisioned import Provisioned, in_sites, on_one_broker, running
from bench.stack import Stack
from qkdrelay.network.topology_file import load_topology

RELAYS = {256: 400, 1: 800}
"""At once, in a round, by how many keys each has."""
ROUNDS_MIN = 6
_SERVICES = ("broker", "way to the broker's port", "coordinator", "client")
_Sides = dict[str, tuple[Provisioned, Stack]]


def measure(rounds: int) -> dict[str, Any]:
    """Return relays/s of both sides, their ratio within a round, and processor time, by how many keys a relay has."""
    topology = load_topology(TOPOLOGY)
    rounds = max(rounds, ROUNDS_MIN)
    folder = Path(tempfile.mkdtemp(prefix="qkdrelay-bench-"))
    with ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, folder)
        networks = on_one_broker(folder / "one", topology), in_sites(folder / "many", topology)
        for network in networks:
            cleanup.callback(network.remove)
            network.start_brokers()
        sides = {network.side: (network, cleanup.enter_context(running(network))) for network in networks}
        found = {keys: _throughput(sides, keys, relays, rounds) for keys, relays in RELAYS.items()}
    return {"sites": len(topology.kmes), "throughput": found}


def _throughput(sides: _Sides, keys: int, relays: int, rounds: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in sides}
    used: dict[str, Counter[str]] = {name: Counter() for name in sides}
    rested: dict[str, Counter[str]] = {name: Counter() for name in sides}
    rested_s = dict.fromkeys(sides, 0.0)
    for _, stack in sides.values():
        stack.relay(relays // 4, key_count=keys)
    for turn in range(rounds):
        for name in sorted(sides, reverse=bool(turn % 2)):
            began, before = time.monotonic(), {side: spent(network.processes) for side, (network, _) in sides.items()}
            times = sides[name][1].relay(relays, key_count=keys)
            rates[name].append(relays / (max(t[1] for t in times) - min(t[0] for t in times)))
            print(f"bench: {keys} keys, {name}: {rates[name][-1]:.1f} relays/s", flush=True)
            for side, (network, _) in sides.items():
                took = spent(network.processes) - before[side]
                if side == name:
                    used[side] += took
                else:
                    rested[side] += took
                    rested_s[side] += time.monotonic() - began
    one, many = sides
    ratios = [m / o for m, o in zip(rates[many], rates[one], strict=True)]
    return {
        "relays": relays,
        "rounds": rates,
        "relays_per_s": {name: _spread(values) for name, values in rates.items()},
        "ratio": _spread(ratios),
        "processor_ms_per_relay": {name: _by_kind(used[name], rounds * relays / 1e3) for name in sides},
        "cores_while_the_other_relays": {name: _by_kind(rested[name], rested_s[name], client=False) for name in sides},
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"least": min(values), "median": statistics.median(values), "most": max(values)}


def _by_kind(used: Counter[str], per: float, *, client: bool = True) -> dict[str, float]:
    """Sum the KMEs up."""
    found = {name: used[name] for name in _SERVICES if client or name != "client"}
    found["kmes"] = sum(seconds for name, seconds in used.items() if name not in _SERVICES)
    return {name: round(seconds / per, 4) for name, seconds in found.items()}
