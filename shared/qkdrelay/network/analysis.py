"""Checks of a plan as a circuit of thresholds (protocol, section 9), and of what has reached its target."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from qkdrelay.network.exhaustive import STEPS_MAX, any_of_size
from qkdrelay.network.names import Route
from qkdrelay.network.plan import PLANS_KEPT, Plan
from qkdrelay.network.threshold_circuit import blocking, learning


def withstands_compromised(plan: Plan, compromised: int, steps_max: int = STEPS_MAX) -> bool:
    """Whether no coalition of ``compromised`` KMEs between the two ends learns the secret.

    Exact. This is a KME's own check of a plan it is given, so it needs no solver and its work is bounded: for a
    plan of 500 KMEs a size of 3 is within the bound. Raises InvalidPlanError if it is not (`coalitions`).
    """
    return not any_of_size(learning(plan), compromised, steps_max)


def withstands_failed(plan: Plan, failed: int, steps_max: int = STEPS_MAX) -> bool:
    """Whether the target rebuilds without any ``failed`` KMEs between the two ends. As `withstands_compromised`."""
    return not any_of_size(blocking(plan), failed, steps_max)


@lru_cache(maxsize=PLANS_KEPT)
def least_shares(plan: Plan) -> int:
    """Return with how few shares at the target it can rebuild, if they are the right ones."""
    least = {plan.target: 1}
    for kme in reversed(plan.order):
        if kme != plan.target:
            least[kme] = sum(sorted(least[s] for s in plan.successors(kme))[: plan.threshold(kme)])
    return least[plan.source]


def rebuildable(plan: Plan, collected: Collection[Route], spoilt: Collection[Route] = ()) -> dict[Route, bool]:
    """Return for each route of the plan, the source's own too, whether what was on it can be rebuilt.

    ``collected`` are the routes whose share has reached the target; what is on one of ``spoilt`` is of no use.
    """
    there = {route: route in collected and route not in spoilt for route in plan.routes()}
    # The longest routes first: what a split rebuilds is a share of the one above it.
    inner = {arriving[:n] for arriving in there for n in range(1, len(arriving))}
    for route in sorted(inner, key=len, reverse=True):
        present = sum(there[*route, s] for s in plan.successors(route[-1]))
        there[route] = present >= plan.threshold(route[-1]) and route not in spoilt
    return there


def shortfall(plan: Plan, collected: Collection[Route]) -> list[tuple[Route, int, int]]:
    """Return the splits that have fewer shares than they need: (route of the splitter, present, needed).

    ``collected`` are the routes whose share has reached the target. Splits nearer the source come first.
    """
    there = rebuildable(plan, collected)
    short = [
        (route, sum(there[*route, s] for s in plan.successors(route[-1])), plan.threshold(route[-1]))
        for route, rebuilt in there.items()
        if not rebuilt and plan.is_split(route[-1])
    ]
    return sorted(short, key=lambda split: (len(split[0]), split[0]))
