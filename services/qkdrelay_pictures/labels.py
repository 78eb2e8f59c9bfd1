"""Finds room for names beside the KMEs of a network that is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

HEIGHT = 13.0
GAP = 4.0
"""Between a circle and its name."""
_IMPOSSIBLE, _CROSSED = 1000.0, 10.0
_ROUNDS = 12
Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    y: float
    width: float
    """Centre, and width; all are of the same height."""
    anchor: Anchor = "middle"
    """Where its text begins: at the side that is next to the KME."""

    @property
    def start(self) -> float:
        match self.anchor:
            case "middle":
                return self.x
            case "start":
                return self.x - self.width / 2
            case "end":
                return self.x + self.width / 2

    def overlaps(self, other: _Box) -> bool:
        return abs(self.x - other.x) < (self.width + other.width) / 2 and abs(self.y - other.y) < HEIGHT

    def meets(self, centre: Point, radius: float) -> bool:
        dx = max(abs(centre[0] - self.x) - self.width / 2, 0.0)
        dy = max(abs(centre[1] - self.y) - HEIGHT / 2, 0.0)
        return dx * dx + dy * dy < radius * radius

    def is_crossed(self, a: Point, b: Point) -> bool:
        """Whether the line from ``a`` to ``b`` runs through it (Liang and Barsky 1984)."""
        first, last = 0.0, 1.0
        for start, end, middle, half in ((a[0], b[0], self.x, self.width / 2), (a[1], b[1], self.y, HEIGHT / 2)):
            step, low, high = end - start, middle - half - start, middle + half - start
            if step == 0:
                if low > 0 or high < 0:
                    return False
            else:
                near, far = sorted((low / step, high / step))
                first, last = max(first, near), min(last, far)
        return first < last


def beside(
    places: Mapping[str, Point], links: Sequence[tuple[str, str]], radius: float, letter: float, room: Point
) -> dict[str, tuple[float, float, Anchor]]:
    """Return where each name starts, ends or has its middle, beside its circle.

    No name lies on a circle, on another name or beyond the room (width, height), and as few as possible lie on links;
    names for which there is no room are left out.
    """
    choices = {kme: list(_around(places[kme], len(kme) * letter, radius)) for kme in places}
    fixed = {
        kme: [_cost(box, places, links, radius, room) + 0.1 * rank for rank, box in enumerate(boxes)]
        for kme, boxes in choices.items()
    }
    taken = {kme: boxes[fixed[kme].index(min(fixed[kme]))] for kme, boxes in choices.items()}
    costs: dict[str, float] = {}
    for _ in range(_ROUNDS):
        before = dict(taken)
        for kme, boxes in choices.items():
            others = [box for other, box in taken.items() if other != kme]
            all_in = [
                cost + _IMPOSSIBLE * sum(map(box.overlaps, others)) for box, cost in zip(boxes, fixed[kme], strict=True)
            ]
            costs[kme] = min(all_in)
            taken[kme] = boxes[all_in.index(costs[kme])]
        if taken == before:
            break
    shown: dict[str, _Box] = {}
    for kme in sorted(taken, key=costs.__getitem__):
        box = taken[kme]
        if fixed[kme][choices[kme].index(box)] < _IMPOSSIBLE and not any(map(box.overlaps, shown.values())):
            shown[kme] = box
    return {kme: (box.start, box.y, box.anchor) for kme, box in shown.items()}


def _around(place: Point, width: float, radius: float) -> Iterator[_Box]:
    """Yield where a name may stand, best first."""
    x, y = place
    far, slant = radius + GAP, 0.7 * radius + GAP
    yield _Box(x, y + far + HEIGHT / 2, width)
    yield _Box(x, y - far - HEIGHT / 2, width)
    sides: tuple[tuple[int, Anchor], ...] = ((1, "start"), (-1, "end"))
    for side, anchor in sides:
        yield _Box(x + side * (far + width / 2), y, width, anchor)
    for up in (1, -1):
        for side, anchor in sides:
            yield _Box(x + side * (slant + width / 2), y + up * (slant + HEIGHT / 2), width, anchor)
    for up in (1, -1):
        for side in (1, -1):
            yield _Box(x + side * width / 3, y + up * (far + HEIGHT / 2), width)


def _cost(
    box: _Box, places: Mapping[str, Point], links: Sequence[tuple[str, str]], radius: float, room: Point
) -> float:
    outside = not (box.width / 2 <= box.x <= room[0] - box.width / 2 and HEIGHT / 2 <= box.y <= room[1] - HEIGHT / 2)
    on_kmes = sum(box.meets(place, radius + 1) for place in places.values())
    crossed = sum(box.is_crossed(places[a], places[b]) for a, b in links)
    return _IMPOSSIBLE * (outside + on_kmes) + _CROSSED * crossed
