"""Candidate plans of a relay: one of each policy, what it withstands and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qkdrelay.errors import InvalidPlanError
from qkdrelay.network.demand import POLICIES, Demand, Policy
from qkdrelay.network.key_cost import LONG_PAYLOAD, link_key_bytes, payload_bytes
from qkdrelay.network.minimal_sets import Resilience, resilience, smallest
from qkdrelay.network.names import Link
from qkdrelay.network.plan import SUCCESSORS_MAX, Plan
from qkdrelay.network.planner import PairPaths, no_path, path_plan, recursive_plan, union_plan, without
from qkdrelay.network.threshold_circuit import learning
from qkdrelay.network.topology import Topology, rate_of

LinkCost = frozenset[tuple[Link, int]]
"""Costs of links (sender, receiver), as of `LinkCosts`, to be remembered by."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One plan for a relay, with what it withstands and what it costs."""

    policy: Policy
    plan: Plan
    resilience: Resilience
    """With nobody's word taken."""
    meets_demand: bool
    messages: int
    link_key: Mapping[Link, int]
    """Bytes of link key drawn from each link (sender, receiver) to carry one key."""
    link_key_batch: Mapping[Link, int]
    """The same to carry the batch."""
    rate_bps: float
    """Bit/s of key that this plan alone delivers, by the rates of its links; infinite where none seals with a pad."""
    relies_on: tuple[str, ...] = ()
    """Trusted KMEs on it whose honesty the protection rests on; by itself such a plan does not meet the demand."""
    chosen: bool = False


class CandidateMaker:
    """The candidate plans that one demand has between one source and one target.

    Raises TopologyError for an unknown KME, InvalidPlanError if there is no path.
    """

    def __init__(
        self,
        topology: Topology,
        source: str,
        target: str,
        *,
        demand: Demand,
        costs: LinkCost,
        budget: int,
    ) -> None:
        topology.require(source)
        topology.require(target)
        if source == target:
            raise InvalidPlanError(f"source and target are both {source}", hint="name two different KMEs")
        self._topology, self._source, self._target = topology, source, target
        self._budget, self._demand = budget, demand
        self._others = len(topology.kmes) - 2
        self._paths = PairPaths(topology, source, target, dict(costs))
        self._disjoint = self._paths.disjoint()[:SUCCESSORS_MAX]
        if not self._disjoint:
            raise no_path(topology, source, target)

    def plan(self, policy: Policy) -> Plan | None:
        """Return the plan of one policy; None if it has none here. Raises InvalidPlanError if it exceeds the budget."""
        match policy:
            case "best":
                return self._best()
            case "disjoint":
                return self._all_paths()
            case "recursive":
                return self._recursive()
            case "trusted":
                return self._trusted()

    def candidate(self, policy: Policy, plan: Plan, key_count: int, key_size_bits: int) -> Candidate:
        """Return a plan with what it withstands, and what it costs for this batch of keys."""
        have = resilience(plan, self._others)
        one_key, batch = payload_bytes(1, key_size_bits), payload_bytes(key_count, key_size_bits)
        return Candidate(
            policy=policy,
            plan=plan,
            resilience=have,
            meets_demand=self._met(have),
            messages=plan.share_messages,
            link_key=link_key_bytes(plan, one_key, self._topology.suite),
            link_key_batch=link_key_bytes(plan, batch, self._topology.suite),
            rate_bps=self._rate(plan),
            relies_on=self._relies_on(plan, have),
        )

    def rank(self, candidate: Candidate) -> tuple[bool, int, int, int, int]:
        """Return a key that sorts candidates that meet the demand, the one to choose first."""
        enough = candidate.resilience.failed >= self._demand.lost + (self._demand.failed is None)
        key = sum(candidate.link_key_batch.values())
        avoided = len(self._topology.noted("avoid") & set(candidate.plan.order[1:-1]))
        return (not enough, avoided, candidate.messages, key, POLICIES.index(candidate.policy))

    def _rate(self, plan: Plan) -> float:
        drawn = link_key_bytes(plan, LONG_PAYLOAD, self._topology.suite)
        uses = {link: round(size / LONG_PAYLOAD) for link, size in drawn.items()}
        return min((rate_of(self._topology, link) / use for link, use in uses.items() if use), default=math.inf)

    def _met(self, have: Resilience) -> bool:
        """More KMEs than there are besides the two ends cannot be compromised, fail or tamper."""
        readers, lost, tampering = (
            min(number, self._others) for number in (self._demand.readers, self._demand.lost, self._demand.tampering)
        )
        return have.compromised >= readers and have.failed >= lost and have.tampering >= tampering

    def _relies_on(self, plan: Plan, have: Resilience) -> tuple[str, ...]:
        """Return the trusted KMEs of the plan, if it takes their honesty to keep the secret from enough others."""
        between = self._topology.noted("trusted") & set(plan.order[1:-1])
        trusted = tuple(kme for kme in self._topology.kmes if kme in between)
        wanted = min(self._demand.readers, self._others)
        if not trusted or have.compromised >= wanted:
            return ()
        size = smallest(learning(plan, set(plan.order) - set(trusted)))
        return trusted if size is None or size > wanted else ()

    def _best(self) -> Plan:
        """Split over as few disjoint paths as the demand takes; over all there are, secrecy first, if it takes more."""
        if self._paths.direct():
            return path_plan([(self._source, self._target)], 1, self._budget)
        paths = len(self._disjoint)
        threshold = min(self._demand.readers + 1, paths)
        spare = self._demand.lost + (self._demand.failed is None)
        return path_plan(self._disjoint[min(threshold + spare, paths) - 1], threshold, self._budget)

    def _all_paths(self) -> Plan:
        """Split over all disjoint paths; what there is beyond the demand goes to both sides, half to half."""
        paths = self._disjoint[-1]
        least = min(self._demand.readers + 1, len(paths))
        spare = self._demand.lost + (self._demand.failed is None)
        most = max(least, len(paths) - spare)
        return path_plan(paths, (least + most + 1) // 2, self._budget)

    def _recursive(self) -> Plan:
        never = self._topology.noted("never") - {self._source, self._target}
        network = without(self._topology, never) if never else self._topology
        try:
            return recursive_plan(network, self._source, self._target, self._budget)
        except InvalidPlanError as error:
            best = self._best()
            hint = f"the policy best takes {best.share_messages} messages"
            raise InvalidPlanError(f"policy recursive: {error}", hint=hint) from None

    def _trusted(self) -> Plan | None:
        """Return a plan that meets the demand if the trusted KMEs are honest, unless one does without them."""
        if not self._topology.noted("trusted") or self._met(resilience(self._best(), self._others)):
            return None
        return next(self._relying(), None)

    def _relying(self) -> Iterator[Plan]:
        trusted, demand = self._topology.noted("trusted"), self._demand
        for paths in self._paths.mostly_trusted():
            if len(paths) > demand.lost:
                plan = path_plan(paths, len(paths) - demand.lost, self._budget)
                if resilience(plan, self._others, trusted).compromised >= demand.readers:
                    yield plan
        if demand.lost == 0:
            shared = self._paths.through_trusted(demand.readers + 1)
            if shared is not None:
                yield union_plan(shared, self._budget)
