"""The page of a picture: its size, fonts, colours and texts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from qkdrelay.escaping import escaped

LINE_HEIGHT = 16.0
MARGIN = 28.0
LETTER, SMALL_LETTER = 9.0, 6.8
"""Widths to reckon with, of names in boxes (14 px, bold) and of the rest (12 px)."""
INK, GREY, PALE, FAINT = "#1b1f24", "#48515c", "#7a8490", "#c9d0d9"
RED, BLUE, STEEL = "#b3261e", "#1f4fa3", "#5f6b7a"
_FONT = 'font-family="Helvetica, Arial, \'Liberation Sans\', sans-serif" font-size="12"'


def page(title: str, width: float, height: float, body: Iterable[str]) -> str:
    """Return an SVG; it has a background, for it may be shown on a dark page."""
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {_FONT}>',
            f"<title>{_plain(title)}</title>",
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        )
    )


def group(x: float, y: float, body: Iterable[str]) -> list[str]:
    """Return elements moved to the right by ``x`` and down by ``y``."""
    return [f'<g transform="translate({x:.1f} {y:.1f})">', *body, "</g>"]


def _plain(what: str) -> str:
    return escape(escaped(what))


def text(
    what: str,
    x: float,
    y: float,
    colour: str = INK,
    *,
    anchor: str = "middle",
    size: float = 12,
    bold: bool = False,
    halo: bool = False,
) -> str:
    """Return a line of text that stands on ``y``; with a halo it can be read where lines pass behind it."""
    around = ' stroke="#ffffff" stroke-width="3" paint-order="stroke"' if halo else ""
    weight = ' font-weight="600"' if bold else ""
    height = f' font-size="{size:g}"' if size != 12 else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{height} fill="{colour}"{weight}{around}>'
        f"{_plain(what)}</text>"
    )
