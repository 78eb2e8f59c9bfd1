"""Random networks, plans and coalitions to attack with: all of it drawn from one number, so that it can be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from random import Random

from attack import oracle
from attack.coalition import TRICKS
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.control import FixedDemand
from qkdrelay.network.demand import POLICIES
from qkdrelay.network.plan import Hop, Plan, majority
from qkdrelay.network.selection import choose
from qkdrelay.network.topology import Topology

SHARES_MAX = 60
"""Share messages of a plan: so small that every set of KMEs can be tried."""


@dataclass(frozen=True)
class Case:
    """One relay to attack."""

    topology: Topology
    plan: Plan
    policy: str
    demanded: int
    """From how many compromised KMEs both ends demand that a plan keeps the secret (their own settings)."""
    coalition: frozenset[str]
    tricks: tuple[str, ...]
    silent: frozenset[str] = frozenset()
    cut: frozenset[frozenset[str]] = frozenset()
    dishonest: bool = False
    """The coordinator is the coalition's, too."""

    @property
    def kmes(self) -> tuple[str, ...]:
        return self.topology.kmes

    @property
    def demand(self) -> FixedDemand:
        """What the terms demand: as much."""
        return FixedDemand(compromised=self.demanded, failed=0, tampering=0)

    @property
    def neighbours(self) -> Mapping[str, tuple[str, ...]]:
        return self.topology.neighbours

    @cached_property
    def expected(self) -> oracle.Expected:
        """What must come of it."""
        return oracle.expected(self.plan, self.coalition, self.silent, self.cut)

    def __str__(self) -> str:
        hops = ", ".join(f"{k} -> {hop.threshold} of {'+'.join(hop.successors)}" for k, hop in self.plan.hops.items())
        whom = f"{'+'.join(sorted(self.coalition)) or 'nobody'} by {'+'.join(self.tricks)}"
        lost = [*sorted(self.silent), *("-".join(sorted(link)) for link in self.cut)]
        return f"{self.policy}: {hops}; compromised {whom}; silent {lost}; dishonest coordinator: {self.dishonest}"


def draw(rng: Random) -> Case:
    """A case with a plan by one of the policies, or by none of them."""
    if rng.random() < 0.1:
        return reconverging(rng)
    topology = random_topology(rng)
    source, target = rng.sample(topology.kmes, 2)
    if target in topology.neighbours[source] and rng.random() < 0.8:
        return draw(rng)  # hardly anything can go wrong between neighbours
    policy = rng.choice((*POLICIES, "any", "any"))
    plan = any_plan(rng, topology, source, target) if policy == "any" else None
    if plan is None:
        policy = "recursive" if policy in ("any", "trusted") else policy
        plan = planned(topology, source, target, policy)
    if plan is None or plan.share_messages > SHARES_MAX:
        return draw(rng)
    between = sorted(set(plan.hops) - {source})
    bystanders = sorted(set(topology.kmes) - set(plan.hops) - {target})
    # As many as are withstood, as often as not, and any number else.
    demanded = min(oracle.withstood(plan), 3)
    size = demanded if rng.random() < 0.5 else rng.randrange(4)
    members = set(rng.sample(between, min(size or 1, len(between))))
    if rng.random() < 0.3:
        members.update(rng.sample(bystanders, min(len(bystanders), 1)))
    tricks = tuple(rng.sample(TRICKS, rng.choice((1, 1, 2, 3, len(TRICKS)))))
    coalition, dishonest = frozenset(members), rng.random() < 0.2
    if len(members) > 1 or rng.random() < 0.7:
        return Case(topology, plan, policy, demanded, coalition, tricks, dishonest=dishonest)
    honest = [kme for kme in between if kme not in members]
    silent = rng.sample(honest, min(len(honest), rng.randrange(2)))
    cut = rng.sample(plan.links, min(len(plan.links), rng.randrange(3)))
    lost = frozenset(silent), frozenset(map(frozenset, cut))
    return Case(topology, plan, policy, demanded, coalition, tricks, *lost, dishonest)


def reconverging(rng: Random) -> Case:
    """A case in which one KME sees several shares of an inner split, and so may learn what that split held."""
    inner, outer = rng.randrange(3, 6), rng.randrange(2, 5)
    below = [f"x{n}" for n in range(inner)]
    beside = [f"a{n}" for n in range(outer)]
    seen = rng.randrange(2, inner + 1)
    hops = {
        "s": Hop(tuple(rng.sample(["v", *beside], outer + 1)), rng.randrange(2, outer + 1)),
        "v": Hop(tuple(below), rng.randrange(2, inner)),
        "w": Hop(("t",), 1),
        **{kme: Hop(("w",) if at < seen else ("t",), 1) for at, kme in enumerate(below)},
        **{kme: Hop(("t",), 1) for kme in beside},
    }
    plan = Plan.checked("s", "t", hops)
    topology = Topology("reconverging", (*plan.order,), tuple(sorted(plan.links)))
    coalition = frozenset({"w", *rng.sample(below, rng.randrange(2))})
    return Case(topology, plan, "any", min(oracle.withstood(plan), 3), coalition, (rng.choice(TRICKS), "gather"))


def random_topology(rng: Random, kmes_max: int = 9) -> Topology:
    """Connected: each KME is linked to an earlier one, and to some others."""
    kmes = [f"k{n}" for n in range(rng.randrange(3, kmes_max + 1))]
    links = {(rng.choice(kmes[:n]), kmes[n]) for n in range(1, len(kmes))}
    pairs = list(combinations(kmes, 2))
    links.update(rng.sample(pairs, min(len(pairs), rng.randrange(len(kmes), 4 * len(kmes)))))
    rng.shuffle(kmes)
    return Topology("drawn", tuple(kmes), tuple(sorted(links)))


def planned(topology: Topology, source: str, target: str, policy: str) -> Plan | None:
    """The plan by a policy, whatever it withstands."""
    try:
        return choose(topology, source, target, None, policy, allow_unprotected=True).plan
    except QkdRelayError:
        return None


def any_plan(rng: Random, topology: Topology, source: str, target: str) -> Plan | None:
    """A plan over the network's links in an order drawn at random, with thresholds drawn at random."""
    order = [kme for kme in topology.kmes if kme not in (source, target)]
    rng.shuffle(order)
    place = {kme: at for at, kme in enumerate((source, *order, target))}
    hops: dict[str, Hop] = {}
    for kme in (*reversed(order), source):
        later = [k for k in topology.neighbours[kme] if place[k] > place[kme] and (k == target or k in hops)]
        if later:
            chosen = rng.sample(later, rng.randrange(1, len(later) + 1))
            n = len(chosen)
            hops[kme] = Hop(tuple(chosen), rng.choice((majority(n), majority(n), rng.randrange(1, n + 1))))
    if source not in hops:
        return None
    reached, waiting = {source}, [source]
    while waiting:
        near = set(hops[waiting.pop()].successors) - reached - {target}
        reached |= near
        waiting += near
    try:
        return Plan.checked(source, target, {kme: hop for kme, hop in hops.items() if kme in reached}, SHARES_MAX)
    except QkdRelayError:
        return None
