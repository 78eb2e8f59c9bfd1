"""Why a target did not rebuild a relay's secret in time: what was missing, from what was reported and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from qkdrelay.messages.reports import Findings
from qkdrelay.network.analysis import rebuildable
from qkdrelay.network.names import Route, route_name
from qkdrelay.network.plan import Plan
from qkdrelay.network.whereabouts import Whereabouts

HALTS_NAMED = 3
HALT_LENGTH_MAX = 120
"""Places where shares were lost that a reason names, and the characters of each: it is one line."""

_There = Mapping[Route, bool]


def unrebuilt(shares: Whereabouts, findings: Findings | None) -> str:
    """Return why the target of a relay that has started has not said in time that it rebuilt the secret."""
    plan, target = shares.plan, shares.plan.target
    if findings is not None and (wrong := _wrong(shares, findings)):
        return wrong
    there = rebuildable(plan, shares.collected)
    if there[plan.source,]:
        return (
            f"enough shares have reached {target}, but it has not said in time that it rebuilt the keys: "
            "it may have lost some since, still be at it, or be away"
        )
    split = _first_split(plan)
    if split is None:
        return f"the share did not reach {target} in time: {_halts(shares, there)}"
    return f"too few shares in time: {_short(plan, there, split)}; {_halts(shares, there)}"


def _wrong(shares: Whereabouts, findings: Findings) -> str:
    """Return what the target found wrong with shares that were enough; nothing if that is not the reason."""
    if findings.unclear == "ambiguous":
        return "the shares decode to more than one secret: too many KMEs on the way are compromised"
    if findings.unclear == "exhausted":
        return "enough shares came, but so many false ones among them that the search for good ones was given up"
    spoilt = _spoilt(shares.plan, findings)
    good = rebuildable(shares.plan, shares.collected, spoilt)
    if not spoilt or (good[shares.plan.source,] and findings.unclear != "cut"):
        return ""
    left = "more than can be listed" if findings.unclear == "cut" else _of_no_use(shares.plan, good, spoilt)
    return f"enough shares came, but false ones among them left too few good ones: {left}"


def _first_split(plan: Plan) -> Route | None:
    """Return the route to the KME nearest the source that splits; None if all only forward."""
    route: Route = (plan.source,)
    while route[-1] != plan.target:
        if plan.is_split(route[-1]):
            return route
        route = (*route, *plan.successors(route[-1]))
    return None


def _short(plan: Plan, there: _There, split: Route) -> str:
    present = sum(there[*split, s] for s in plan.successors(split[-1]))
    return f"the split on {route_name(split)} has {present} of the {plan.threshold(split[-1])} it needs"


def _spoilt(plan: Plan, findings: Findings) -> set[Route]:
    """Return the routes on which what came is of no use: false, or a split of which no shares fit together."""
    spoilt = set(findings.false)
    for dispute in findings.disputed:
        needed = plan.threshold(dispute.split[-1]) if dispute.split[-1] in plan.hops else 0
        # A set of one is a share that fits no other, or, where one is enough, may be good: the secret would be known.
        if not any(len(group) >= max(needed, 2) for group in dispute.sets):
            spoilt.add(dispute.split)
    return spoilt


def _of_no_use(plan: Plan, good: _There, spoilt: set[Route]) -> str:
    """Say what is wrong with the shares nearest the source."""
    split = _first_split(plan)
    if split is None or spoilt & {split[:n] for n in range(1, len(split))}:
        return f"what has reached {plan.target if split is None else split[-1]} is false"
    if split in spoilt:
        return f"those of the split on {route_name(split)} do not fit together"
    return _short(plan, good, split)


def _halts(shares: Whereabouts, there: _There) -> str:
    """Say where the shares that are missing came no further, the most frequent places first."""
    halts = Counter(str(shares.halt(route))[:HALT_LENGTH_MAX] for route in _lost(shares.plan, there))
    named = [text if count == 1 else f"{text} ({count} routes)" for text, count in halts.most_common(HALTS_NAMED)]
    if more := len(halts) - len(named):
        named.append(f"and {more} more")
    return "; ".join(named)


def _lost(plan: Plan, there: _There) -> Iterator[Route]:
    """Yield the routes to the target that are missing where that matters: not below what was rebuilt without them."""
    stack: list[Route] = [(plan.source,)]
    while stack:
        route = stack.pop()
        if there[route]:
            continue
        if route[-1] == plan.target:
            yield route
        stack += [(*route, kme) for kme in reversed(plan.successors(route[-1]))]
