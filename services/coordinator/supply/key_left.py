"""Link key that is left for refills, as the KMEs say, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from qkdrelay.network.candidates import LinkCost
from qkdrelay.network.names import Link
from qkdrelay.network.prices import UNUSABLE, cost, price


class KeyLeft:
    """What the KMEs say is left of each link's key, in each direction, and what it is worth."""

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
