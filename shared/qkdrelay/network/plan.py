"""One relay's graph: for each KME its ordered successors and its threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from qkdrelay.errors import InvalidPlanError
from qkdrelay.network.names import KME_NAME, KME_NAME_RULE, Link, Route
from qkdrelay.sharing import amd
from qkdrelay.sharing.shamir import SHARES_MAX

SUCCESSORS_MAX = SHARES_MAX
KMES_MAX = 512
SHARE_MESSAGES_MAX = 4_096
"""Budget of a plan: the share messages it may unfold to."""
PLANS_KEPT = 128
"""Results kept of what is asked again and again about the same plans; of the largest they take some megabytes."""


def majority(n: int) -> int:
    """Return the default threshold of a split among ``n`` successors: floor(n/2) + 1."""
    return n // 2 + 1


@dataclass(frozen=True, slots=True)
class Hop:
    """One KME's part in a plan: split among ``successors`` with ``threshold``, or forward to one."""

    successors: tuple[str, ...]
    threshold: int


@dataclass(frozen=True)
class Plan:
    """The acyclic graph from ``source`` to ``target``; ``hops`` has every KME but the target.

    A plan whose source is its target has no hops: it is what is left of a plan at its end.
    Construct with :meth:`checked` wherever the data comes from outside.
    """

    source: str
    target: str
    hops: Mapping[str, Hop]

    @classmethod
    def checked(cls, source: str, target: str, hops: Mapping[str, Hop], budget: int = SHARE_MESSAGES_MAX) -> Plan:
        """Return the plan, or raise InvalidPlanError naming what makes it none (protocol, section 2)."""
        plan = cls(source, target, dict(hops))
        _check(plan, budget)
        return plan

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Of all of it: whoever sends plans must not be able to have many of them meet in one place of a cache.
        return hash((self.source, self.target, tuple(sorted(self.hops.items()))))

    def is_split(self, kme: str) -> bool:
        """Whether ``kme`` splits (two or more successors) rather than forwards."""
        hop = self.hops.get(kme)
        return hop is not None and len(hop.successors) > 1

    def successors(self, kme: str) -> tuple[str, ...]:
        """Return the ordered successors of ``kme``; none for the target."""
        hop = self.hops.get(kme)
        return hop.successors if hop is not None else ()

    def threshold(self, kme: str) -> int:
        """Return how many of ``kme``'s successors' shares rebuild what it held."""
        return self.hops[kme].threshold

    def below(self, kme: str) -> Plan:
        """Return the part of the plan a holder of ``kme`` needs: what is reachable from it."""
        return _below(self, kme)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """All KMEs of the plan, each before its successors."""
        order: list[str] = []
        seen: set[str] = set()
        stack: list[tuple[str, Iterator[str]]] = [(self.source, iter(self.successors(self.source)))]
        seen.add(self.source)
        while stack:
            kme, successors = stack[-1]
            step = next((s for s in successors if s not in seen), None)
            if step is None:
                order.append(kme)
                stack.pop()
            else:
                seen.add(step)
                stack.append((step, iter(self.successors(step))))
        return tuple(reversed(order))

    @cached_property
    def path_counts(self) -> dict[str, int]:
        """For each KME the number of routes from the source that end in it."""
        counts = dict.fromkeys(self.order, 0)
        counts[self.source] = 1
        for kme in self.order:
            for successor in self.successors(kme):
                counts[successor] += counts[kme]
        return counts

    @cached_property
    def share_messages(self) -> int:
        """Return how many share messages the plan unfolds to."""
        return sum(self.path_counts[kme] * len(hop.successors) for kme, hop in self.hops.items())

    @property
    def final_shares(self) -> int:
        """Return how many shares the target gets if nothing is missing."""
        return self.path_counts[self.target]

    def routes(self) -> Iterator[Route]:
        """Yield every route from the source to the target, in the plan's order."""
        stack: list[Route] = [(self.source,)]
        while stack:
            route = stack.pop()
            if route[-1] == self.target:
                yield route
            else:
                stack.extend((*route, s) for s in reversed(self.successors(route[-1])))

    def is_route(self, route: Route) -> bool:
        """Whether ``route`` starts at the source and follows the plan step by step."""
        return len(route) > 0 and route[0] == self.source and self._link_set.issuperset(pairwise(route))

    def share_length(self, route: Route, payload_length: int) -> int:
        """Return the length in bytes of the share on ``route`` when the source's payload has ``payload_length``."""
        encodings = sum(1 for kme in route[:-1] if kme == self.source or self.is_split(kme))
        return amd.encoded_length(payload_length, encodings)

    @cached_property
    def _link_set(self) -> frozenset[Link]:
        return frozenset(self.links)

    @property
    def links(self) -> tuple[Link, ...]:
        """Every directed link the plan uses."""
        return tuple((kme, s) for kme in self.order for s in self.successors(kme))


@lru_cache(maxsize=PLANS_KEPT)
def _below(plan: Plan, kme: str) -> Plan:
    reachable, waiting = {kme}, [kme]
    while waiting:
        near = set(plan.successors(waiting.pop())) - reachable
        reachable |= near
        waiting += near
    return Plan(kme, plan.target, {k: plan.hops[k] for k in sorted(reachable) if k != plan.target})


def _check(plan: Plan, budget: int) -> None:
    for name in {
        plan.source,
        plan.target,
        *plan.hops,
        *(s for h in plan.hops.values() for s in h.successors),
    }:
        if not KME_NAME.fullmatch(name):
            raise InvalidPlanError(f"a KME's name in the plan is not {KME_NAME_RULE}")
    if plan.target in plan.hops:
        raise InvalidPlanError(f"the target {plan.target} has successors in the plan")
    if len(plan.hops) > KMES_MAX:
        raise InvalidPlanError(f"the plan has {len(plan.hops)} KMEs; at most {KMES_MAX} are allowed")
    if plan.source == plan.target:
        if plan.hops:
            raise InvalidPlanError(f"source and target are both {plan.source}")
        return
    for kme, hop in plan.hops.items():
        _check_hop(plan, kme, hop)
    if set(plan.order) != {*plan.hops, plan.target}:
        lost = sorted(set(plan.hops) - set(plan.order)) or [plan.target]
        raise InvalidPlanError(f"{', '.join(lost[:3])} cannot be reached from {plan.source} in the plan")
    place = {kme: i for i, kme in enumerate(plan.order)}
    for kme, successor in plan.links:
        if place[successor] <= place[kme]:
            raise InvalidPlanError(f"the plan has a cycle through {kme} and {successor}")
    if plan.share_messages > budget:
        raise InvalidPlanError(
            f"the plan unfolds to {plan.share_messages} share messages; the budget is {budget}",
            hint="choose a policy with fewer paths",
        )


def _check_hop(plan: Plan, kme: str, hop: Hop) -> None:
    n = len(hop.successors)
    if not 1 <= n <= SUCCESSORS_MAX:
        raise InvalidPlanError(f"{kme} has {n} successors; 1 to {SUCCESSORS_MAX} are allowed")
    if len(set(hop.successors)) != n:
        raise InvalidPlanError(f"{kme} names a successor twice")
    if not 1 <= hop.threshold <= n:
        raise InvalidPlanError(f"{kme} has threshold {hop.threshold} for {n} successors; 1 to {n} are allowed")
    for successor in hop.successors:
        if successor == plan.source:
            raise InvalidPlanError(f"{kme} would send back to the source {successor}")
        if successor != plan.target and successor not in plan.hops:
            raise InvalidPlanError(f"{successor} is not the target and has no successors in the plan")
