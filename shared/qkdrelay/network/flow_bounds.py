"""What no protocol can exceed: the flow between two KMEs that is left once the adversary has taken others away.

Give the KMEs of the best set to the adversary; between the two ends, what remains is a cut (for one pair alone).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil, gcd
from typing import TYPE_CHECKING, Final

from qkdrelay.network.names import Link

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

EXACT_MAX: Final = 2
"""KMEs taken away for which every set is accounted for; beyond, the best that is found one by one."""
_WHOLE_MAX: Final = 2**30
_ROUNDED: Final = 1e-9


@dataclass(frozen=True, slots=True)
class _Flow:
    value: float
    through: Mapping[str, float]
    """By KME, without the two ends."""


class FlowBounds:
    """The bounds of one network, whose links have rates by direction (bit/s)."""

    def __init__(self, kmes: Collection[str], rates: Mapping[Link, float]) -> None:
        self._place = {kme: i for i, kme in enumerate(kmes)}
        self._rates = rates
        whole = [round(rate) for rate in rates.values()]
        self._unit = float(max(1, gcd(*whole) if whole else 1))
        self._carried = tuple(
            {kme: sum(rate for link, rate in rates.items() if link[side] == kme) for kme in kmes} for side in (0, 1)
        )
        """What the links from each KME carry together, and those to it."""
        self._matrices: dict[tuple[frozenset[str], float], tuple[csr_array, float]] = {}

    def _matrix(self, without: frozenset[str], most: float) -> tuple[csr_array, float]:
        """Return the links that are left, none of which carries more than ``most``, in whole numbers of a unit."""
        import numpy as np  # noqa: PLC0415 - a KME imports its neighbours of this module and has no solver
        from scipy.sparse import csr_array  # noqa: PLC0415

        links = [link for link in self._rates if not without.intersection(link)]
        ends = [[self._place[link[side]] for link in links] for side in (0, 1)]
        # The library counts in 32 bits, sums too. What is cut off there is added: it stays a bound.
        unit = max(self._unit, most / _WHOLE_MAX)
        values = np.array([ceil(min(self._rates[link], most) / unit - _ROUNDED) for link in links], np.int32)
        return csr_array((values, (ends[0], ends[1])), shape=(len(self._place),) * 2), unit

    def _flow(self, source: str, target: str, without: frozenset[str] = frozenset()) -> _Flow:
        from scipy.sparse.csgraph import maximum_flow  # noqa: PLC0415

        # No link matters beyond what the ends' own can carry.
        away, to = self._carried
        most = max(*away.values(), *to.values())
        if most / _WHOLE_MAX > self._unit:
            most = min(away[source], to[target])
        if (without, most) not in self._matrices:
            self._matrices[without, most] = self._matrix(without, most)
        matrix, unit = self._matrices[without, most]
        found = maximum_flow(matrix, self._place[source], self._place[target])
        flow = found.flow
        out: np.ndarray = flow.maximum(0).sum(axis=1)
        through = {
            kme: float(out[i]) * unit for kme, i in self._place.items() if out[i] > 0 and kme not in (source, target)
        }
        return _Flow(float(found.flow_value) * unit, through)

    def least(self, source: str, target: str, taken: int, without: Collection[str] = ()) -> float:
        """Return the least flow (bit/s) after ``taken`` KMEs other than the ends are taken away, besides ``without``.

        Exact up to `EXACT_MAX`; above, a bound all the same: that of the set which is found KME by KME.
        """
        return self._least(source, target, frozenset(without), taken, float("inf"))

    def _least(self, source: str, target: str, without: frozenset[str], taken: int, best: float) -> float:
        found = self._flow(source, target, without)
        if taken == 0 or not found.through:  # what is left goes over the link of the two ends
            return min(best, found.value)
        ranked = sorted(found.through, key=lambda kme: (-found.through[kme], kme))
        if taken > EXACT_MAX:
            return self._least(source, target, without | {ranked[0]}, taken - 1, best)
        for place, kme in enumerate(ranked):
            # A KME takes away no more than goes through it, here; so those after it and their like take no more.
            if found.value - sum(found.through[other] for other in ranked[place : place + taken]) >= best:
                break
            best = self._least(source, target, without | {kme}, taken - 1, best)
        return min(best, found.value)
