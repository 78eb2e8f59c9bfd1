"""What places want of the network's supply, and whose turn it is.

A byte is worth the more to a place the less of what it should have is there, and the less if it had more lately than
others that want some: whoever is always empty, or says so, gets no more than its turn, and comes no sooner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coordinator.supply.accounts import Accounts, Place, Said
from coordinator.supply.under_way import UnderWay
from qkdrelay.messages.assignments import OutgoingSupply
from qkdrelay.network.prices import price
from qkdrelay.service.batch import Batch, BatchDict

KEY_SIZE_BITS: Final = 256
KEY_BYTES: Final = KEY_SIZE_BITS // 8
SUPPLY_BYTES_MAX: Final = 128 << 10
"""Key bytes of one relay of supply: larger ones take hardly less link key a byte."""
UNDER_WAY_EACH: Final = 2
"""Relays of supply that are under way of one place, late ones aside."""
TOP_UP: Final = 0.25
"""Part of the largest refill, and of what a place should have, below which it waits until it wants more."""
AHEAD_S: Final = 60.0
"""Seconds of use, as both ends see it, for which there may be supply beyond the first refill."""
FIRST_BYTES: Final = 64 << 10
"""Supply that a source may have for a place of which nothing was used yet."""
WORTH: Final = 64.0
"""What a byte is worth to a place that has half of what it should have, over what one is of a link half full."""
HAD_S: Final = 600.0
"""Seconds after which half of what a place had counts against it."""
WAITS_HAD_MAX: Final = 1.1
"""What a place may have had lately, over the mean of those that want some, to come first because requests wait."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a place wants now."""

    place: Place
    size: int
    emptiness: float
    """How much of what it should have is neither there nor coming, 0 to 1."""
    worth: float
    """What a byte is worth to it."""
    is_first: bool
    """Whether requests wait for it, and it did not have far more than others already."""

    @property
    def why(self) -> str:
        """Why it is refilled."""
        if self.is_first:
            return "requests wait and nothing is there"
        return f"{1.0 - self.emptiness:.0%} of what it should have is there or on its way"


class Wants:
    """What places want, as their ends say, and what they had."""

    def __init__(self, accounts: Accounts, under_way: UnderWay, weight: Callable[[Place], float], batch: Batch) -> None:
        """``weight`` says how much of what is there a place may have, against the others."""
        self._accounts, self._under_way, self._weight = accounts, under_way, weight
        self._had: dict[tuple[str, str], tuple[float, float]] = BatchDict(batch)
        """Bytes that each source had lately for a target, by weight, and when that was reckoned."""

    def given(self, place: Place, size: int, now: float) -> None:
        """Take note of bytes that a place is to have."""
        self._had[place[:2]] = self._had_now(place, now) + size / self._weight(place), now

    def turns(self, now: float) -> list[Turn]:
        """Return the places that want something: those for which requests wait, then the worthiest."""
        fresh = self._accounts.fresh(now)
        ends = {place[:2] for place in fresh}
        for gone in [pair for pair in self._had if pair not in ends]:
            del self._had[gone]
        sizes = {place: self.size(place, said, now) for place, said in fresh.items()}
        wanting = {place: size for place, size in sizes.items() if not isinstance(size, str)}
        mean = sum(self._had_now(place, now) for place in wanting) / max(1, len(wanting))
        turns: list[tuple[float, Turn]] = []
        for place, size in wanting.items():
            had = self._had_now(place, now) / mean if mean else 1.0
            emptiness = self._emptiness(place, fresh[place], now)
            worth = self._weight(place) * WORTH * price(1.0 - emptiness) / max(1.0, had) ** 2
            said = fresh[place].outgoing
            comes = said.pending_bytes + self._under_way.coming(place, fresh[place].at, now)
            is_first = said.waiting > 0 and not comes and had <= WAITS_HAD_MAX
            # Of those that come first each is as empty as the other: whoever had least is next.
            turns.append((had if is_first else math.inf, Turn(place, size, emptiness, worth, is_first=is_first)))
        return [turn for _, turn in sorted(turns, key=lambda each: (each[0], -each[1].worth, each[1].place))]

    def _emptiness(self, place: Place, said: Said, now: float) -> float:
        """Return how much of what a place should have is neither there nor coming, 0 to 1."""
        has = said.outgoing.stored_bytes + said.outgoing.pending_bytes
        coming = self._under_way.coming(place, said.at, now)
        should = has + said.outgoing.wanted_bytes
        return max(0.0, 1.0 - (has + coming) / should) if should else 0.0

    def _had_now(self, place: Place, now: float) -> float:
        had, at = self._had.get(place[:2], (0.0, now))
        return had * math.exp2(-abs(now - at) / HAD_S)

    def size(self, place: Place, said: Said, now: float) -> int | str:
        """Return how many bytes a relay for a place may have now, or why there is to be none."""
        mine = self._under_way.of(place)
        if sum(not refill.is_late(now) for refill in mine) >= UNDER_WAY_EACH or len(mine) >= 2 * UNDER_WAY_EACH:
            return "as many relays are under way as there may be"
        coming = self._under_way.coming(place, said.at, now)
        has = said.outgoing.stored_bytes + said.outgoing.pending_bytes + coming
        # Of both ends' accounts the lesser counts: no KME draws the network's key alone.
        may_have = FIRST_BYTES + AHEAD_S * self._accounts.assigned_bytes_per_s(place, now)
        wanted = said.outgoing.wanted_bytes - coming
        if wanted <= 0:
            return "it has what it should have"
        if said.outgoing.wanted_bytes < TOP_UP * min(SUPPLY_BYTES_MAX, has + said.outgoing.wanted_bytes):
            return "it has nearly what it should have"
        if has >= int(may_have):
            return "it has as much as both ends say that they use"
        size = min(wanted, int(may_have) - has, SUPPLY_BYTES_MAX)
        return math.ceil(size / KEY_BYTES) * KEY_BYTES


def is_dry(said: OutgoingSupply) -> bool:
    """Whether requests wait, and nothing is there or comes."""
    return said.waiting > 0 and said.stored_bytes + said.pending_bytes == 0
