"""Limit of log lines that others cause: a KME, or whoever is at the broker, must not fill the log of a service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from qkdrelay.service.logs import LogLevel

LINES_MAX: Final = 20
"""Lines of one event about one culprit that are logged in `WINDOW_S`; the rest is counted, and told as one line."""
WINDOW_S: Final = 10.0
"""Seconds."""
LEFT_OUT: Final = "log.left_out"

Line = tuple[LogLevel, str, Mapping[str, object]]
"""Level, event, fields."""


@dataclass(slots=True)
class _Window:
    since: float
    lines: int = 0


class Moderator:
    """Passes lines on, few of those that others cause; metrics count them all the same."""

    def __init__(self, events: Mapping[str, str]) -> None:
        """``events`` are those that others cause, each with the field that names who or what it is about.

        Such a field has few values: KMEs, links, queues.
        """
        self._events = events
        self._windows: dict[tuple[str, str], _Window] = {}

    def passed(self, lines: Iterable[Line], now: float) -> Iterator[Line]:
        """Yield the lines to log at ``now`` (seconds since the epoch)."""
        yield from self._left_out(now)
        for line in lines:
            _, event, fields = line
            if (field := self._events.get(event)) is None:
                yield line
                continue
            window = self._windows.setdefault((event, str(fields.get(field, ""))), _Window(now))
            window.lines += 1
            if window.lines <= LINES_MAX:
                yield line

    def _left_out(self, now: float) -> Iterator[Line]:
        """Close the windows that are over, and yield how many lines each left out."""
        # A distance, not a difference: the clock may be stepped back.
        over = [place for place, window in self._windows.items() if abs(now - window.since) >= WINDOW_S]
        for event, about in over:
            lines = self._windows.pop((event, about)).lines - LINES_MAX
            if lines > 0:
                yield "warning", LEFT_OUT, {self._events[event]: about, "lines": lines, "of": event}
