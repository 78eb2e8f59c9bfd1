"""Link key that is left for refills, as the KMEs say, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final
from uuid import UUID

from qkdrelay.messages.reports import SILENT_S, LinkReport
from qkdrelay.network.candidates import LinkCost
from qkdrelay.network.names import Link
from qkdrelay.network.prices import UNUSABLE, cost, price
from qkdrelay.service.batch import Batch, BatchDict

SEALED_S: Final = 0.5
"""Seconds after its beginning within which a relay has drawn its key; what a KME says later has it taken off."""


class KeyLeft:
    """What is left of each link's key, in each direction, and what it is worth."""

    def __init__(self, left: Mapping[Link, int], buffers: Mapping[Link, int], unusable: Collection[Link] = ()) -> None:
        """Bytes by link: those that are there, and those that may be kept; and links that carry nothing now."""
        self._left, self._buffers, self._unusable = dict(left), buffers, frozenset(unusable)

    def has(self, drawn: Mapping[Link, int], part: float) -> bool:
        """Whether each link has what is to be drawn, and this part of its buffer besides."""
        links = drawn.items()
        return all(self._left.get(link, 0) - size >= part * self._buffers.get(link, 0) for link, size in links)

    def draw(self, drawn: Mapping[Link, int]) -> None:
        """Reckon with what is drawn."""
        for link, size in drawn.items():
            self._left[link] = self._left.get(link, 0) - size

    def _level(self, link: Link) -> float:
        buffer = self._buffers.get(link, 0)
        return self._left.get(link, 0) / buffer if buffer else 0.0

    def worth(self, drawn: Mapping[Link, int]) -> float:
        """Return what these bytes are worth."""
        return sum(size * price(self._level(link)) for link, size in drawn.items())

    def costs(self, besides: Callable[[Link], int]) -> LinkCost:
        """Return what paths are looked for by: what a link's key is worth, and what it costs ``besides``."""
        return frozenset(
            (link, UNUSABLE if link in self._unusable else cost(self._level(link)) + besides(link))
            for link in self._buffers
        )

    def unusable(self, drawn: Mapping[Link, int]) -> Link | None:
        """Return a link of these that carries nothing now, or None."""
        return next((link for link in drawn if link in self._unusable), None)


class KeyDrawn:
    """What relays of supply draw of links: KMEs say only every ten seconds what they have left."""

    def __init__(self, batch: Batch) -> None:
        self._relays: dict[UUID, tuple[float, Mapping[Link, int]]] = BatchDict(batch)
        """When each was begun, and what it draws; those that have ended, too, until all have said what is left."""
        self._under_way: dict[UUID, None] = BatchDict(batch)

    def begun(self, relay_id: UUID, drawn: Mapping[Link, int], now: float) -> None:
        """Take note of a relay that begins."""
        self._relays[relay_id] = now, drawn
        self._under_way[relay_id] = None

    def ended(self, relay_id: UUID) -> None:
        """Take note of a relay that has ended."""
        self._under_way.pop(relay_id, None)

    def left(self, reports: Iterable[tuple[str, float, LinkReport]], now: float) -> KeyLeft:
        """Return what is left now; ``reports`` are what each KME said last of each of its links, and when.

        That is what it said, what has come since at the rate that it said, less what was drawn since; or, where shares
        wait for key, less what all relays draw that have not ended.
        """
        told = {(kme, report.peer): (at, report) for kme, at, report in reports}
        left = {link: self._at_most(at, report, now) for link, (at, report) in told.items()}
        oldest = min((at for at, _ in told.values()), default=now)
        for relay_id, (begun_at, drawn) in tuple(self._relays.items()):
            is_under_way = relay_id in self._under_way
            for link, size in drawn.items():
                if link not in told:
                    continue
                at, report = told[link]
                if begun_at > at - SEALED_S or (report.waiting and is_under_way):
                    left[link] -= size
            # A distance, not a difference: the clock may be stepped back.
            is_told = begun_at <= oldest - SEALED_S or abs(now - begun_at) >= SILENT_S
            if is_told and not is_under_way:
                del self._relays[relay_id]
        away = [link for link, (at, report) in told.items() if not report.up or abs(now - at) >= SILENT_S]
        unusable = [way for a, b in away for way in ((a, b), (b, a))]
        return KeyLeft(left, {link: report.buffer_bytes for link, (_, report) in told.items()}, unusable)

    @staticmethod
    def _at_most(at: float, report: LinkReport, now: float) -> int:
        since = min(abs(now - at), SILENT_S)
        there = 0 if report.waiting else report.available_bytes
        return min(report.buffer_bytes, there + int(report.rate_bps / 8 * since)) if report.up else 0
