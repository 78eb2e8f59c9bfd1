"""When a KME tells the coordinator of its supply between hellos: at once when it is dry, and soon when it is low."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from qkdrelay.service.allowance import Allowance
from qkdrelay.service.batch import Batch, Cell

AT_ONCE_PER_S: Final = 10.0
"""Reports a second, of what was not dry before; in a burst twice as many."""
AGAIN_S: Final = 1.0
"""Seconds after which what is low, or dry, is told again."""
Place = tuple[str, int]
"""Target and level of supply."""


class Telling:
    """The time of the next report of supply that is wanted."""

    def __init__(self, batch: Batch) -> None:
        self._allowance = Allowance(batch, AT_ONCE_PER_S)
        self._told_at = Cell(batch, 0.0)
        self._told = Cell[frozenset[Place]](batch, frozenset())
        """What was dry when it was told last."""
        self._is_held_up = Cell(batch, value=False)
        """Whether something is dry that was not told, since too much was told of late."""

    def is_due(self, dry: Collection[Place], now: float) -> bool:
        """Whether a report is due now; if so, `told` follows."""
        # A distance, not a difference: the clock may be stepped back.
        if abs(now - self._told_at.value) >= AGAIN_S:
            return True
        # What is not dry any more, and is again, is told anew.
        told = self._told.value = self._told.value.intersection(dry)
        is_new = not told.issuperset(dry)
        self._is_held_up.value = is_new and not self._allowance.take(now)
        return is_new and not self._is_held_up.value

    def told(self, dry: Collection[Place], now: float) -> None:
        """Take note that all was told, what is dry among it."""
        self._told_at.value, self._told.value, self._is_held_up.value = now, frozenset(dry), False

    def wait_s(self, now: float) -> float:
        """Return in how many seconds one is due."""
        if self._is_held_up.value:
            return self._allowance.wait_s(now)
        return AGAIN_S - abs(now - self._told_at.value) if self._told.value else math.inf
