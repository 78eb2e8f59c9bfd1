"""A network's links by how much of them is used at the optimum, and what a bit/s more would be worth, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qkdrelay.network.names import Link
from qkdrelay.network.topology import Topology
from qkdrelay_pictures.labels import GAP, HEIGHT, beside
from qkdrelay_pictures.page import (
    FAINT,
    GREY,
    INK,
    LETTER,
    LINE_HEIGHT,
    MARGIN,
    SMALL_LETTER,
    STEEL,
    group,
    page,
    text,
)
from qkdrelay_pictures.spread import spread

_AREA = 15_000.0
"""Square pixels for each KME."""
_WIDTH_MIN, _WIDTH_MAX, _ASPECT = 620.0, 1_500.0, 1.5
_THIN, _THICK = 1.2, 7.0
_ASIDE = 4.2
"""How far a direction's line is from the middle between both."""
_PRICES = ("#9db7d5", "#f2c14e", "#e07b39", "#b3261e")
"""Colours of a price: none, and up to a third, two thirds and all of the dearest; also told by the numbers."""
_FREE = 1e-9
_LABELS_MAX = 60


def draw_rates(
    topology: Topology,
    utilisation: Mapping[Link, float],
    prices: Mapping[Link, float],
    title: str,
    summary: str,
    *,
    is_share: bool = False,
) -> str:
    """Return the SVG of a network: each direction of a link as wide as it is used (0 to 1), coloured by its price.

    A price is what a bit/s more would add in bit/s, or what a kbit/s would add to a share in per cent.
    """
    if is_share:
        prices = {link: 100_000 * price for link, price in prices.items()}
    return _Drawing(topology, utilisation, prices, title, summary, is_share).svg()


@dataclass(frozen=True, slots=True)
class _Drawing:
    topology: Topology
    utilisation: Mapping[Link, float]
    prices: Mapping[Link, float]
    title: str
    summary: str
    is_share: bool

    @property
    def dearest(self) -> float:
        return max(self.prices.values(), default=0.0)

    @property
    def radius(self) -> float:
        return 9.0 if len(self.topology.kmes) <= 25 else 7.0

    def svg(self) -> str:
        wide = min(_WIDTH_MAX, math.sqrt(_AREA * _ASPECT * len(self.topology.kmes)))
        across = max(_WIDTH_MIN, wide, len(self.title) * LETTER, len(self.summary) * SMALL_LETTER)
        height = across / _ASPECT
        top = MARGIN + 4 * LINE_HEIGHT
        body = [
            text(self.title, MARGIN, MARGIN + 12, anchor="start", size=16, bold=True),
            text(self.summary, MARGIN, MARGIN + 12 + 1.5 * LINE_HEIGHT, GREY, anchor="start"),
            *group(MARGIN, top, self._network(across, height)),
        ]
        below = top + height + 1.5 * LINE_HEIGHT
        legend = list(self._legend())
        for number, (mark, says) in enumerate(legend):
            body += group(MARGIN, below + number * 1.5 * LINE_HEIGHT, (mark, text(says, 44, 4, anchor="start")))
        return page(self.title, across + 2 * MARGIN, below + len(legend) * 1.5 * LINE_HEIGHT + MARGIN / 2, body)

    def _network(self, width: float, height: float) -> Iterator[str]:
        r, font = self.radius, 12.0 if self.radius > 8 else 10.0
        edge = r + GAP + 2 * HEIGHT
        places = {
            kme: (x + edge, y + edge)
            for kme, (x, y) in spread(self.topology, width - 2 * edge, height - 2 * edge, 2.5 * r).items()
        }
        dear = sorted(
            (link for link in self.utilisation if self.prices[link] > _FREE * self.dearest),
            key=lambda link: -self.prices[link],
        )
        for link in sorted(self.utilisation, key=lambda link: self.prices[link]):
            (x1, y1), (x2, y2) = _direction(places[link[0]], places[link[1]], r)
            colour, across = _PRICES[self._step(self.prices[link])], _THIN + self.utilisation[link] * (_THICK - _THIN)
            yield f'<path d="M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}" stroke="{colour}" stroke-width="{across:.1f}"/>'
        for kme, (x, y, anchor) in beside(places, self.topology.links, r, 0.56 * font, (width, height)).items():
            yield text(kme, x, y + 4, INK, anchor=anchor, size=font, halo=True)
        for link in dear[:_LABELS_MAX]:
            (x1, y1), (x2, y2) = _direction(places[link[0]], places[link[1]], r)
            yield text(f"{self.prices[link]:.2g}", x1 + 0.38 * (x2 - x1), y1 + 0.38 * (y2 - y1) + 4, size=10, halo=True)
        for x, y in places.values():
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}" fill="#f3f5f8" stroke="{STEEL}" stroke-width="1.5"/>'

    def _step(self, price: float) -> int:
        if price <= _FREE * self.dearest:
            return 0
        return min(len(_PRICES) - 1, 1 + int(price / self.dearest * (len(_PRICES) - 1) - _FREE))

    def _legend(self) -> Iterator[tuple[str, str]]:
        for used in (0.0, 0.5, 1.0):
            width = _THIN + used * (_THICK - _THIN)
            mark = f'<path d="M0 0 H34" stroke="{FAINT if used == 0 else STEEL}" stroke-width="{width:.1f}"/>'
            yield mark, f"{100 * used:.0f} % of the direction is used; each goes along the right-hand line"
        for step, colour in enumerate(_PRICES):
            low, high = ((step - 1) * self.dearest / 3, step * self.dearest / 3) if step else (0.0, 0.0)
            added = f"{low:.2g} to {high:.2g} {'% of the demand' if self.is_share else 'bit/s'}" if step else "nothing"
            says = f"a {'kbit/s' if self.is_share else 'bit/s'} more would add {added}"
            if step == 0 or self.dearest > 0:
                yield f'<path d="M0 0 H34" stroke="{colour}" stroke-width="5"/>', says


def _direction(a: tuple[float, float], b: tuple[float, float], radius: float) -> tuple[tuple[float, float], ...]:
    """Return the ends of the line for what goes from a to b: to the right of the middle."""
    length = math.hypot(b[0] - a[0], b[1] - a[1]) or 1.0
    along = ((b[0] - a[0]) / length, (b[1] - a[1]) / length)
    aside = (-along[1] * _ASIDE, along[0] * _ASIDE)
    gap = min(radius + 2, length / 3)
    return (
        (a[0] + along[0] * gap + aside[0], a[1] + along[1] * gap + aside[1]),
        (b[0] - along[0] * gap + aside[0], b[1] - along[1] * gap + aside[1]),
    )
