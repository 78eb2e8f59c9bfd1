"""What speaks against links and KMEs as relays of supply over them fail or are late, whatever a KME says of its key.

A refill needs every share, so one that arrives speaks for all that it went over, and of one that does not nobody knows
which it was. The blame is shared in proportion to what is known of each, so that it gathers where the fault is: at a
KME that drops everything, or half of it, or all but what is its friends'.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from qkdrelay.network.names import Link
from qkdrelay.network.plan import Plan
from qkdrelay.network.prices import UNIT
from qkdrelay.service.batch import Batch, BatchDict

FADES_S: Final = 120.0
"""Seconds after which what is known of something counts for 1/e of what it did."""
_COST: Final = 100 * UNIT


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a link or KME: relays over it, the later the more they count."""

    arrived: float = 0.0
    blame: float = 0.0
    """Relays that failed, of each the part that it is blamed for."""
    at: float = 0.0
    """When it was written."""

    def faded(self, now: float) -> Record:
        """Return it as it counts now."""
        part = math.exp(-abs(now - self.at) / FADES_S)
        return Record(self.arrived * part, self.blame * part, now)

    @property
    def likelihood(self) -> float:
        """How likely it is that a relay over it fails by its fault, between 0 and 1: one half if nothing is known."""
        return (self.blame + 1) / (self.arrived + self.blame + 2)

    @property
    def cost(self) -> int:
        """What a link costs for it, besides its key."""
        failing = self.blame / (self.arrived + self.blame + 1)
        return round(_COST * failing**2 / (1 - failing))


class Suspicions:
    """Links and KMEs of relays that failed or are late."""

    def __init__(self, batch: Batch) -> None:
        self._records: dict[Link | str, Record] = BatchDict(batch)

    def failed(self, plan: Plan, now: float) -> None:
        """Take note that a relay failed, or is late: once of each."""
        records = {part: self._record(part, now) for part in _parts(plan)}
        most = max(record.likelihood for record in records.values())
        for part, record in records.items():
            self._records[part] = Record(record.arrived, record.blame + record.likelihood / most, now)

    def arrived(self, plan: Plan, now: float) -> None:
        """Take note that a relay was confirmed."""
        for part in _parts(plan):
            record = self._record(part, now)
            self._records[part] = Record(record.arrived + 1, record.blame, now)

    def cost(self, link: Link, now: float) -> int:
        """Return what a link costs because of what is known of it and of the KME that it leads to."""
        return self._cost(link, now) + self._cost(link[1], now)

    def _cost(self, part: Link | str, now: float) -> int:
        record = self._records.get(part)
        return record.faded(now).cost if record is not None and record.blame else 0

    def _record(self, part: Link | str, now: float) -> Record:
        return self._records.get(part, _NOTHING).faded(now)


_NOTHING: Final = Record()


def _parts(plan: Plan) -> Iterator[Link | str]:
    """Yield the links and KMEs of a plan, its ends too: who confirms nothing is to blame, and not who it came over."""
    yield plan.target
    for kme, hop in plan.hops.items():
        yield kme
        yield from ((kme, after) for after in hop.successors)
