"""What no protocol can exceed: the flow between two KMEs that is left once the adversary has taken others away.

Give the KMEs of the best set to the adversary; between the two ends, what remains is a cut (for one pair alone).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Final

from qkdrelay.network.names import Link

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

EXACT_MAX: Final = 2
"""KMEs taken away for which every set is accounted for; beyond, the best that is found one by one."""
_WHOLE_MAX: Final = 2**31 - 1


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
        unit = gcd(*whole) if whole else 1
        # The library counts in 32 bits.
        self._unit = max(1.0, unit, max(whole, default=1) / _WHOLE_MAX)
        self._without: dict[frozenset[str], csr_array] = {}

    def _matrix(self, without: frozenset[str]) -> csr_array:
        import numpy as np  # noqa: PLC0415 - a KME imports its neighbours of this module and has no solver
        from scipy.sparse import csr_array  # noqa: PLC0415

        links = [link for link in self._rates if not without.intersection(link)]
        ends = [[self._place[link[side]] for link in links] for side in (0, 1)]
        values = np.array([int(self._rates[link] / self._unit) for link in links], np.int32)
        return csr_array((values, (ends[0], ends[1])), shape=(len(self._place),) * 2)

    def _flow(self, source: str, target: str, without: frozenset[str] = frozenset()) -> _Flow:
        from scipy.sparse.csgraph import maximum_flow  # noqa: PLC0415

        if without not in self._without:
            self._without[without] = self._matrix(without)
        found = maximum_flow(self._without[without], self._place[source], self._place[target])
        flow = found.flow
        out: np.ndarray = flow.maximum(0).sum(axis=1)
        through = {
            kme: float(out[i]) * self._unit
            for kme, i in self._place.items()
            if out[i] > 0 and kme not in (source, target)
        }
        return _Flow(float(found.flow_value) * self._unit, through)

    def least(self, source: str, target: str, taken: int) -> float:
        """Return the least flow (bit/s) after ``taken`` KMEs other than the ends are taken away.

        Exact up to `EXACT_MAX`; above, a bound all the same: that of the set which is found KME by KME.
        """
        return self._least(source, target, frozenset(), taken, float("inf"))

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
