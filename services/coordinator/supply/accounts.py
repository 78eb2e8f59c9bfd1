"""What KMEs say of their supply and their pairs of SAEs: the latest of each, for as long as it is fresh."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from qkdrelay.messages.assignments import (
    PAIRS_SHOWN_MAX,
    SUPPLIES_MAX,
    IncomingSupply,
    OutgoingSupply,
    SaePair,
    Supplies,
)
from qkdrelay.service.batch import Batch, BatchDict

FRESH_S: Final = 30.0
"""Seconds for which it counts what a KME has said: it says it anew every ten."""


class Place(NamedTuple):
    """Supply of one level from a source for a target."""

    source: str
    target: str
    level: int


@dataclass(frozen=True, slots=True)
class Said:
    """What a KME said of one place or pair, and when."""

    at: float
    outgoing: OutgoingSupply


class Accounts:
    """The accounts that KMEs have given: the latest, by place and by pair."""

    def __init__(self, kmes: Collection[str], batch: Batch) -> None:
        """``kmes`` are those of the network: nothing is kept about others."""
        self._kmes = frozenset(kmes)
        self._outgoing: dict[str, dict[tuple[str, int], Said]] = BatchDict(batch)
        self._incoming: dict[str, tuple[float, dict[tuple[str, int], IncomingSupply]]] = BatchDict(batch)
        self._pairs: dict[str, tuple[float, dict[tuple[str, str], SaePair]]] = BatchDict(batch)
        self.incarnations: dict[str, bytes] = BatchDict(batch)
        """The latest of each KME that has SAEs."""

    def take(self, kme: str, report: Supplies, now: float) -> bool:
        """Take note of a report; return whether the KME has another incarnation than before."""
        before = self.incarnations.get(kme)
        if before is not None and report.incarnation < before:
            return False  # it is from before the last start: messages of one KME may overtake each other
        self.incarnations[kme] = report.incarnation
        is_new = report.incarnation != before
        outgoing = {} if is_new else dict(self._outgoing.get(kme, {}))
        for said in report.outgoing:
            if said.target in self._kmes and said.target != kme:
                outgoing[said.target, said.level] = Said(now, said)
        while len(outgoing) > SUPPLIES_MAX:
            del outgoing[min(outgoing, key=lambda place: outgoing[place].at)]
        self._outgoing[kme] = outgoing
        if report.incoming or is_new:
            sources = {(said.source, said.level): said for said in report.incoming if said.source in self._kmes}
            self._incoming[kme] = (now, sources)
        if report.pairs or is_new:
            self._pairs[kme] = (now, {(pair.master, pair.slave): pair for pair in report.pairs[:PAIRS_SHOWN_MAX]})
        return is_new

    def places(self) -> Iterator[tuple[Place, Said]]:
        """Yield what sources have said of each place."""
        for source, outgoing in self._outgoing.items():
            for (target, level), said in outgoing.items():
                yield Place(source, target, level), said

    def fresh(self, now: float) -> dict[Place, Said]:
        """Return what counts now."""
        # A distance, not a difference: the clock may be stepped back.
        return {place: said for place, said in self.places() if abs(now - said.at) <= FRESH_S}

    def of(self, place: Place, now: float) -> Said | None:
        """Return what counts now of one place, or None."""
        said = self._outgoing.get(place.source, {}).get(place[1:])
        return said if said is not None and abs(now - said.at) <= FRESH_S else None

    def pairs(self) -> Iterator[tuple[str, float, SaePair]]:
        """Yield the pairs of SAEs: the KME that said so, when, and what."""
        for kme, (at, pairs) in self._pairs.items():
            for pair in pairs.values():
                yield kme, at, pair

    def assigned_bytes_per_s(self, place: Place, now: float) -> float:
        """Return the lesser of what source and target say is assigned; nothing if either does not say."""
        said = self.of(place, now)
        at, incoming = self._incoming.get(place.target, (now, {}))
        received = incoming.get((place.source, place.level))
        if said is None or received is None or abs(now - at) > FRESH_S:
            return 0.0
        return min(said.outgoing.assigned_bytes_per_s, received.assigned_bytes_per_s)
