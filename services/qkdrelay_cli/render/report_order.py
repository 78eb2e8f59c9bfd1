"""Reports in the order of cause and effect: KMEs send what became of shares a moment later than what is waited for."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from uuid import UUID

from qkdrelay.messages.reports import (
    Collected,
    Confirmed,
    Expected,
    Forwarded,
    Rebuilt,
    Refused,
    Report,
    Split,
    Started,
    Waiting,
)
from qkdrelay.network.names import Route

HOLD_S = 0.3
"""Seconds that a report waits for its causes: several times what a KME gathers before it sends."""
HELD_MAX, RELAY_HELD_MAX = 10_000, 500
"""Reports that wait, in all and of one relay; above, the first goes on."""
_STAGES: dict[type, int] = {Expected: 0, Started: 0, Rebuilt: 1, Refused: 1, Confirmed: 2}
"""Of a relay at its ends: each comes of those before it."""


@dataclass(eq=False, slots=True)
class Seen:
    """A report on its way to the screen."""

    kme: str
    report: Report
    at: float
    """Time of its coming, in seconds since the epoch; later if a cause of it came later."""
    number: int
    due: float

    def follows(self, other: Seen) -> bool:
        """Return whether ``other``, of the same relay, happened before this."""
        if self.kme == other.kme:
            return other.number < self.number
        mine, its = _STAGES.get(type(self.report)), _STAGES.get(type(other.report))
        if mine is not None and its is not None:
            return its < mine
        return its == 0 or _is_on_the_way(other.report, self.report)


def _is_on_the_way(first: Report, then: Report) -> bool:
    """Return whether a share came by ``first`` to ``then``; where it waits is before the link, the rest behind it."""
    before, route = _route(first), _route(then)
    if not before or before != route[: len(before)]:
        return False
    return len(before) < len(route) or (isinstance(first, Waiting) and not isinstance(then, Waiting))


def _route(report: Report) -> Route:
    return report.route if isinstance(report, Split | Forwarded | Waiting | Collected) else ()


class Ordered:
    """Reports that wait for those before them."""

    def __init__(self) -> None:
        self._numbers = count()
        self._queue: deque[Seen] = deque()
        """As they came; those that have gone ahead are in it, too."""
        self._held: defaultdict[UUID | None, dict[Seen, None]] = defaultdict(dict)
        self._last = 0.0

    def add(self, kme: str, report: Report, at: float, now: float) -> Iterator[Seen]:
        """Take a report in; ``now`` is any clock's time that does not go back. Yield what can wait no longer."""
        seen = Seen(kme, report, at, next(self._numbers), now + HOLD_S)
        held = self._held[_relay(report)]
        held[seen] = None
        self._queue.append(seen)
        if len(held) > RELAY_HELD_MAX:
            yield from self._with_causes(next(iter(held)))
        if len(self._queue) > HELD_MAX:
            yield from self.due(self._queue[0].due)

    def due(self, now: float) -> Iterator[Seen]:
        """Yield what has waited long enough, each after its causes; with an infinite ``now``, all."""
        while self._queue and self._queue[0].due <= now:
            seen = self._queue.popleft()
            if seen in self._held.get(_relay(seen.report), ()):
                yield from self._with_causes(seen)

    def wait_s(self, now: float, most_s: float) -> float:
        """Return how long nothing is due, at most ``most_s``."""
        return min(most_s, max(0.0, self._queue[0].due - now)) if self._queue else most_s

    def _with_causes(self, seen: Seen) -> Iterator[Seen]:
        relay = _relay(seen.report)
        held = self._held[relay]
        del held[seen]
        path = [seen]
        while path:
            # What is on the path is held no more: reports that contradict each other end, too.
            cause = None if relay is None else next((other for other in held if path[-1].follows(other)), None)
            if cause is not None:
                del held[cause]
                path.append(cause)
                continue
            ready = path.pop()
            ready.at = self._last = max(self._last, ready.at)
            yield ready
        if not held:
            del self._held[relay]


def _relay(report: Report) -> UUID | None:
    return getattr(report, "relay_id", None)
