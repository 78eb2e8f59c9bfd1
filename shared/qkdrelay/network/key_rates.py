"""Rates of protected key of a network: what is possible, what bounds it, and what the planner's plans give today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from qkdrelay.errors import InvalidPlanError, TopologyError
from qkdrelay.network.capacity import KmePair, Optimum, PathBundle, is_protectable, optimum
from qkdrelay.network.demand import Demand
from qkdrelay.network.flow_bounds import FlowBounds
from qkdrelay.network.key_cost import link_key_bytes
from qkdrelay.network.names import Link
from qkdrelay.network.refusals import NoPlanError
from qkdrelay.network.selection import choose
from qkdrelay.network.topology import Topology

RATE_BPS_DEFAULT: Final = 1_000_000
"""Of a link of whose rate the topology says nothing, as a KME has it by default; in each direction."""
_LONG: Final = 1 << 24
"""Bytes of a payload beside which what a message takes besides does not count."""


@dataclass(frozen=True)
class PairRate:
    """What one pair gets with all the others, and what no protocol could exceed for it alone."""

    pair: KmePair
    rate_bps: float
    any_protocol_bps: float
    uses: Mapping[PathBundle, float]
    """Bit/s on each path of each bundle."""


@dataclass(frozen=True)
class KeyRates:
    """The answer, in bit/s of delivered key; each of the four is the share of the demand that all pairs get."""

    compromised: int
    possible: Optimum
    threshold: float
    """What threshold plans of as few paths as will do give, time-shared at best."""
    plans: float
    """What the planner's plans give, each pair by its own alone."""
    pairs: tuple[PairRate, ...]
    unprotected: tuple[KmePair, ...]
    """Pairs without enough disjoint paths, which are left out: nothing protects them."""
    rates: Mapping[Link, float]
    """By directed link."""


def pairs_of(topology: Topology) -> list[KmePair]:
    """Return all ordered pairs that have no link of their own."""
    return [
        KmePair(source, target)
        for source in topology.kmes
        for target in topology.kmes
        if source != target and target not in topology.neighbours[source]
    ]


def rates_of(topology: Topology) -> dict[Link, float]:
    """Return the rate of each directed link, in bit/s."""
    return {
        direction: float(topology.note(a, b).rate_bps or RATE_BPS_DEFAULT)
        for a, b in topology.links
        for direction in ((a, b), (b, a))
    }


def key_rates(topology: Topology, pairs: Sequence[KmePair], compromised: int) -> KeyRates:
    """Return the rates of these pairs at once, in proportion to their demands, with so many KMEs compromised.

    Raises TopologyError for a KME that is not there, or if none of the pairs can be protected.
    """
    for pair in pairs:
        topology.require(pair.source)
        topology.require(pair.target)
    kept = [pair for pair in pairs if is_protectable(topology, pair, compromised)]
    if not kept:
        raise TopologyError(_why_none(topology, pairs, compromised), hint="a link more, or fewer compromised KMEs")
    rates = rates_of(topology)
    possible = optimum(topology, rates, kept, compromised)
    threshold = possible if compromised == 0 else optimum(topology, rates, kept, compromised, "threshold")
    bounds = FlowBounds(topology.kmes, rates)
    return KeyRates(
        compromised=compromised,
        possible=possible,
        threshold=threshold.share,
        plans=_plans(topology, rates, kept, compromised),
        pairs=tuple(
            PairRate(
                pair,
                sum(flow * bundle.worth for bundle, flow in possible.uses[pair].items()),
                bounds.least(pair.source, pair.target, compromised),
                possible.uses[pair],
            )
            for pair in kept
        ),
        unprotected=tuple(pair for pair in pairs if pair not in set(kept)),
        rates=rates,
    )


def _why_none(topology: Topology, pairs: Sequence[KmePair], compromised: int) -> str:
    one = f"{pairs[0].source} to {pairs[0].target}" if len(pairs) == 1 else f"none of {len(pairs)} pairs"
    has = "has not" if len(pairs) == 1 else "has"
    return (
        f"{one} {has} the {compromised + 1} disjoint paths in {topology.name} that {compromised} compromised KMEs need"
    )


def _plans(topology: Topology, rates: Mapping[Link, float], pairs: Sequence[KmePair], compromised: int) -> float:
    """Return the share of the demand that the planner's plans deliver, each pair over the plan that it has alone."""
    used = dict.fromkeys(rates, 0.0)
    for pair in pairs:
        try:
            plan = choose(topology, pair.source, pair.target, Demand(compromised=compromised)).plan
        except (InvalidPlanError, NoPlanError):
            return 0.0
        for link, drawn in link_key_bytes(plan, _LONG, lambda _: "otp").items():
            used[link] += pair.demand * round(drawn / _LONG)
    return min((rates[link] / use for link, use in used.items() if use), default=0.0)
