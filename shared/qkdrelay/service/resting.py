"""Queues that bring what nobody vouches for: each is left alone for a while, so that others get the time."""

from __future__ import annotations

import math
import time
from collections.abc import Collection

FREE = 16
"""So many refusals more than messages from a queue that were not refused cost it no rest: mistakes happen."""
REST_S_MIN, REST_S_MAX = 0.01, 1.0
"""How long a queue rests after one more, and after ever more: twice as long each time."""
_REFUSALS_MAX = FREE + 8


class Resting:
    """Counts refusals by queue. Who writes a queue decides what is in it, and pays with that queue's turns alone."""

    def __init__(self) -> None:
        self._refusals: dict[str, int] = {}
        self._until: dict[str, float] = {}
        """When the rest of a queue is over (monotonic clock)."""

    def note(self, queue: str, *, accepted: bool) -> None:
        """Count one message of ``queue``, accepted or refused."""
        if accepted:
            if left := self._refusals.pop(queue, 1) - 1:
                self._refusals[queue] = left
            return
        refusals = self._refusals[queue] = min(self._refusals.get(queue, 0) + 1, _REFUSALS_MAX)
        if refusals > FREE:
            rest_s = min(REST_S_MAX, REST_S_MIN * 2 ** (refusals - FREE - 1))
            self._until[queue] = time.monotonic() + rest_s

    def now(self) -> Collection[str]:
        """Return the queues that rest now."""
        if self._until:
            now = time.monotonic()
            self._until = {queue: until for queue, until in self._until.items() if now < until}
        return self._until.keys()

    def left_s(self) -> float:
        """Return how long it is until the first of them is over; infinity if none rests."""
        return min(self._until.values(), default=math.inf) - time.monotonic()
