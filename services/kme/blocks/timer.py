"""When something is said again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Timer:
    """Due ``pause_s`` after it was begun; at once before. Times are distances, since clocks are stepped back."""

    pause_s: float = 0.0
    begun_at: float = -1e12

    def is_due(self, now: float) -> bool:
        """Whether it is due."""
        return self.wait_s(now) <= 0

    def wait_s(self, now: float) -> float:
        """Return in how many seconds it is."""
        return self.pause_s - abs(now - self.begun_at)

    def begin(self, now: float, pause_s: float) -> None:
        """Have it due so much later."""
        self.begun_at, self.pause_s = now, pause_s

    def shorten(self, pause_s: float) -> None:
        """Have it due so much after it was begun, if that is sooner."""
        self.pause_s = min(self.pause_s, pause_s)
