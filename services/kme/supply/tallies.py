"""What became of the keys of each pair of SAEs at the masters' KME, since its start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from kme.supply.model import Pair, SupplyLimits
from qkdrelay.service.batch import Batch, BatchDict


@dataclass(frozen=True, slots=True)
class Tally:
    """Keys of one pair that are not here any more."""

    handed_out: int = 0
    burned: int = 0
    """Given to nobody, for another reason than their time."""
    expired: int = 0


_NONE: Final = Tally()


class Tallies:
    """The counts of each pair, in memory as the keys are."""

    def __init__(self, batch: Batch, limits: SupplyLimits) -> None:
        self._most = limits.wants
        self._of: dict[Pair, Tally] = BatchDict(batch)

    def of(self, pair: Pair) -> Tally:
        """Return the counts of one pair."""
        return self._of.get(pair, _NONE)

    def pairs(self) -> list[Pair]:
        """Return the pairs of which anything was counted."""
        return list(self._of)

    def handed_out(self, pair: Pair, keys: int) -> None:
        """Count keys that the master has now."""
        tally = self.of(pair)
        self._keep(pair, replace(tally, handed_out=tally.handed_out + keys))

    def burned(self, pair: Pair, why: str, keys: int) -> None:
        """Count keys that nobody gets."""
        tally = self.of(pair)
        if why == "expired":
            self._keep(pair, replace(tally, expired=tally.expired + keys))
        else:
            self._keep(pair, replace(tally, burned=tally.burned + keys))

    def _keep(self, pair: Pair, tally: Tally) -> None:
        if pair not in self._of and len(self._of) >= self._most:
            del self._of[next(iter(self._of))]
        self._of[pair] = tally
