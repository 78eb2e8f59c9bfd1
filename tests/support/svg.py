"""Reads our pictures. Texts and shapes are (what, left, top, right, bottom), in pixels of the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

SVG = "{http://www.w3.org/2000/svg}"
Shape = tuple[str | None, float, float, float, float]


def _groups(root: ET.Element) -> Iterator[tuple[ET.Element, float, float]]:
    for group in (root, *root.findall(f"{SVG}g")):
        dx, dy = tuple(map(float, re.findall(r"[\d.-]+", group.get("transform", "")))) or (0.0, 0.0)
        yield group, dx, dy


def texts(root: ET.Element) -> list[Shape]:
    """Each text with the rectangle it takes at most, or so."""
    found = []
    for group, dx, dy in _groups(root):
        for text in group.findall(f"{SVG}text"):
            size = float(text.get("font-size", "12"))
            width = len(text.text or "") * size * 0.56
            left = (
                float(text.get("x", "")) + dx - {"middle": width / 2, "end": width}.get(text.get("text-anchor", ""), 0)
            )
            bottom = float(text.get("y", "")) + dy
            found.append((text.text, left, bottom - 0.75 * size, left + width, bottom))
    return found


def boxes(root: ET.Element) -> list[Shape]:
    """The rectangles, but for the page's own, each with its colour."""
    found = []
    for group, dx, dy in _groups(root):
        for rect in group.findall(f"{SVG}rect") if group is not root else ():
            x, y, width, height = (float(rect.get(name, "0")) for name in ("x", "y", "width", "height"))
            found.append((rect.get("fill"), x + dx, y + dy, x + dx + width, y + dy + height))
    return found


def overlap(one: Shape, other: Shape) -> bool:
    """Whether two shapes have anything in common."""
    return one[1] < other[3] and other[1] < one[3] and one[2] < other[4] and other[2] < one[4]


def within(one: Shape, other: Shape) -> bool:
    """Whether the other shape holds all of one."""
    return other[1] <= one[1] and one[3] <= other[3] and other[2] <= one[2] and one[4] <= other[4]


def page(root: ET.Element) -> Shape:
    """The page, with the colour of its background."""
    background = root.find(f"{SVG}rect")
    assert background is not None
    width, height = (float(root.get(name, "")) for name in ("width", "height"))
    assert (float(background.get("width", "")), float(background.get("height", ""))) == (width, height)
    return background.get("fill"), 0.0, 0.0, width, height
