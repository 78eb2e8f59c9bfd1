"""Allowances: how fast something may go."""

from __future__ import annotations

from qkdrelay.service.batch import Batch, Cell

_ONE = 1 - 1e-3
"""As good as one: times are no better than that."""


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
