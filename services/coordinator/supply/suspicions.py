"""Which links and KMEs relays of supply go around for a while, because relays over them failed or are late.

A refill needs every share, so one that is confirmed speaks for all that it went over, and of one that is not nobody
knows which it was. All of them are suspected, those that are not at fault until the next relay over them is confirmed;
what never carries is tried again more and more rarely, whatever its KME says of its key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from qkdrelay.network.names import Link
from qkdrelay.network.plan import Plan
from qkdrelay.network.prices import UNIT
from qkdrelay.service.batch import Batch, BatchDict

SUSPECT_S: Final = 60.0
"""Seconds for which something is gone around at first; twice as long each time that it fails when tried again."""
_MAX: Final = 6
_COST: Final = 100 * UNIT
"""Cost of a link at first, besides that of its key; four times as much each time that it fails meanwhile."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What speaks against a link or KME."""

    times: int
    """How often a relay failed, less what was confirmed since."""
    rounds: int
    """How often it was tried again, the first time included."""
    since: float
    """When this round began."""
    last: float
    """When a relay failed last."""

    def is_over(self, now: float) -> bool:
        """Whether it may be tried again."""
        return abs(now - self.since) >= self._seconds

    def is_old(self, now: float) -> bool:
        """Whether it has not failed for so long that it need not be kept."""
        return abs(now - max(self.since, self.last)) >= 2 * self._seconds

    @property
    def _seconds(self) -> float:
        return SUSPECT_S * 2.0 ** (self.rounds - 1)


class Suspicions:
    """Links, and KMEs between others, of relays that failed or are late."""

    def __init__(self, batch: Batch) -> None:
        self._against: dict[Link | str, Suspicion] = BatchDict(batch)

    def failed(self, plan: Plan, begun_at: float, now: float) -> None:
        """Take note that a relay failed, or is late; once for all that were begun before the last time was noted."""
        for suspect in _parts(plan):
            before = self._against.get(suspect)
            if before is None:
                self._against[suspect] = Suspicion(1, 1, now, now)
            elif begun_at > before.last:
                times = min(_MAX, before.times + 1)
                if before.is_over(now):
                    self._against[suspect] = Suspicion(times, min(_MAX, before.rounds + 1), now, now)
                else:
                    self._against[suspect] = replace(before, times=times, last=now)

    def confirmed(self, plan: Plan) -> None:
        """Take note that a relay has arrived."""
        for suspect in _parts(plan):
            before = self._against.get(suspect)
            if before is not None and before.times > 1:
                self._against[suspect] = replace(before, times=before.times // 2)
            elif before is not None:
                del self._against[suspect]

    def forget(self, now: float) -> None:
        """Forget what has not failed for long since it may be tried again."""
        for suspect, against in tuple(self._against.items()):
            if against.is_old(now):
                del self._against[suspect]

    def cost(self, link: Link, now: float) -> int:
        """Return what a link costs because it, or the KME that it leads to, is gone around now."""
        return self._cost(link, now) + self._cost(link[1], now)

    def _cost(self, suspect: Link | str, now: float) -> int:
        against = self._against.get(suspect)
        if against is None or against.is_over(now):
            return 0
        return _COST << 2 * (against.times - 1)


def _parts(plan: Plan) -> Iterator[Link | str]:
    """Yield the links of a plan, and the KMEs between its ends."""
    for kme, hop in plan.hops.items():
        if kme != plan.source:
            yield kme
        yield from ((kme, after) for after in hop.successors)
