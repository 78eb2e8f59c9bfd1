"""Places boxes in columns so that few lines cross: a layered drawing (Sugiyama, Tagawa, Toda, IEEE SMC 1981)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

Edge = tuple[str, str]
Key = str | tuple[str, str, int]
"""A box, or the place where a line over several columns passes one of them."""

COLUMN_GAP = 84.0
ROW_GAP = 22.0
PASSING = 12.0
"""Height of the place where a line passes a column."""
_SWEEPS = 24
_ALIGNMENTS = 40
_SWAP_WORK_MAX = 10_000_000
"""Pairs of lines compared, twice; about a second."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Centres of the boxes; the points each line runs through, its two boxes' centres first and last."""

    boxes: Mapping[str, tuple[float, float]]
    lines: Mapping[Edge, tuple[tuple[float, float], ...]]
    widths: tuple[float, ...]
    """Of the columns."""
    width: float
    height: float


def layered(columns: Mapping[str, int], edges: Mapping[Edge, int], sizes: Mapping[str, tuple[float, float]]) -> Layout:
    """Place boxes of these sizes in these columns.

    ``edges``, with their weights: the heavier a line, the straighter it runs and the less it is crossed. Boxes listed
    first start out on top.
    """
    graph = _Graph(columns, edges)
    graph.untangle()
    heights = {key: sizes[key][1] if isinstance(key, str) else PASSING for key in graph.place}
    middle = graph.aligned(heights)
    widths = [max((sizes[k][0] for k in column if isinstance(k, str)), default=0.0) for column in graph.columns]
    across: list[float] = []
    at = 0.0
    for width in widths:
        across.append(at + width / 2)
        at += width + COLUMN_GAP
    top = min(middle[key] - heights[key] / 2 for key in middle)
    bottom = max(middle[key] + heights[key] / 2 for key in middle)
    points = {key: (across[graph.column[key]], y - top) for key, y in middle.items()}
    return Layout(
        boxes={key: point for key, point in points.items() if isinstance(key, str)},
        lines={edge: tuple(points[key] for key in way) for edge, way in graph.ways.items()},
        widths=tuple(widths),
        width=at - COLUMN_GAP,
        height=bottom - top,
    )


class _Graph:
    def __init__(self, columns: Mapping[str, int], edges: Mapping[Edge, int]) -> None:
        self.column: dict[Key, int] = {kme: column for kme, column in columns.items()}  # noqa: C416 - the keys widen
        self.columns: list[list[Key]] = [[] for _ in range(max(columns.values()) + 1)]
        self.ways: dict[Edge, tuple[Key, ...]] = {}
        self._beside: list[tuple[Key, Key]] = []
        self._steps: list[list[tuple[Key, Key, int]]] = [[] for _ in self.columns]
        self._near: dict[Key, list[tuple[Key, int]]] = defaultdict(list)
        for key, column in columns.items():
            self.columns[column].append(key)
        for edge, weight in edges.items():
            self._add(edge, weight)
        self.place: dict[Key, int] = {}
        self._settle()

    def _add(self, edge: Edge, weight: int) -> None:
        a, b = edge
        first, last = self.column[a], self.column[b]
        step = 1 if last > first else -1
        passed: list[Key] = [(a, b, column) for column in range(first + step, last, step)] if first != last else []
        for key, column in zip(passed, range(first + step, last, step), strict=False):
            self.column[key] = column
            self.columns[column].append(key)
        way = (a, *passed, b)
        self.ways[edge] = way
        if first == last:
            self._beside.append((a, b))
            return
        for one, other in pairwise(way):
            left, right = (one, other) if step > 0 else (other, one)
            self._steps[self.column[left]].append((left, right, weight))
            self._near[left].append((right, weight))
            self._near[right].append((left, weight))

    def untangle(self) -> None:
        """Order each column: sweep to and fro, then swap neighbours as long as that helps."""
        best, least = [list(column) for column in self.columns], self._tangle()
        for sweep in range(_SWEEPS):
            forth = sweep % 2 == 0
            for column in range(len(self.columns)) if forth else reversed(range(len(self.columns))):
                before = column - 1 if forth else column + 1
                means = {key: self._mean(key, before) for key in self.columns[column]}
                self.columns[column].sort(key=means.__getitem__)
                self._settle()
            if (tangle := self._tangle()) < least:
                best, least = [list(column) for column in self.columns], tangle
        self.columns = best
        self._settle()
        self._swap()

    def _swap(self) -> None:
        """Swap two of a column as long as that helps, within the bound on work."""
        work, better = 0, True
        while better:
            better = False
            for number, column in enumerate(self.columns):
                gaps = (number - 1, number) if number else (0,)
                effort = sum(len(self._steps[gap]) ** 2 for gap in gaps)
                least = self._tangle(gaps)
                for i, j in combinations(range(len(column)), 2):
                    work += effort
                    if work > _SWAP_WORK_MAX:
                        return
                    self._exchange(column, i, j)
                    if (tangle := self._tangle(gaps)) < least:
                        least, better = tangle, True
                    else:
                        self._exchange(column, i, j)

    def _exchange(self, column: list[Key], i: int, j: int) -> None:
        column[i], column[j] = column[j], column[i]
        self.place[column[i]], self.place[column[j]] = i, j

    def _mean(self, key: Key, column: int) -> float:
        near = [(self._relative(k), w) for k, w in self._near[key] if self.column[k] == column]
        return sum(p * w for p, w in near) / sum(w for _, w in near) if near else self._relative(key)

    def _relative(self, key: Key) -> float:
        return (self.place[key] + 0.5) / len(self.columns[self.column[key]])

    def _settle(self) -> None:
        self.place = {key: i for column in self.columns for i, key in enumerate(column)}

    def _tangle(self, gaps: Iterable[int] | None = None) -> int:
        """Return how tangled these gaps between columns are (by default all): crossings by weight.

        And, in all columns, how far the lines within a column go.
        """
        place, tangle = self.place, 0
        for gap in range(len(self._steps)) if gaps is None else gaps:
            for (a, b, w), (c, d, v) in combinations(self._steps[gap], 2):
                if (place[a] - place[c]) * (place[b] - place[d]) < 0:
                    tangle += 2 * w * v
        return tangle + sum(abs(place[a] - place[b]) - 1 for a, b in self._beside)

    def aligned(self, heights: Mapping[Key, float]) -> dict[Key, float]:
        """Return for each key its height on the page: as near to those it is joined to as the column allows."""
        middle: dict[Key, float] = {}
        for column in self.columns:
            self._stack(column, heights, middle, [0.0] * len(column))
        for turn in range(_ALIGNMENTS):
            for column in self.columns if turn % 2 == 0 else reversed(self.columns):
                self._stack(column, heights, middle, [self._pull(key, middle) for key in column])
        return middle

    def _pull(self, key: Key, middle: Mapping[Key, float]) -> float:
        near = self._near[key]
        return sum(middle[k] * w for k, w in near) / sum(w for _, w in near) if near else middle[key]

    @staticmethod
    def _stack(
        column: Sequence[Key], heights: Mapping[Key, float], middle: dict[Key, float], wanted: Sequence[float]
    ) -> None:
        """Place a column's keys in order, without overlap, as near to where they are wanted as can be."""
        offsets = [0.0]
        for one, other in pairwise(column):
            offsets.append(offsets[-1] + (heights[one] + heights[other]) / 2 + ROW_GAP)
        shifted = _rising(want - offset for want, offset in zip(wanted, offsets, strict=False))
        for key, start, offset in zip(column, shifted, offsets, strict=False):
            middle[key] = start + offset


def _rising(wanted: Iterable[float]) -> list[float]:
    """Return the sequence that never falls and is nearest, in squares: pool whoever is out of order."""
    blocks: list[tuple[float, int]] = []
    for want in wanted:
        mean, count = want, 1
        while blocks and blocks[-1][0] > mean:
            before, number = blocks.pop()
            mean = (mean * count + before * number) / (count + number)
            count += number
        blocks.append((mean, count))
    return [mean for mean, count in blocks for _ in range(count)]
