"""Admission of relays: what is asked for is planned, within budgets, or refused with data that front ends word.

It runs in the turn that takes the request, and nothing else happens meanwhile. What bounds it: a topology has at most
512 KMEs, a plan at most `SHARE_MESSAGES_MAX` share messages and `PLAN_BYTES_MAX` bytes, and what all policies have to
offer is asked only where the best one does not meet the demand. That takes tens of milliseconds for 500 KMEs, and up to
seconds where what a dense plan withstands is hard to find; once, for what was chosen for the same ends, demand and load
is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import cast
from uuid import UUID

from coordinator.lifecycle import Relay
from coordinator.store.relays import RelayTable
from qkdrelay.errors import RequestRefusedError
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.control import FixedDemand, Terms
from qkdrelay.messages.fields import PLAN_BYTES_MAX, TIMEOUT_S_MAX, TIMEOUT_S_MIN
from qkdrelay.messages.keys import check_key_amount
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.reports import SILENT_S, Hello
from qkdrelay.network.candidates import Candidate, LinkCost
from qkdrelay.network.demand import Demand, Policy
from qkdrelay.network.key_cost import link_key_bytes, payload_bytes
from qkdrelay.network.names import Link
from qkdrelay.network.prices import FULL, UNUSABLE, cost
from qkdrelay.network.refusals import UnprotectedError
from qkdrelay.network.selection import choose
from qkdrelay.network.topology import Topology

UNDECIDED_MAX = 10_000
_CHOICES_KEPT = 256
_STEPS = 8
"""Steps in which plans see how much of a link's key is left: few, so that they are not made anew all the time."""


class TimeoutRefusedError(RequestRefusedError):
    """A relay cannot have so long, or so little time."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"timeout {timeout_s:g} s; it must be from {TIMEOUT_S_MIN:g} to {TIMEOUT_S_MAX:g} s")
        self.timeout_s = timeout_s


class TooManyUndecidedError(RequestRefusedError):
    """As many relays as there may be are under way."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} relays are under way")
        self.limit = limit


class PlanTooLargeError(RequestRefusedError):
    """No message to the ends could have the plan."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the plan takes {size} bytes; at most {limit} fit a message")
        self.size, self.limit = size, limit


@dataclass(frozen=True, slots=True)
class RelaySpec:
    """A relay that is asked for, by whomever."""

    relay_id: UUID
    source: str
    target: str
    key_count: int
    key_size_bits: int
    demand: Demand
    timeout_s: float
    policy: str | None = None
    """None: the best."""
    allow_unprotected: bool = False
    """Whether any plan will do if none meets the demand."""


class Admission:
    """Plans relays over a topology that does not change, with regard to how much link key there is."""

    def __init__(self, topology: Topology, relays: RelayTable, last_hellos: Mapping[str, tuple[float, Hello]]) -> None:
        """``last_hellos`` has the time and text of each KME's last hello: it tells what key is left."""
        self._topology, self._relays, self._last_hellos = topology, relays, last_hellos
        self._compromised_min = compromised_min(topology)
        self._choose: Callable[..., Candidate] = lru_cache(maxsize=_CHOICES_KEPT)(partial(choose, topology))

    def admit(
        self, spec: RelaySpec, now: float, *, supply: Supply | None = None, candidate: Candidate | None = None
    ) -> Relay:
        """Return the relay, planned, to be begun; with ``supply`` it is one of supply, over the plan of ``candidate``.

        Raises KeyAmountError, TimeoutRefusedError, UnprotectedError, TooManyUndecidedError, PlanTooLargeError, and
        whatever `choose` does.
        """
        check_key_amount(spec.key_count, spec.key_size_bits)
        if not TIMEOUT_S_MIN <= spec.timeout_s <= TIMEOUT_S_MAX:
            raise TimeoutRefusedError(spec.timeout_s)
        candidate = candidate or self._chosen(spec, now)
        protected = candidate.resilience.compromised >= self._compromised_min
        if not protected and not spec.allow_unprotected:
            raise UnprotectedError(spec.source, spec.target)
        if self._relays.undecided_count() >= UNDECIDED_MAX:
            raise TooManyUndecidedError(UNDECIDED_MAX)
        plan = encode_plan(candidate.plan)
        if len(plan) > PLAN_BYTES_MAX:
            raise PlanTooLargeError(len(plan), PLAN_BYTES_MAX)
        terms = Terms(
            relay_id=spec.relay_id,
            plan=plan,
            key_count=spec.key_count,
            key_size_bits=spec.key_size_bits,
            withstand=_demanded(spec.demand, candidate),
            deadline=now + spec.timeout_s,
            supply=supply,
        )
        return Relay(
            terms=terms,
            policy=candidate.policy,
            protected=protected,
            relies_on=candidate.relies_on,
            created_at=now,
        )

    def supply_candidate(self, source: str, target: str, compromised: int, costs: LinkCost) -> Candidate:
        """Return the plan of a relay of supply: over as few of the cheapest paths as withstand so many, none to spare.

        Raises whatever `choose` does.
        """
        demand = Demand(compromised, failed=0)
        return choose(self._topology, source, target, demand, costs=costs, allow_unprotected=compromised == 0)

    def link_key_bytes(self, relay: Relay) -> dict[Link, int]:
        """Return the bytes of each link's key that a relay draws."""
        terms = relay.terms
        pairs = 0 if terms.supply is None else terms.supply.tag_pairs
        length = payload_bytes(terms.key_count, terms.key_size_bits, pairs)
        return link_key_bytes(relay.plan, length, self._topology.suite)

    def _chosen(self, spec: RelaySpec, now: float) -> Candidate:
        return self._choose(
            spec.source,
            spec.target,
            spec.demand,
            cast("Policy | None", spec.policy),
            costs=self._costs(now),
            allow_unprotected=spec.allow_unprotected,
            key_count=spec.key_count,
            key_size_bits=spec.key_size_bits,
        )

    def _costs(self, now: float) -> LinkCost:
        """Return what links cost, by how much key is left, in steps; those that are full are left out."""
        costs: dict[Link, int] = {}
        for kme, (at, hello) in self._last_hellos.items():
            for link in hello.links:
                way, back = (kme, link.peer), (link.peer, kme)
                if not link.up or abs(now - at) >= SILENT_S:
                    costs[way] = costs[back] = UNUSABLE
                elif way not in costs:
                    costs[way] = cost(round(_STEPS * link.available_bytes / link.buffer_bytes) / _STEPS)
        return frozenset((way, what) for way, what in costs.items() if what > FULL)


def compromised_min(topology: Topology) -> int:
    """Return how many compromised KMEs a plan must withstand to protect; in a network of two there are none."""
    return min(1, len(topology.kmes) - 2)


def _demanded(demand: Demand, candidate: Candidate) -> FixedDemand:
    """Return what both ends are to check: what was asked for or, if any plan was to do, as much of it as this one has.

    The one failed KME that is withstood if the network allows it is demanded where it does.
    """
    have = candidate.resilience
    if candidate.meets_demand:
        failed = int(have.failed > demand.lost) if demand.failed is None else demand.failed
        return FixedDemand(compromised=demand.compromised, failed=failed, tampering=demand.tampering)
    tampering = min(demand.tampering, have.tampering, have.compromised, have.failed)
    failed = min(1 if demand.failed is None else demand.failed, have.failed - tampering)
    return FixedDemand(compromised=min(demand.compromised, have.compromised), failed=failed, tampering=tampering)
