"""What the shares of one split say together: each polynomial that decodes, and who agrees with it.

Protocol, section 3. A subset of k shares fixes a polynomial. If its value at 0 is a code word, the shares
that lie on the polynomial are an *agreeing set*, and the message in the code word is one payload this split
may have had. A split without false shares costs one interpolation and n-k evaluations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, product
from random import Random

from qkdrelay.errors import AmdError
from qkdrelay.sharing import amd, shamir

Candidates = Mapping[int, Sequence[bytes]]
"""x -> what the share with this index may be: one value, or several if a split below allows several."""

_Points = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """A polynomial that decodes: its payload, its values at all x present, the x whose share lies on it."""

    payload: bytes = field(repr=False)
    values: Mapping[int, bytes] = field(repr=False)
    indices: frozenset[int]

    def holds(self, points: _Points) -> bool:
        """Whether all of ``points`` lie on the polynomial."""
        return all(self.values[x] == y for x, y in points)


def agreements(shares: Candidates, threshold: int, attempts: int) -> tuple[list[Agreement], bool]:
    """Return every agreement among ``shares``, and whether the bound on attempts left subsets untried.

    ``shares`` are equally long and at least ``threshold`` in number. At most ``attempts`` + 1 interpolations
    are made; a subset inside an agreeing set already found says nothing new and is skipped.
    """
    found: list[Agreement] = []
    for points in _subsets(shares, threshold, attempts):
        if any(agreement.holds(points) for agreement in found):
            continue
        agreement = _agreement(shares, points)
        if agreement is None:
            continue
        found.append(agreement)
        if all(values == (agreement.values[x],) for x, values in shares.items()):
            return found, False
    return found, _count(shares, threshold) > attempts


def _agreement(shares: Candidates, points: _Points) -> Agreement | None:
    known = dict(points)
    try:
        payload = amd.decode(shamir.combine(known))
    except AmdError:
        return None
    values = {x: known[x] if x in known else shamir.combine(known, at=x) for x in shares}
    return Agreement(payload, values, frozenset(x for x in shares if values[x] in shares[x]))


def _subsets(shares: Candidates, threshold: int, attempts: int) -> Iterator[_Points]:
    """Yield the first ``threshold`` shares, then every subset of that size, or a sample if they are too many.

    A sample and not the first ones in order, so that a few false shares at the front cannot hide the
    subsets without them.
    """
    yield tuple((x, shares[x][0]) for x in sorted(shares)[:threshold])
    if _count(shares, threshold) <= attempts:
        chosen = combinations(sorted(shares), threshold)
        yield from chain.from_iterable(product(*(_points(shares, x) for x in xs)) for xs in chosen)
        return
    order = Random(0)  # noqa: S311 - an order of trying, not a secret; the same every time
    for _ in range(attempts):
        xs = order.sample(sorted(shares), threshold)
        yield tuple(order.choice(_points(shares, x)) for x in xs)


def _points(shares: Candidates, x: int) -> list[tuple[int, bytes]]:
    return [(x, value) for value in shares[x]]


def _count(shares: Candidates, threshold: int) -> int:
    """Return how many subsets of ``threshold`` shares with distinct x there are."""
    counts = [1] + [0] * threshold
    for values in shares.values():
        for size in range(threshold, 0, -1):
            counts[size] += counts[size - 1] * len(values)
    return counts[threshold]
