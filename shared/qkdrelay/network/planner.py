"""Finds the plans of a relay: the reference rule, disjoint paths, and the best for what is to be withstood.

What can be withstood. If the two ends are joined by k paths that share no KME (Menger: if it takes k KMEs to part
them), T compromised and F failed KMEs can be withstood exactly if k >= T + F + 1. No scheme does better: else take k
KMEs that part the ends, let F of them fail and T be compromised, and these see all that passes (Dolev, Dwork,
Waarts, Yung, JACM 1993). Splitting among T+F+1 disjoint paths with threshold T+1 reaches it, so that is what `best`
does, over the cheapest paths: where all links cost the same (`qkdrelay.network.prices`), those that take the fewest
messages. A tamperer counts under both T and F. Neighbours need no relay: nobody is between them.

Which KMEs may fail and which may be compromised are worst cases over *all* KMEs. Plans that hold only if KMEs noted as
``trusted`` are honest are kept apart (policy `trusted`) and never taken unasked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

from qkdrelay.errors import InvalidPlanError
from qkdrelay.network.paths import Path, disjoint_paths
from qkdrelay.network.plan import SHARE_MESSAGES_MAX, Hop, Plan, majority
from qkdrelay.network.prices import FULL, LinkCosts
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
        raise no_path(topology, source, target)
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


def no_path(topology: Topology, source: str, target: str) -> InvalidPlanError:
    """Return the error that says that the two are not joined."""
    never = topology.noted("never")
    besides = f" that avoids {', '.join(sorted(never))}" if never else ""
    return InvalidPlanError(f"there is no path from {source} to {target} in network {topology.name}{besides}")


class PairPaths:
    """The disjoint paths of one pair, cheapest first; KMEs noted as ``never`` are not there.

    A path costs, in this order: KMEs to avoid, and what its links cost (`qkdrelay.network.prices`): where key is scarce
    more than elsewhere, and each something, so that of equal prices the shortest paths are taken.
    """

    def __init__(self, topology: Topology, source: str, target: str, costs: LinkCosts | None = None) -> None:
        self.source, self.target = source, target
        never = topology.noted("never") - {source, target}
        self._neighbours = {kme: near for kme, near in topology.neighbours.items() if kme not in never}
        self._costs = costs or {}
        self._dearest = max(self._costs.values(), default=FULL)
        self._avoid = topology.noted("avoid")
        self._trusted = topology.noted("trusted")

    def direct(self) -> bool:
        """Whether the two ends are neighbours."""
        return self.target in self._neighbours[self.source]

    def disjoint(self) -> list[tuple[Path, ...]]:
        """Return the cheapest path, the cheapest two, ..., as many as there are; a direct link is a path."""
        return list(disjoint_paths(self._neighbours, self.source, self.target, self._link_cost, self._kme_cost))

    def through_trusted(self, count: int) -> tuple[Path, ...] | None:
        """Return ``count`` paths that share no KME but trusted ones, or None; taken together they are acyclic."""
        rounds = disjoint_paths(
            self._neighbours,
            self.source,
            self.target,
            self._link_cost,
            self._kme_cost,
            shared=self._trusted,
            rounds=count,
        )
        return next((paths for paths in rounds if len(paths) == count), None)

    def mostly_trusted(self) -> list[tuple[Path, ...]]:
        """Return the same as `disjoint`, but choose paths over trusted KMEs before all others."""
        high = self._all_links()
        return list(
            disjoint_paths(
                self._neighbours,
                self.source,
                self.target,
                self._link_cost,
                lambda kme: self._kme_cost(kme) + (0 if kme in self._trusted else high),
            )
        )

    def _all_links(self) -> int:
        """Return more than all links cost that any set of disjoint paths can have."""
        return self._dearest * (2 * len(self._neighbours) + 1)

    def _link_cost(self, a: str, b: str) -> int:
        return self._costs.get((a, b), FULL)

    def _kme_cost(self, kme: str) -> int:
        return 2 * self._all_links() if kme in self._avoid else 0


def path_plan(paths: Sequence[Path], threshold: int, budget: int = SHARE_MESSAGES_MAX) -> Plan:
    """Return the plan that splits among disjoint paths at the source, any ``threshold`` of which deliver."""
    source, target = paths[0][0], paths[0][-1]
    hops = {source: Hop(tuple(path[1] for path in paths), threshold)}
    for path in paths:
        hops |= {kme: Hop((after,), 1) for kme, after in pairwise(path) if kme != source}
    return Plan.checked(source, target, hops, budget)


def union_plan(paths: Sequence[Path], budget: int = SHARE_MESSAGES_MAX) -> Plan:
    """Return the plan over all links of ``paths`` in which every split needs all its shares.

    A coalition then learns the secret exactly if it is on every way from the source to the target: if it parts them.
    """
    successors: dict[str, dict[str, None]] = {}
    for path in paths:
        for kme, after in pairwise(path):
            successors.setdefault(kme, {})[after] = None
    hops = {kme: Hop(tuple(after), len(after)) for kme, after in successors.items()}
    return Plan.checked(paths[0][0], paths[0][-1], hops, budget)


def without(topology: Topology, kmes: Collection[str]) -> Topology:
    """Return the network without these KMEs."""
    gone = set(kmes)
    return Topology(
        topology.name,
        tuple(kme for kme in topology.kmes if kme not in gone),
        tuple(link for link in topology.links if not gone & set(link)),
    )
