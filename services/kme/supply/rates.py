"""Rates: how fast something goes, of late; and how fast it may go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from qkdrelay.service.batch import Batch, Cell

_ONE = 1 - 1e-3
"""As good as one: times are no better than that."""
_LATE_S = 10.0
"""Seconds: what is older counts for less than a third."""


@dataclass(frozen=True, slots=True)
class Rate:
    """An amount a second, of late."""

    value: float = 0.0
    at: float = 0.0
    """When it was that, in seconds since the epoch."""

    def now(self, now: float) -> float:
        """Return it as it is at ``now``."""
        # A distance, not a difference: the clock may be stepped back.
        return self.value * math.exp(-abs(now - self.at) / _LATE_S)

    def plus(self, amount: float, now: float) -> Rate:
        """Return it with an amount more."""
        return Rate(self.now(now) + amount / _LATE_S, now)


STILL: Final = Rate()
"""Nothing."""


class Allowance:
    """So many a second, and at once twice as many: changed by batches."""

    def __init__(self, batch: Batch, per_s: float) -> None:
        self._per_s, self._left = per_s, Cell(batch, (2 * per_s, 0.0))

    def _now(self, now: float) -> float:
        left, at = self._left.value
        return min(2 * self._per_s, left + self._per_s * abs(now - at))

    def take(self, now: float) -> bool:
        """Take one; False if there is none now."""
        left = self._now(now)
        if left < _ONE:
            return False
        self._left.value = (max(0.0, left - 1), now)
        return True

    def wait_s(self, now: float) -> float:
        """Return in how many seconds there is one."""
        return max(0.0, _ONE - self._now(now)) / self._per_s
