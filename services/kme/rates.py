"""Rates: how fast something goes, of late."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

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
