"""When a KME next says hello to the coordinator."""

from __future__ import annotations

import math

from qkdrelay.service.batch import Batch, Cell

HELLO_EVERY_S = 10.0
HELLO_SOONER_S = 1.0
"""Once shares have begun to wait."""


class HelloTimer:
    """The time of the next hello: in turn, sooner, or at once."""

    def __init__(self, batch: Batch) -> None:
        """Due at once."""
        self._said_at = Cell(batch, 0.0)
        self._every_s = Cell(batch, HELLO_EVERY_S)
        self._is_connected = Cell(batch, value=False)

    def expire(self) -> None:
        """Have it due at once: something that a hello tells has changed."""
        self._said_at.value = 0.0

    def shorten(self) -> None:
        """Have the next one sooner: shares have begun to wait."""
        self._every_s.value = HELLO_SOONER_S

    def wait_s(self, now: float) -> float:
        """Return in how many seconds it is due, not above zero if it is; while nobody can hear it, infinity."""
        # A distance, not a difference: the clock may be stepped back.
        return self._every_s.value - abs(now - self._said_at.value) if self._is_connected.value else math.inf

    def is_due(self, now: float, *, connected: bool, reconnected: bool) -> bool:
        """Whether it is to be said now; if so, the time to the next one begins."""
        self._is_connected.value = connected
        due = connected and (reconnected or self.wait_s(now) <= 0)
        if due:
            self._said_at.value, self._every_s.value = now, HELLO_EVERY_S
        return due
