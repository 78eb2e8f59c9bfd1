"""What must come out, from the definitions alone: no line in common with the code under test.

A plan here is (source, target, {kme: (successors, threshold)}).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations, pairwise
from typing import NamedTuple

from qkdrelay.network.names import Route
from qkdrelay.network.plan import Plan
from support.sharing_slow import threshold_circuit


class Expected(NamedTuple):
    """What a relay must, or may, come to."""

    learned: bool
    """The coalition satisfies the learning condition: it may know the secret, and nothing is promised."""
    must_confirm: bool
    may_confirm: bool


def prefixes(plan: Plan) -> Iterator[Route]:
    """Every route of the plan: those on the way and those that arrive."""
    stack: list[Route] = [(plan.source,)]
    while stack:
        route = stack.pop()
        yield route
        hop = plan.hops.get(route[-1])
        stack += [(*route, kme) for kme in hop.successors] if hop else []


def arrivals(plan: Plan, without: Collection[str] = (), cut: Collection[frozenset[str]] = ()) -> set[Route]:
    """The routes to the target that avoid these KMEs and links."""
    return {
        route
        for route in prefixes(plan)
        if route[-1] == plan.target
        and not set(without) & set(route)
        and not any(frozenset(pair) in cut for pair in pairwise(route))
    }


def suffices(plan: Plan, held: Collection[Route]) -> bool:
    """Whether what is held on these routes gives the secret."""
    hops = {kme: (hop.successors, hop.threshold) for kme, hop in plan.hops.items()}
    return bool(threshold_circuit(hops, plan.source, set(held)))


def learns(plan: Plan, coalition: Collection[str]) -> bool:
    """Whether these KMEs can learn the secret from what they receive."""
    return suffices(plan, {route for route in prefixes(plan) if route[-1] in coalition})


def withstood(plan: Plan) -> int:
    """How many KMEs between the ends, whichever, may be compromised."""
    between = [kme for kme in plan.hops if kme != plan.source]
    for size in range(1, len(between) + 1):
        if any(learns(plan, some) for some in combinations(between, size)):
            return size - 1
    return len(between)


def expected(
    plan: Plan, coalition: Collection[str], silent: Collection[str] = (), cut: Collection[frozenset[str]] = ()
) -> Expected:
    """What a relay must come to if the coalition may do anything, ``silent`` KMEs do nothing, and links are cut."""
    learned = learns(plan, coalition)
    must = suffices(plan, arrivals(plan, {*coalition, *silent}, cut)) and not learned
    return Expected(learned, must, learned or suffices(plan, arrivals(plan, silent, cut)))
