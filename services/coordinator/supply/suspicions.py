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
class Standing:
    """What is known of a link or KME: relays over it, the later the more they count."""

    arrived: float = 0.0
    blame: float = 0.0
    """Relays that failed, of each the part that it is blamed for."""
    at: float = 0.0
    """When it was written."""

    def faded(self, now: float) -> Standing:
        """Return it as it counts now."""
        part = math.exp(-abs(now - self.at) / FADES_S)
        return Standing(self.arrived * part, self.blame * part, now)

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
        self._standings: dict[Link | str, Standing] = BatchDict(batch)

    def failed(self, plan: Plan, now: float) -> None:
        """Take note that a relay failed, or is late: once of each."""
        standings = {part: self._standing(part, now) for part in _parts(plan)}
        most = max(standing.likelihood for standing in standings.values())
        for part, standing in standings.items():
            self._standings[part] = Standing(standing.arrived, standing.blame + standing.likelihood / most, now)

    def arrived(self, plan: Plan, now: float) -> None:
        """Take note that a relay was confirmed."""
        for part in _parts(plan):
            standing = self._standing(part, now)
            self._standings[part] = Standing(standing.arrived + 1, standing.blame, now)

    def cost(self, link: Link, now: float) -> int:
        """Return what a link costs because of what is known of it and of the KME that it leads to."""
        return self._cost(link, now) + self._cost(link[1], now)

    def _cost(self, part: Link | str, now: float) -> int:
        standing = self._standings.get(part)
        return standing.faded(now).cost if standing is not None and standing.blame else 0

    def _standing(self, part: Link | str, now: float) -> Standing:
        return self._standings.get(part, _NOTHING).faded(now)


_NOTHING: Final = Standing()


def _parts(plan: Plan) -> Iterator[Link | str]:
    """Yield the links and KMEs of a plan, its ends too: who confirms nothing is to blame, and not who it came over."""
    yield plan.target
    for kme, hop in plan.hops.items():
        yield kme
        yield from ((kme, after) for after in hop.successors)
