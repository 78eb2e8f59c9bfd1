"""Agreement among the shares of one split: each polynomial that decodes, and who agrees with it.

Protocol, section 3. A subset of k shares fixes a polynomial. If its value at 0 is a code word, the shares
that lie on the polynomial are an *agreeing set*, and the message in the code word is one payload this split
may have had. Three ways lead to them:

- The first k shares. A split without false shares costs this one interpolation and n-k evaluations.
- Decoding (`decoding`): if at most (n-k)/2 of the n shares are false, or more if those did not conspire, it says
  which, and k of the others are the next to be tried; then what is left the same way, for there may be two camps.
- A search of all subsets, or of a sample if there are too many for the budget.

Another payload beside the first can decode only if KMEs that know the payload anyway, k shares of it, make it. Where
every threshold below is a majority, those could also keep it from the target: nothing that does not depend on their
good will is lost with what is not found (`qkdrelay.network.minimal_sets` has the proof). There, once all but
fewer than k shares agree, the search is left out if all but (n-k)/2 do, for no other polynomial has as many;
otherwise it is short, to tell who disagrees. Elsewhere every payload counts, and it goes to the end of the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, product
from math import comb
from random import Random

from qkdrelay.errors import AmdError
from qkdrelay.sharing import amd, shamir
from qkdrelay.sharing.decoding import false_among
from qkdrelay.sharing.work import CALL, CHOICE, CODE, Budget, Steps, attempt, combining

Candidates = Mapping[int, Sequence[bytes]]
"""x -> what the share with this index may be: one value, or several if a split below allows several."""

FOLDS = 4
"""Times decoding is tried: one in some hundred folds hides a false share."""
SHORT_SEARCH = 1 << 25
"""Work after which the search ends where nothing depends on it any more."""
_AT_ONCE = 1 << 23
"""Bytes that are interpolated in one step, about."""

_Points = tuple[tuple[int, int], ...]
"""Pairs of an x and the number of one of the candidates there."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A polynomial that decodes: its payload, and for the x whose share lies on it, which of the candidates does."""

    payload: bytes = field(repr=False)
    places: Mapping[int, int]

    def holds(self, points: _Points) -> bool:
        """Whether all of ``points`` lie on the polynomial."""
        return all(self.places.get(x) == place for x, place in points)


def agreements(
    shares: Candidates, threshold: int, budget: Budget, *, part: int, decisive: bool
) -> Steps[tuple[list[Agreement], bool]]:
    """Return every agreement among ``shares``, and whether the budget left subsets untried.

    ``shares`` are equally long and at least ``threshold`` in number. The search takes at most ``part`` of the budget.
    ``decisive``: nothing depends on what is beside the first, as the module's docstring says.
    """
    found: list[Agreement] = []
    first = tuple((x, 0) for x in sorted(shares)[:threshold])
    agreement = yield from _agreement(shares, first)
    if agreement is not None:
        found.append(agreement)
    if not _settled(shares, threshold, found, decisive=decisive):
        yield from _decode(shares, threshold, found, first, decisive=decisive)
    if _settled(shares, threshold, found, decisive=decisive):
        return found, False
    exhausted = yield from _search(shares, threshold, found, budget, part=part, decisive=decisive)
    return found, exhausted


def _settled(shares: Candidates, threshold: int, found: Sequence[Agreement], *, decisive: bool) -> bool:
    """Whether the latest agreement is one beside which no other needs to be looked for."""
    if not found:
        return False
    off = _off(shares, found[-1])
    return off == 0 or (decisive and off < threshold and 2 * off <= len(shares) - threshold)


def _off(shares: Candidates, agreement: Agreement) -> int:
    """Return at how many x there is something that does not agree."""
    return sum(len(values) > 1 or x not in agreement.places for x, values in shares.items())


def _agreement(shares: Candidates, points: _Points) -> Steps[Agreement | None]:
    known = {x: shares[x][place] for x, place in points}
    codeword = yield from _value(known, 0)
    try:
        payload = amd.decode(codeword)
    except AmdError:
        return None
    finally:
        yield CODE + len(codeword)
    places = dict(points)
    for x, values in shares.items():
        if x not in known:
            value = yield from _value(known, x)
            if value in values:
                places[x] = values.index(value)
    return Agreement(payload, places)


def _value(points: Mapping[int, bytes], at: int) -> Steps[bytes]:
    """Return the value at ``at`` of the polynomial through ``points``; in several steps if they are long."""
    size = len(next(iter(points.values())))
    length = max(1, _AT_ONCE // len(points))
    parts = []
    for start in range(0, size, length):
        piece = {x: y[start : start + length] for x, y in points.items()} if size > length else points
        parts.append(shamir.combine(piece, at))
        yield combining(len(points), len(parts[-1]))
    return b"".join(parts) if len(parts) > 1 else parts[0]


def _decode(
    shares: Candidates, threshold: int, found: list[Agreement], tried: _Points, *, decisive: bool
) -> Steps[None]:
    """Add to ``found`` what decoding finds, among all shares of one value and then among those that agree with none."""
    rest = {x: values[0] for x, values in shares.items() if len(values) == 1}
    while len(rest) >= threshold:
        agreement = yield from _decoded(shares, rest, threshold, tried)
        if agreement is not None and agreement not in found:
            found.append(agreement)
        left = {x: y for x, y in rest.items() if not any(x in agreement.places for agreement in found)}
        if len(left) == len(rest) or _settled(shares, threshold, found, decisive=decisive):
            return
        rest = left


def _decoded(shares: Candidates, rest: Mapping[int, bytes], threshold: int, tried: _Points) -> Steps[Agreement | None]:
    false: frozenset[int] = frozenset()
    for salt in range(FOLDS if len(rest) > threshold + 1 else 1):
        if len(rest) > threshold + 1:
            more = yield from false_among(rest, threshold, salt)
            if more is None:
                return None
            false |= more
        points = tuple((x, 0) for x in sorted(rest.keys() - false)[:threshold])
        if len(points) < threshold:
            return None
        if points != tried:
            agreement = yield from _agreement(shares, points)
            if agreement is not None:
                return agreement
    return None


def _search(
    shares: Candidates, threshold: int, found: list[Agreement], budget: Budget, *, part: int, decisive: bool
) -> Steps[bool]:
    """Add to ``found`` what the search finds; return whether subsets were left untried."""
    size = len(next(iter(shares.values()))[0])
    each, evaluations = attempt(threshold, size), combining(threshold, size) * (len(shares) - threshold)
    left = min(part, budget.left)
    affordable = left // each
    enough = decisive and any(_off(shares, agreement) < threshold for agreement in found)
    for tried, points in enumerate(_subsets(shares, threshold, affordable)):
        if enough and tried * each > SHORT_SEARCH:
            return True
        yield CALL * (1 + len(found)) + CHOICE * threshold
        if any(agreement.holds(points) for agreement in found):
            continue
        agreement = yield from _agreement(shares, points)
        spent = each + (evaluations if agreement else 0)
        left, budget.left = left - spent, budget.left - spent
        if agreement is None:
            continue
        found.append(agreement)
        if _settled(shares, threshold, found, decisive=decisive):
            return False
        if left < 0:
            return True
        enough = enough or (decisive and _off(shares, agreement) < threshold)
    return _count(shares, threshold) > affordable


def _subsets(shares: Candidates, threshold: int, attempts: int) -> Iterator[_Points]:
    """Yield every subset of ``threshold`` shares, or a sample of ``attempts`` if they are more.

    A sample and not the first ones in order, so that a few false shares at the front cannot hide the
    subsets without them.
    """
    if _count(shares, threshold) <= attempts:
        chosen = combinations(sorted(shares), threshold)
        yield from chain.from_iterable(product(*(_points(shares, x) for x in xs)) for xs in chosen)
        return
    order, all_xs = Random(0), sorted(shares)  # noqa: S311 - an order of trying, not a secret; the same every time
    for _ in range(attempts):
        xs = order.sample(all_xs, threshold)
        yield tuple(order.choice(_points(shares, x)) for x in xs)


def _points(shares: Candidates, x: int) -> list[tuple[int, int]]:
    return [(x, place) for place in range(len(shares[x]))]


def _count(shares: Candidates, threshold: int) -> int:
    """Return how many subsets of ``threshold`` shares with distinct x there are."""
    several = [len(values) for values in shares.values() if len(values) > 1]
    counts = [comb(len(shares) - len(several), size) for size in range(threshold + 1)]
    for values in several:
        for size in range(threshold, 0, -1):
            counts[size] += counts[size - 1] * values
    return counts[threshold]
