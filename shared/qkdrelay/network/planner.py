"""Finds the plan of a relay."""

from __future__ import annotations

from qkdrelay.errors import InvalidPlanError
from qkdrelay.network.plan import SHARE_MESSAGES_MAX, Hop, Plan, majority
from qkdrelay.network.topology import Topology


def recursive_plan(topology: Topology, source: str, target: str, budget: int = SHARE_MESSAGES_MAX) -> Plan:
    """Return the reference plan: every KME shares among all neighbours strictly closer to the target.

    Thresholds are majorities. Raises TopologyError for unknown KMEs and InvalidPlanError when
    there is no path or the plan exceeds the budget.
    """
    topology.require(source)
    topology.require(target)
    if source == target:
        raise InvalidPlanError(f"source and target are both {source}", hint="name two different KMEs")
    hops = topology.hops_to(target)
    if source not in hops:
        raise InvalidPlanError(f"there is no path from {source} to {target} in network {topology.name}")
    plan: dict[str, Hop] = {}
    waiting = [source]
    while waiting:
        kme = waiting.pop()
        if kme == target or kme in plan:
            continue
        closer = tuple(n for n in topology.neighbours[kme] if hops[n] < hops[kme])
        plan[kme] = Hop(closer, majority(len(closer)))
        waiting.extend(closer)
    return Plan.checked(source, target, plan, budget)
