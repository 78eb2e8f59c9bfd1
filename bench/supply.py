"""Part "supply": hours of a network's supply on a virtual clock, against what the linear program says it can give."""

from __future__ import annotations

import time
from random import Random
from typing import Any

from bench import stack
from qkdrelay.network.capacity import is_protectable
from qkdrelay.network.key_rates import pairs_of
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import load_topology
from support.supply_simulation import Simulation, with_rates

NETWORKS = ("eight-kmes", "nsfnet")
STEP_BPS, STEPS = 200_000, 10
"""Rates of links: all five steps, or one to ten."""
RUNS = ((0.95, True), (1.2, False))
"""Load over what threshold plans can give at best, and whether KMEs fail meanwhile."""
_SEED = 3


def measure(hours: float) -> list[dict[str, Any]]:
    """Return what came of each run of so many hours: parts served from stock, key delivered, link key taken."""
    found = []
    for name in NETWORKS:
        for unequal in (False, True):
            network = _network(name, unequal=unequal)
            pairs = [pair for pair in pairs_of(network) if is_protectable(network, pair, 1)]
            for load, failures in RUNS:
                simulation, began = Simulation(network, pairs, load, failures=failures), time.monotonic()
                outcome = simulation.run(3600.0 * hours, warm_up=1800.0)
                delivered = [pair.delivered / outcome.seconds / simulation.share for pair in outcome.pairs]
                found.append(
                    {
                        "network": name,
                        "rates": "1 to 10" if unequal else "equal",
                        "load": load,
                        "failures": failures,
                        "served": outcome.served,
                        "worst": outcome.worst,
                        "bursts_served": outcome.bursts_served,
                        "worst_of_bursts": outcome.worst_of_bursts,
                        "delivered": sum(delivered) / len(delivered),
                        "least_delivered": min(delivered),
                        "link_key_per_byte": outcome.link_key / outcome.given,
                        "refills": outcome.refills,
                        "took_s": time.monotonic() - began,
                    }
                )
                print(found[-1], flush=True)
    return found


def _network(name: str, *, unequal: bool) -> Topology:
    topology = load_topology(stack.ROOT / "infra" / "topologies" / f"{name}.toml")
    rates = Random(_SEED)
    return with_rates(
        topology, (STEP_BPS * (rates.randint(1, STEPS) if unequal else STEPS // 2) for _ in topology.links)
    )
