"""Relays of supply that are under way, by place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from coordinator.supply.accounts import Place
from qkdrelay.service.batch import Batch, BatchDict

LATE_S: Final = 3.0
"""Seconds after which a relay is not reckoned with any more: others begin beside it, on other ways."""
UNDER_WAY_ALL, LATE_ALL = 64, 256
"""Relays of supply that are under way in all: late ones aside, and late ones."""


@dataclass(frozen=True, slots=True)
class Refill:
    """A relay of supply that is under way."""

    place: Place
    size: int
    begun_at: float
    why: str
    """Why it was begun."""

    def is_late(self, now: float) -> bool:
        """Whether it should have ended by now."""
        return abs(now - self.begun_at) >= LATE_S


class UnderWay:
    """Relays of supply that have begun and not ended."""

    def __init__(self, batch: Batch) -> None:
        self._refills: dict[UUID, Refill] = BatchDict(batch)
        self._of: dict[Place, tuple[Refill, ...]] = BatchDict(batch)
        self._late: dict[UUID, bool] = BatchDict(batch)

    def is_full(self, now: float) -> bool:
        """Whether no more may begin."""
        late = sum(refill.is_late(now) for refill in self._refills.values())
        return len(self._refills) - late >= UNDER_WAY_ALL or late >= LATE_ALL

    def all(self) -> tuple[tuple[UUID, Refill], ...]:
        """Return them, as they began."""
        return tuple(self._refills.items())

    def of(self, place: Place) -> tuple[Refill, ...]:
        """Return those of one place, as they began."""
        return self._of.get(place, ())

    def add(self, relay_id: UUID, refill: Refill) -> None:
        """Take note of one that begins."""
        self._refills[relay_id] = refill
        self._of[refill.place] = (*self.of(refill.place), refill)

    def becomes_late(self, relay_id: UUID, now: float) -> bool:
        """Whether it is late and was not when this was asked last."""
        if relay_id in self._late or not self._refills[relay_id].is_late(now):
            return False
        self._late[relay_id] = True
        return True

    def end(self, relay_id: UUID) -> bool:
        """Take note of one that has ended, and return whether it was late."""
        was_late = self._late.pop(relay_id, False)
        place = self._refills[relay_id].place
        del self._refills[relay_id]
        if left := tuple(refill for key, refill in self._refills.items() if refill.place == place):
            self._of[place] = left
        else:
            del self._of[place]
        return was_late

    def coming(self, place: Place, since: float, now: float) -> int:
        """Return the bytes that are under way, not late, and were not known to the source when it spoke last."""
        return sum(each.size for each in self.of(place) if each.begun_at >= since and not each.is_late(now))
