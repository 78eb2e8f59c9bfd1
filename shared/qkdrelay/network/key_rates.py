"""Rates of protected key of a network: what is possible, what bounds it, and what the planner's plans give today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from statistics import median
from typing import Final

from qkdrelay.errors import InvalidPlanError, RequestRefusedError
from qkdrelay.network.capacity import KmePair, Optimum, PathBundle, bundles_of, is_protectable, optimum
from qkdrelay.network.demand import Demand
from qkdrelay.network.flow_bounds import FlowBounds
from qkdrelay.network.key_cost import LONG_PAYLOAD, link_key_bytes
from qkdrelay.network.names import Link
from qkdrelay.network.refusals import NoPlanError
from qkdrelay.network.selection import choose
from qkdrelay.network.topology import LinkNote, Topology, rate_of

MENDING_MAX: Final = 5
EXPLAINED_MAX: Final = 12
TRIED_MAX: Final = 3_000
"""Pairs that nothing protects for which absent links are tried, and how many are for each."""
FURTHER_MAX: Final = 30_000
"""Absent links times pairs for which it is computed what each would give: some ten seconds."""


@dataclass(frozen=True)
class PairRate:
    """What one pair gets with all the others, and what no protocol could exceed for it alone."""

    pair: KmePair
    rate_bps: float
    any_protocol_bps: float
    uses: Mapping[PathBundle, float]
    """Bit/s on each path of each bundle."""


@dataclass(frozen=True)
class Unprotected:
    """A pair that gets nothing, and what would change that."""

    pair: KmePair
    paths: int
    """Disjoint paths that join the two."""
    mended_by: tuple[Link, ...]
    """Absent links, any of which would give it enough, at most `MENDING_MAX`; those with the shortest paths first."""


@dataclass(frozen=True)
class FurtherLink:
    """An absent link, and what all pairs would get with it."""

    link: Link
    rate_bps: float
    """That it is taken to have, in each direction."""
    share: float
    """Of the demand; what is possible then."""


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
    unprotected: tuple[Unprotected, ...]
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
    return {direction: rate_of(topology, (a, b)) for a, b in topology.links for direction in ((a, b), (b, a))}


def key_rates(topology: Topology, pairs: Sequence[KmePair], compromised: int) -> KeyRates:
    """Return the rates of these pairs at once, in proportion to their demands, with so many KMEs compromised.

    Pairs that nothing protects are left out, and said why; if that is all of them, everything is 0. Raises
    TopologyError for a KME that is not there.
    """
    for pair in pairs:
        topology.require(pair.source)
        topology.require(pair.target)
    kept = [pair for pair in pairs if is_protectable(topology, pair, compromised)]
    rates = rates_of(topology)
    possible = optimum(topology, rates, kept, compromised) if kept else _nothing(rates)
    threshold = optimum(topology, rates, kept, compromised, "threshold") if kept and compromised else possible
    bounds = FlowBounds(topology.kmes, rates)
    left_out = [pair for pair in pairs if pair not in set(kept)]
    return KeyRates(
        compromised=compromised,
        possible=possible,
        threshold=threshold.share,
        plans=_plans(topology, rates, kept, compromised),
        pairs=tuple(
            PairRate(
                pair,
                sum(flow * bundle.worth for bundle, flow in possible.uses[pair].items()),
                bounds.least(
                    pair.source, pair.target, compromised, topology.noted("never") - {pair.source, pair.target}
                ),
                possible.uses[pair],
            )
            for pair in kept
        ),
        unprotected=tuple(
            _unprotected(topology, pair, compromised, is_explained=number < EXPLAINED_MAX)
            for number, pair in enumerate(left_out)
        ),
        rates=rates,
    )


def _nothing(rates: Mapping[Link, float]) -> Optimum:
    return Optimum(0.0, 0.0, {}, dict.fromkeys(rates, 0.0), dict.fromkeys(rates, 0.0))


def _unprotected(topology: Topology, pair: KmePair, compromised: int, *, is_explained: bool) -> Unprotected:
    """Return why a pair gets nothing; which links would change that only if that ``is_explained``."""
    paths = max((len(bundle.paths) for bundle in bundles_of(topology, pair, 0, "bundles")), default=0)
    mended: list[tuple[int, Link]] = []
    for link in islice(absent_links(topology), TRIED_MAX) if is_explained else ():
        bundle = next(bundles_of(with_link(topology, link, None), pair, compromised, "threshold"), None)
        if bundle is not None:
            mended.append((sum(1 for _ in bundle.links), link))
    return Unprotected(pair, paths, tuple(link for _, link in sorted(mended)[:MENDING_MAX]))


def absent_links(topology: Topology) -> Iterator[Link]:
    """Yield each pair of KMEs that have no link, in the topology's order."""
    return ((a, b) for a, b in combinations(topology.kmes, 2) if b not in topology.neighbours[a])


def with_link(topology: Topology, link: Link, rate_bps: int | None) -> Topology:
    """Return the network with a link more, of this rate or the one by default."""
    notes = {**topology.link_notes, link: LinkNote(None, rate_bps, None)}
    return replace(topology, links=(*topology.links, link), link_notes=notes)


def further_links(topology: Topology, pairs: Sequence[KmePair], compromised: int) -> list[FurtherLink]:
    """Return what each absent link of the median rate would give to those pairs that are protected, best first.

    Raises RequestRefusedError if that would take too long.
    """
    kept = [pair for pair in pairs if is_protectable(topology, pair, compromised)]
    absent = list(absent_links(topology))
    if len(kept) * len(absent) > FURTHER_MAX:
        raise RequestRefusedError(
            f"{len(absent)} absent links for {len(kept)} pairs would take too long",
            hint="name a pair, or demands for fewer (--demand)",
        )
    if not kept:
        return []
    rate = median(rates_of(topology).values())
    found = []
    for link in absent:
        network = with_link(topology, link, round(rate))
        found.append(FurtherLink(link, rate, optimum(network, rates_of(network), kept, compromised).share))
    return sorted(found, key=lambda further: (-further.share, further.link))


def _plans(topology: Topology, rates: Mapping[Link, float], pairs: Sequence[KmePair], compromised: int) -> float:
    """Return the share of the demand that the planner's plans deliver, each pair over the plan that it has alone."""
    used = dict.fromkeys(rates, 0.0)
    for pair in pairs:
        try:
            plan = choose(topology, pair.source, pair.target, Demand(compromised=compromised)).plan
        except (InvalidPlanError, NoPlanError):
            return 0.0
        for link, drawn in link_key_bytes(plan, LONG_PAYLOAD, lambda _: "otp").items():
            used[link] += pair.demand * round(drawn / LONG_PAYLOAD)
    return min((rates[link] / use for link, use in used.items() if use), default=0.0)
