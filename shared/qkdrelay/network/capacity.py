"""The key rate that a network can deliver although KMEs are compromised, and a certificate that it can be no more.

A bundle is n node-disjoint paths of a pair. Time-shared it delivers, with extraction, n - T times the rate of its paths
while T KMEs between are compromised; a threshold plan of n = T + 1 paths delivers their rate. How much of which bundle
is a linear program, whose columns are made as they are needed: at link prices y the n cheapest disjoint paths cost C_n,
for every n from one run of `disjoint_paths`.

Certificate: for any prices y >= 0 no use of such bundles has a larger share of the demand d than
sum_e r_e y_e / sum_i d_i min_n C_n^i(y) / worth_n.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal, cast

from qkdrelay.errors import InvalidPlanError
from qkdrelay.network.names import Link
from qkdrelay.network.paths import Path, disjoint_paths
from qkdrelay.network.topology import Topology

Scheme = Literal["bundles", "threshold"]
"""What paths are worth: n - T where extraction follows, or 1 for n = T + 1."""
GAP_MAX: Final = 2e-7
"""The certificate over the share, less one, at which a program is solved."""
_FLOOR: Final = 1e-7
"""What the lowest prices of all links add to the certificate: else what the solver takes for nothing would be free."""
GAP_LEFT_MAX: Final = 1e-4
"""The same for one that could not be brought nearer, and is taken as solved."""
ROUNDS_MAX: Final = 1_000
SECONDS_MAX: Final = 300.0
"""How long a program may take."""
_PARTS_MAX: Final = 1e4
"""How many times a pair's share a bundle's flow is reckoned in at most."""
_EXACT: Final = 1e-10
_OUT_OF_TIME: Final = 1
_STEPS: Final = 1 << 80
"""The largest price in the whole numbers that paths are looked for with: rates may be 12 orders of magnitude apart."""


@dataclass(frozen=True, slots=True)
class KmePair:
    """An ordered pair of KMEs, and the key that it wants, in bit/s or in proportion to others."""

    source: str
    target: str
    demand: float = 1.0


@dataclass(frozen=True, slots=True)
class PathBundle:
    """Node-disjoint paths of a pair that are used together."""

    paths: tuple[Path, ...]
    worth: int
    """Bits of key that a bit on each of its paths delivers."""

    @property
    def links(self) -> Iterator[Link]:
        """Yield the directed links that it uses."""
        for path in self.paths:
            yield from pairwise(path)


@dataclass(frozen=True)
class Optimum:
    """What a network can give to some pairs at once, and the certificate."""

    share: float
    """Of each pair's demand that is delivered; in bit/s where the demand is 1."""
    certificate: float
    """Not exceeded by any use of such bundles."""
    uses: Mapping[KmePair, Mapping[PathBundle, float]]
    """Bit/s on each path of each bundle."""
    prices: Mapping[Link, float]
    """What a bit/s more on a directed link would add to the share."""
    used: Mapping[Link, float]
    """Bit/s of each directed link that are used."""


def bundles_of(
    topology: Topology, pair: KmePair, compromised: int, scheme: Scheme, prices: Mapping[Link, int] | None = None
) -> Iterator[PathBundle]:
    """Yield the cheapest bundle of each number of paths that delivers something; by length without prices.

    The link of two neighbours is a bundle of its own, whatever is compromised: no KME is on it.
    """
    if pair.target in topology.neighbours[pair.source]:
        yield PathBundle(((pair.source, pair.target),), 1)
    cost = (lambda a, b: prices[a, b]) if prices is not None else (lambda _a, _b: 1)
    for paths in disjoint_paths(_between(topology, pair), pair.source, pair.target, cost, lambda _: 0):
        worth = len(paths) - compromised
        if worth >= 1:
            yield PathBundle(paths, 1 if scheme == "threshold" else worth)
            if scheme == "threshold":
                return


def _between(topology: Topology, pair: KmePair) -> Mapping[str, Sequence[str]]:
    """Return the neighbours of the KMEs that may relay for a pair; without the link that the two have themselves."""
    near, never = topology.neighbours, topology.noted("never") - {pair.source, pair.target}
    if never:
        near = {kme: others for kme, others in near.items() if kme not in never}
    if pair.target in near[pair.source]:
        near = {**near, pair.source: tuple(kme for kme in near[pair.source] if kme != pair.target)}
    return near


def is_protectable(topology: Topology, pair: KmePair, compromised: int) -> bool:
    """Whether a pair has a bundle at all that withstands so many compromised KMEs."""
    return next(bundles_of(topology, pair, compromised, "threshold"), None) is not None


def optimum(
    topology: Topology,
    rates: Mapping[Link, float],
    pairs: Sequence[KmePair],
    compromised: int,
    scheme: Scheme = "bundles",
) -> Optimum:
    """Return what can be delivered to all pairs at once, in proportion to their demands, which are positive.

    ``rates`` has bit/s by directed link. Of a pair that is not `is_protectable` the share, and so all, is 0; leave it
    out. Raises InvalidPlanError if the solver fails, or needs longer.
    """
    program = _Program(topology, rates, pairs, compromised, scheme)
    certificate, until = float("inf"), time.monotonic() + SECONDS_MAX
    for _ in range(ROUNDS_MAX):
        program.solve(max(1.0, until - time.monotonic()))
        added, bound = program.price()
        certificate = min(certificate, bound)
        if not added or certificate <= program.share * (1 + GAP_MAX) or time.monotonic() > until:
            break
    found = program.found(certificate)
    if certificate > found.share * (1 + GAP_LEFT_MAX):
        raise _NotFoundError(pairs)
    return found


class _NotFoundError(InvalidPlanError):
    """A program that was not solved in time."""

    def __init__(self, pairs: Sequence[KmePair]) -> None:
        """``pairs`` are those it is for."""
        super().__init__(
            f"the key rate of {len(pairs)} pairs at once was not found in {SECONDS_MAX:g} s",
            hint="name two KMEs, or demands for fewer pairs (--demand)",
        )


@dataclass
class _Program:
    """The program over the bundles that were made so far."""

    topology: Topology
    rates: Mapping[Link, float]
    pairs: Sequence[KmePair]
    compromised: int
    scheme: Scheme
    columns: list[tuple[int, PathBundle]] = field(default_factory=list)
    """A pair's place and a bundle of it."""
    known: set[tuple[int, PathBundle]] = field(default_factory=set)
    share: float = 0.0
    flows: Sequence[float] = ()
    prices: Sequence[float] = ()
    worths: Sequence[float] = ()
    """What a bit of key for each pair would be worth."""

    def __post_init__(self) -> None:
        self.links = list(self.rates)
        self.place = {link: i for i, link in enumerate(self.links)}
        for i, pair in enumerate(self.pairs):
            for bundle in bundles_of(self.topology, pair, self.compromised, self.scheme):
                self._add(i, bundle)

    def _add(self, pair: int, bundle: PathBundle) -> bool:
        column = pair, bundle
        if column in self.known:
            return False
        self.known.add(column)
        self.columns.append(column)
        return True

    def solve(self, seconds: float) -> None:
        """Solve it within so many seconds: flows, share, and the prices of links and of keys.

        The solver's tolerances are absolute. So each link's row is in parts of its rate, each bundle's flow in parts of
        what its narrowest link carries, and the share in one that was had before: all of it is about 1 where it counts.
        """
        # Loaded where it is used: a KME imports its neighbours of this module and has no solver.
        import numpy as np  # noqa: PLC0415
        from scipy.optimize import linprog  # noqa: PLC0415
        from scipy.sparse import csr_array  # noqa: PLC0415

        links = len(self.links)
        narrow = [min(self.rates[link] for link in bundle.links) for _, bundle in self.columns]
        if not self.share:
            best = [0.0] * len(self.pairs)
            for (i, bundle), rate in zip(self.columns, narrow, strict=True):
                best[i] = max(best[i], rate * bundle.worth)
            self.share = min(rate / pair.demand for rate, pair in zip(best, self.pairs, strict=True))
        unit = self.share
        # But of no more than matters to its pair: what is very large or small the solver does not take.
        narrow = [
            min(rate, _PARTS_MAX * unit * self.pairs[i].demand)
            for (i, _), rate in zip(self.columns, narrow, strict=True)
        ]
        entries: list[tuple[int, int, float]] = [(links + i, 0, 1.0) for i in range(len(self.pairs))]
        for number, ((i, bundle), rate) in enumerate(zip(self.columns, narrow, strict=True), 1):
            entries += ((self.place[link], number, rate / self.rates[link]) for link in bundle.links)
            entries.append((links + i, number, -bundle.worth * rate / (self.pairs[i].demand * unit)))
        rows, columns, values = zip(*entries, strict=True)
        matrix = csr_array((values, (rows, columns)), shape=(links + len(self.pairs), len(self.columns) + 1))
        objective = np.zeros(len(self.columns) + 1)
        objective[0] = -1.0
        limits = np.zeros(links + len(self.pairs))
        limits[:links] = 1.0
        result = linprog(
            objective, A_ub=cast(Any, matrix), b_ub=limits, method="highs", options={"time_limit": seconds}
        )
        if result.status == _OUT_OF_TIME:
            raise _NotFoundError(self.pairs)
        if result.status != 0 or result.x is None:
            raise InvalidPlanError(f"the program of the network's key rate was not solved: {result.message}")
        duals = np.maximum(-result.ineqlin.marginals, 0.0)
        self.flows = [max(0.0, float(x)) * rate for x, rate in zip(result.x[1:], narrow, strict=True)]
        self.prices = [float(y) * unit / self.rates[link] for y, link in zip(duals, self.links, strict=False)]
        self.worths = [float(w) / pair.demand for w, pair in zip(duals[links:], self.pairs, strict=True)]
        self._hold_to_the_rates()

    def _hold_to_the_rates(self) -> None:
        """Have each pair get its share and no more, the links carry it, and the share be what comes of that."""
        got = [0.0] * len(self.pairs)
        for (i, bundle), flow in zip(self.columns, self.flows, strict=True):
            got[i] += flow * bundle.worth
        self.share = min(rate / pair.demand for rate, pair in zip(got, self.pairs, strict=True))
        parts = [self.share * pair.demand / rate for rate, pair in zip(got, self.pairs, strict=True)]
        flows = [flow * parts[i] for (i, _), flow in zip(self.columns, self.flows, strict=True)]
        used = dict.fromkeys(self.links, 0.0)
        for (_, bundle), flow in zip(self.columns, flows, strict=True):
            for link in bundle.links:
                used[link] += flow
        over = max(1.0, *(use / self.rates[link] for link, use in used.items()))
        self.flows, self.share = [flow / over for flow in flows], self.share / over

    def price(self) -> tuple[bool, float]:
        """Add each pair's bundles that are cheaper than its key is worth; return if there are any, and the bound."""
        lowest = _FLOOR * self.share / len(self.links)
        prices = [max(y, lowest / self.rates[link]) for link, y in zip(self.links, self.prices, strict=True)]
        step = max(prices) / _STEPS
        # Whole, and none is free: the bound holds for any prices, and so for these.
        steps = {link: max(1, round(y / step)) for link, y in zip(self.links, prices, strict=True)}
        added, least = False, 0.0
        for i, pair in enumerate(self.pairs):
            cheapest = float("inf")
            for bundle in bundles_of(self.topology, pair, self.compromised, self.scheme, steps):
                cost = sum(map(steps.__getitem__, bundle.links)) / bundle.worth
                cheapest = min(cheapest, cost)
                if cost * step < self.worths[i] * (1 - GAP_MAX / 10):
                    added |= self._add(i, bundle)
            least += pair.demand * cheapest
        bound = sum(self.rates[link] * y for link, y in steps.items()) / least
        return added, bound

    def found(self, certificate: float) -> Optimum:
        """Return what the last solution is."""
        uses: dict[KmePair, dict[PathBundle, float]] = {pair: {} for pair in self.pairs}
        used = dict.fromkeys(self.links, 0.0)
        for (i, bundle), flow in zip(self.columns, self.flows, strict=False):  # the newest ones were of no more use
            if flow > 0.0:
                uses[self.pairs[i]][bundle] = flow
                for link in bundle.links:
                    used[link] += flow
        return Optimum(
            self.share, max(certificate, self.share), uses, dict(zip(self.links, self.prices, strict=True)), used
        )
