"""Part 1: the full stack against the bare broker, interleaved, as ratios."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import bare, stack
from bench.bare import Times
from bench.processor import spent
from qkdrelay.network.planner import recursive_plan
from qkdrelay.network.topology_file import load_topology
from qkdrelay_demo.network import EmbeddedNetwork
from support import rabbitmq

TOPOLOGY = stack.ROOT / "infra" / "topologies" / "eight-kmes.toml"
REST_S = 0.2
"""Between two relays that meet an idle system: what follows a relay is over by then."""


def measure(sizes: dict[int, int], rounds: int, *, control: bool) -> dict[str, Any]:
    """Return relays/s of both sides for each batch size (keys -> relays of one round), and latencies of one key."""
    topology = load_topology(TOPOLOGY)
    plan = recursive_plan(topology, topology.kmes[0], topology.kmes[-1])
    results: dict[str, Any] = {"share_messages": plan.share_messages, "control": control, "throughput": {}}
    folder = Path(tempfile.mkdtemp(prefix="qkdrelay-bench-"))
    with ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, folder)
        server = cleanup.enter_context(rabbitmq.running())
        ours = cleanup.enter_context(server.vhost(topology.kmes, topology.links))
        full = cleanup.enter_context(stack.running(ours, topology, TOPOLOGY, folder))
        for keys, relays in sizes.items():
            size = message_size(keys)
            with (
                server.vhost(topology.kmes, topology.links) as theirs,
                bare.running(theirs, topology, plan, size, bare.Way(control=control)) as chain,
            ):
                sides = {"bare": chain.relay, "stack": lambda n, rate=None, k=keys: full.relay(n, rate, key_count=k)}
                results["throughput"][keys] = throughput(sides, relays, rounds) | {"message_bytes": size}
                if keys == 1:
                    results["latency"] = latency(sides, results["throughput"][keys])
    return results


def message_size(keys: int) -> int:
    """Return the mean size of a sealed message in a relay of so many keys of 256 bits, in bytes."""
    network = EmbeddedNetwork(load_topology(TOPOLOGY))
    sizes: list[int] = []
    publish = network.hub.publish

    def seen(user: str, publication: Any) -> Any:
        if publication.routing_key.startswith("link."):
            sizes.append(len(publication.body))
        return publish(user, publication)

    network.hub.publish = seen  # type: ignore[method-assign]
    network.relay("kme-1", "kme-8", key_count=keys, policy="recursive")
    return round(statistics.mean(sizes))


def throughput(sides: dict[str, Callable[..., Times]], relays: int, rounds: int) -> dict[str, Any]:
    """Run each side in turn; return the median rate of each and of their ratio within a round, and processor time."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    used: dict[str, Counter[str]] = {name: Counter() for name in sides}
    for relay in sides.values():
        relay(max(1, relays // 10))
    for turn in range(rounds):
        for name, relay in sorted(sides.items(), reverse=bool(turn % 2)):
            before = spent()
            times = relay(relays)
            used[name] += spent() - before
            rates[name].append(relays / (max(t[1] for t in times) - min(t[0] for t in times)))
    medians = {f"{name}_relays_per_s": statistics.median(values) for name, values in rates.items()}
    ratio = statistics.median(s / b for s, b in zip(rates["stack"], rates["bare"], strict=True))
    processor = {
        name: {who: round(s / rounds / relays * 1e3, 2) for who, s in sorted(each.items())}
        for name, each in used.items()
    }
    return {**medians, "ratio": ratio, "rounds": rates, "processor_ms_per_relay": processor}


def latency(sides: dict[str, Callable[..., Times]], rates: dict[str, Any]) -> dict[str, Any]:
    """Return p50, p95 and p99 of one relay in an idle and in a half-loaded system, in seconds."""
    results: dict[str, Any] = {}
    for name, relay in sides.items():
        idle = []
        for _ in range(100):
            idle += relay(1)
            time.sleep(REST_S)
        rate = rates[f"{name}_relays_per_s"] / 2
        half = relay(int(rate * 3), rate)
        results[name] = {"idle": quantiles(idle), "half_loaded": quantiles(half)}
    results["idle_p50_ratio"] = results["stack"]["idle"]["p50"] / results["bare"]["idle"]["p50"]
    return results


def quantiles(times: Times) -> dict[str, float]:
    """Return p50, p95 and p99 of the times taken."""
    cuts = statistics.quantiles([end - begin for begin, end in times], n=100)
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}
