"""Which keys are in use, and how many of them should be ready: cut ahead for pairs in use, nothing for others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from kme.rates import STILL, Rate
from kme.supply.model import SupplyLimits, Want
from qkdrelay.service.batch import Batch, BatchDict

HOT_S: Final = 3_600.0
"""Seconds after a request for which keys are cut ahead."""
SUPPLIED_S: Final = 86_400.0
"""Seconds after a request for which there is to be supply."""
SUPPLY_MIN: Final = 32 << 10
"""Bytes of supply that there are to be at least, where it is used."""
_AHEAD_S, _SUPPLY_AHEAD_S = 1.0, 10.0
"""Seconds for which there are to be ready keys, and supply, as fast as it goes of late."""


@dataclass(frozen=True, slots=True)
class Use:
    """Use of what a pair wants, since this start."""

    asked_at: float
    """Seconds since the epoch."""
    rate: Rate = STILL
    """Keys handed out."""


@dataclass(frozen=True, slots=True)
class SupplyUse:
    """Use of the supply for one target and level."""

    asked_at: float
    rate: Rate = STILL
    """Bytes assigned."""


class Uses:
    """What the masters at one KME want."""

    def __init__(self, batch: Batch, limits: SupplyLimits) -> None:
        self._limits = limits
        self.uses: dict[Want, Use] = BatchDict(batch)
        self.supplies: dict[tuple[str, int], SupplyUse] = BatchDict(batch)
        """By target and level."""
        self._of: dict[str, tuple[Want, ...]] = BatchDict(batch)
        """By master."""

    def looked(self, target: str, level: int, now: float) -> None:
        """Take note that somebody wants to know what there is."""
        place = target, level
        self.supplies[place] = replace(self.supplies.get(place, SupplyUse(now)), asked_at=now)

    def asked(self, want: Want, target: str, now: float) -> bool:
        """Take note of a request; False if too much is in use to cut anything ahead for it."""
        self.looked(target, want.level, now)
        use = self.uses.get(want)
        if use is None:
            own = self._of.get(want.pair.master, ())
            if len(own) >= self._limits.wants_each:
                self._drop(min(own, key=lambda each: self.uses[each].asked_at))
            elif len(self.uses) >= self._limits.wants:
                return False
            self._of[want.pair.master] = (*self._of.get(want.pair.master, ()), want)
        self.uses[want] = replace(use or Use(now), asked_at=now)
        return True

    def handed_out(self, want: Want, number: int, now: float) -> None:
        """Take note of keys that were handed out."""
        if (use := self.uses.get(want)) is not None:
            self.uses[want] = replace(use, rate=use.rate.plus(number, now))

    def assigned(self, target: str, level: int, length: int, now: float) -> None:
        """Take note of bytes that were assigned for a demand of that level."""
        if (use := self.supplies.get((target, level))) is not None:
            self.supplies[target, level] = replace(use, rate=use.rate.plus(length, now))

    def of(self, master: str) -> tuple[Want, ...]:
        """Return what a master wants."""
        return self._of.get(master, ())

    def drop(self, wants: list[Want]) -> None:
        """Forget what is not wanted any more."""
        for want in wants:
            if want in self.uses:
                self._drop(want)

    def cool(self, now: float) -> None:
        """Forget what was in use and is not any more."""
        # Distances, not differences: the clock may be stepped back.
        self.drop([want for want, use in self.uses.items() if abs(now - use.asked_at) >= HOT_S])
        for place, use in tuple(self.supplies.items()):
            if abs(now - use.asked_at) >= SUPPLIED_S:
                del self.supplies[place]

    def marks(self, want: Want, stock: int, now: float) -> tuple[int, int]:
        """Return below how many keys ready or asked for more are cut, and up to how many; ``stock`` as of the pair."""
        use = self.uses.get(want)
        if use is None:
            return 0, 0
        low = max(stock, int(use.rate.now(now) * _AHEAD_S))
        most = self._limits.bytes_ahead // want.key_bytes
        return min(low, most), min(2 * low, most)

    def supply_mark(self, target: str, level: int, now: float) -> int:
        """Return how many bytes of supply there should be for a target at a level; 0 if it is not in use."""
        use = self.supplies.get((target, level))
        if use is None:
            return 0
        ahead = max(SUPPLY_MIN, int(use.rate.now(now) * _SUPPLY_AHEAD_S))
        return min(ahead, self._limits.supply_bytes_each // 2)

    def _drop(self, want: Want) -> None:
        del self.uses[want]
        if left := tuple(each for each in self._of[want.pair.master] if each != want):
            self._of[want.pair.master] = left
        else:
            del self._of[want.pair.master]


def shared_out(wanted: list[tuple[int, int]], available: int) -> list[int]:
    """Share out what is available among (wanted, weight): by weight, to nobody more than is wanted."""
    given = [0] * len(wanted)
    open_ = [number for number, (amount, weight) in enumerate(wanted) if amount > 0 and weight > 0]
    while open_ and available > 0:
        weights = sum(wanted[number][1] for number in open_)
        parts = {number: available * wanted[number][1] // weights for number in open_}
        full = [number for number in open_ if wanted[number][0] - given[number] <= parts[number]]
        if not full:
            for number in open_:
                given[number] += parts[number]
            break
        for number in full:
            available -= wanted[number][0] - given[number]
            given[number] = wanted[number][0]
        open_ = [number for number in open_ if number not in set(full)]
    return given
