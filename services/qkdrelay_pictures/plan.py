"""A plan drawn on its network, as SVG: who splits, who is compromised or down, what is cut."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.network.candidates import Candidate
from qkdrelay.network.names import Link
from qkdrelay.network.plan import Plan
from qkdrelay.network.topology import Topology
from qkdrelay.network.what_if import case
from qkdrelay.terminal.wording import counted
from qkdrelay_pictures.layered import Edge, Layout, layered
from qkdrelay_pictures.page import (
    BLUE,
    FAINT,
    GREY,
    INK,
    LETTER,
    LINE_HEIGHT,
    MARGIN,
    PALE,
    RED,
    SMALL_LETTER,
    STEEL,
    group,
    page,
    text,
)

PLAN_KMES_MAX = 48
"""Of a larger network, only the KMEs of the plan are drawn."""
_ROUNDS = 12
BOX_HEIGHT = 34.0
ARC_MAX = 36.0
"""Pixels that a link within a column may reach out beside it."""
_FILLS = {
    "end": ("#e3ecfb", BLUE),
    "plan": ("#f3f5f8", STEEL),
    "bad": ("#fde7e5", RED),
    "down": ("#fff", STEEL),
    "other": ("#fff", FAINT),
}


def draw_plan(
    topology: Topology,
    candidate: Candidate,
    compromised: Collection[str] = (),
    failed: Collection[str] = (),
    cut: Collection[Link] = (),
) -> str:
    """Return the SVG of a candidate's plan on its network; ``cut`` links are not directed."""
    return _Drawing(
        topology, candidate, frozenset(compromised), frozenset(failed), frozenset(map(frozenset, cut))
    ).svg()


@dataclass(frozen=True, slots=True)
class _Drawing:
    topology: Topology
    candidate: Candidate
    compromised: frozenset[str]
    failed: frozenset[str]
    cut: frozenset[frozenset[str]]

    @property
    def plan(self) -> Plan:
        return self.candidate.plan

    def svg(self) -> str:
        columns = self._columns()
        used = {frozenset(link) for link in self.plan.links}
        weights: dict[Edge, int] = dict.fromkeys(self.plan.links, 4)
        for a, b in self.topology.links:
            if a in columns and b in columns and frozenset((a, b)) not in used:
                weights[(a, b) if columns[a] <= columns[b] else (b, a)] = 1
        layout = layered(columns, weights, {kme: self._size(kme) for kme in columns})
        footer = self._footer()
        width = max(layout.width, *(len(line) * SMALL_LETTER for line in footer)) + 2 * MARGIN
        height = layout.height + 2 * MARGIN + (len(footer) + 3.25) * LINE_HEIGHT
        indent = (width - layout.width) / 2
        body = [
            *self._lines(layout, columns, weights),
            *(line for kme in columns for line in self._box(kme, *layout.boxes[kme])),
        ]
        legend = self._legend(indent, layout.height + 1.75 * LINE_HEIGHT, columns)
        below = height - MARGIN - (len(footer) - 1) * LINE_HEIGHT
        foot = [text(line, width / 2, below + number * LINE_HEIGHT) for number, line in enumerate(footer)]
        return page(footer[0], width, height, (*group(indent, MARGIN, body), *group(0, MARGIN, legend), *foot))

    def _columns(self) -> dict[str, int]:
        """Put the KMEs of the plan as far right as the longest way to them, the others about where they are near."""
        columns = {self.plan.source: 0}
        for kme in self.plan.order:
            for successor in self.plan.successors(kme):
                columns[successor] = max(columns.get(successor, 0), columns[kme] + 1)
        columns = {kme: columns[kme] for kme in self.topology.kmes if kme in columns}
        if len(self.topology.kmes) > PLAN_KMES_MAX:
            return columns
        return _with_others(self.topology, columns)

    def _captions(self, kme: str) -> list[tuple[str, str]]:
        plan, lines = self.plan, []
        if kme in (plan.source, plan.target):
            lines.append(("source" if kme == plan.source else "target", GREY))
        if plan.is_split(kme):
            lines.append((f"splits, {plan.threshold(kme)} of {len(plan.successors(kme))}", GREY))
        if kme in self.compromised:
            lines.append(("compromised", RED))
        if kme in self.failed:
            lines.append(("down", GREY))
        return lines

    def _size(self, kme: str) -> tuple[float, float]:
        captions = self._captions(kme)
        texts = [self._width(kme), *(len(said) * SMALL_LETTER for said, _ in captions)]
        return max(texts), BOX_HEIGHT + 2 * LINE_HEIGHT * len(captions)  # as much above, to keep its lines level

    def _box(self, kme: str, x: float, y: float) -> Iterator[str]:
        ends = (self.plan.source, self.plan.target)
        of_plan = kme in self.plan.hops or kme in ends
        kind = "end" if kme in ends else "plan" if of_plan else "other"
        if kme in self.compromised | self.failed:
            kind = "bad" if kme in self.compromised else "down"
        fill, stroke = _FILLS[kind]
        width = self._width(kme)
        dashes = ' stroke-dasharray="5 4"' if kme in self.failed else ""
        yield (
            f'<rect x="{x - width / 2:.1f}" y="{y - BOX_HEIGHT / 2:.1f}" width="{width:.1f}" height="{BOX_HEIGHT:.0f}" '
            f'rx="8" fill="{fill}" stroke="{stroke}" stroke-width="{2 if of_plan else 1.5}"{dashes}/>'
        )
        ink = PALE if kind in ("other", "down") else INK
        yield text(kme, x, y + 5, ink, size=14, bold=of_plan)
        for number, (said, colour) in enumerate(self._captions(kme), 1):
            yield text(said, x, y + BOX_HEIGHT / 2 + number * LINE_HEIGHT - 2, colour, halo=True)

    def _lines(self, layout: Layout, columns: dict[str, int], weights: dict[Edge, int]) -> Iterator[str]:
        """Yield the links, those beside the plan first, so that the plan's lie on top."""
        ports = self._ports(layout, weights)
        for (a, b), weight in sorted(weights.items(), key=lambda item: item[1]):
            points = list(layout.lines[a, b])
            if columns[a] == columns[b]:
                path, middle = _arc(points[0], points[1], (self._width(a) / 2, self._width(b) / 2))
            else:
                points[0] = (points[0][0] + self._width(a) / 2, points[0][1] + ports[a, b][0])
                points[-1] = (
                    points[-1][0] - self._width(b) / 2 - (4 if weight > 1 else 0),
                    points[-1][1] + ports[a, b][1],
                )
                path, middle = _curve(points, [layout.widths[c] / 2 for c in range(columns[a], columns[b] + 1)])
            broken = frozenset((a, b)) in self.cut
            colour = RED if broken else STEEL if weight > 1 else FAINT
            dashes = ' stroke-dasharray="5 5"' if broken else ""
            yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{2 if weight > 1 else 1.5}"{dashes}/>'
            if weight > 1:
                x, y = points[-1]
                yield f'<path d="M{x + 4:.1f} {y:.1f} l-9 -4.5 v9 z" fill="{colour}"/>'
            if broken:
                yield _cross(*middle)

    def _width(self, kme: str) -> float:
        return len(kme) * LETTER + 24

    def _ports(self, layout: Layout, weights: dict[Edge, int]) -> dict[Edge, tuple[float, float]]:
        """Return how far above or below the middle of its two boxes each line ends: they fan out by direction."""
        sides: dict[tuple[str, bool], list[tuple[float, Edge]]] = defaultdict(list)
        for edge in weights:
            points = layout.lines[edge]
            sides[edge[0], True].append((points[1][1], edge))
            sides[edge[1], False].append((points[-2][1], edge))
        offsets: dict[tuple[Edge, bool], float] = {}
        for (_, leaving), ends in sides.items():
            gap = min(9.0, (BOX_HEIGHT - 12) / max(1, len(ends) - 1))
            for number, (_, edge) in enumerate(sorted(ends)):
                offsets[edge, leaving] = (number - (len(ends) - 1) / 2) * gap
        return {edge: (offsets[edge, True], offsets[edge, False]) for edge in weights}

    def _legend(self, x: float, y: float, columns: dict[str, int]) -> Iterator[str]:
        entries = [("carries shares", STEEL, "")]
        if len(self.plan.links) < sum(a in columns and b in columns for a, b in self.topology.links):
            entries.append(("QKD link not used", FAINT, ""))
        if self.cut:
            entries.append(("cut", RED, ' stroke-dasharray="5 5"'))
        for said, colour, dashes in entries:
            yield f'<path d="M{x:.1f} {y - 4:.1f} h30" stroke="{colour}" stroke-width="2"{dashes}/>'
            yield text(said, x + 38, y, GREY, anchor="start")
            x += 38 + len(said) * SMALL_LETTER + 24

    def _footer(self) -> list[str]:
        plan, have = self.plan, self.candidate.resilience
        name, policy = escaped(self.topology.name, NAME_MAX), self.candidate.policy
        messages = counted(plan.share_messages, "share message")
        title = f"{plan.source} to {plan.target} in {name}, policy {policy}: {messages}"
        worst = f"{counted(have.compromised, 'compromised KME')} and {counted(have.failed, 'failed KME')}"
        lines = [title, f"withstands {worst}, in the worst case"]
        here = []
        found = case(plan, self.compromised, self.failed, [(min(link), max(link)) for link in self.cut])
        if self.compromised:
            does = "learns" if len(self.compromised) == 1 else "together learn"
            here.append(f"{_all_of(self.compromised)} {does} {'the keys' if found.learned else 'nothing'}")
        lost = [f"{_all_of(self.failed)} down"] if self.failed else []
        if self.cut:
            lost.append(f"{counted(len(self.cut), 'link')} cut")
        if lost:
            does = "rebuilds the keys" if found.delivered else "cannot rebuild the keys"
            here.append(f"{plan.target} {does} with {' and '.join(lost)}")
        if here:
            lines.append(f"here {'; '.join(here)}")
        return lines


def _all_of(kmes: Collection[str]) -> str:
    return " and ".join(sorted(kmes))


def _with_others(topology: Topology, columns: dict[str, int]) -> dict[str, int]:
    """Return the columns with the KMEs beside the plan: next to those they are linked to, where there is room."""
    last = max(columns.values())
    others = [kme for kme in topology.kmes if kme not in columns]
    placed = columns | dict.fromkeys(others, last // 2)
    for _ in range(_ROUNDS):
        for kme in others:
            crowd = Counter(column for name, column in placed.items() if name != kme)
            near = [placed[n] for n in topology.neighbours[kme]]
            cost = {c: sum(abs(abs(c - n) - 1) for n in near) + crowd[c] / 3 for c in range(last + 1)}
            placed[kme] = min(cost, key=cost.__getitem__)
    return placed


def _curve(points: list[tuple[float, float]], halves: list[float]) -> tuple[str, tuple[float, float]]:
    """Return a line through points, one a column, level where it passes one; and a point in the middle of it."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    at = points[0]
    spans = []
    for number, point in enumerate(points[1:], 1):
        inner = number < len(points) - 1
        near = (point[0] - halves[number], point[1]) if inner else point
        bend = (near[0] - at[0]) / 2
        path += f" C{at[0] + bend:.1f} {at[1]:.1f} {near[0] - bend:.1f} {near[1]:.1f} {near[0]:.1f} {near[1]:.1f}"
        spans.append(((at[0] + near[0]) / 2, (at[1] + near[1]) / 2))
        at = near
        if inner:
            at = (point[0] + halves[number], point[1])
            path += f" H{at[0]:.1f}"
    return path, spans[len(spans) // 2]


def _arc(
    a: tuple[float, float], b: tuple[float, float], halves: tuple[float, float]
) -> tuple[str, tuple[float, float]]:
    """Return a line between two boxes of a column, beside it on the right; and its middle."""
    (x1, y1), (x2, y2) = (a[0] + halves[0], a[1]), (b[0] + halves[1], b[1])
    out = max(x1, x2) + min(ARC_MAX, 18 + abs(y2 - y1) / 12)
    return f"M{x1:.1f} {y1:.1f} C{out:.1f} {y1:.1f} {out:.1f} {y2:.1f} {x2:.1f} {y2:.1f}", (
        (x1 + x2 + 6 * out) / 8,
        (y1 + y2) / 2,
    )


def _cross(x: float, y: float) -> str:
    path = f"M{x - 7:.1f} {y - 7:.1f} l14 14 M{x - 7:.1f} {y + 7:.1f} l14 -14"
    return f'<path d="{path}" stroke="{RED}" stroke-width="3"/>'
