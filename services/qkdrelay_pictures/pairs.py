"""The network beside the matrix of its pairs, as SVG: what the plan of each pair withstands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qkdrelay.errors import RequestRefusedError
from qkdrelay.network.candidates import Candidate
from qkdrelay.network.topology import Topology, Trust
from qkdrelay.terminal.wording import counted
from qkdrelay_pictures.labels import GAP, HEIGHT, beside
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
from qkdrelay_pictures.spread import spread

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of pair: the colours of its cells, and what the legend says."""

    fill: str
    ink: str
    says: str


# Told apart with every kind of colour vision; where there are no colours at all, by the numbers in the cells.
_BOTH = _Kind("#7b2d26", "#ffffff", "one compromised KME learns the keys; one crash blocks them")
_LEARNED = _Kind("#d9662f", INK, "one compromised KME learns the keys; no single crash blocks them")
_BLOCKED = _Kind("#f6c667", INK, "one crash blocks the keys; no single KME learns them")
_ONE = _Kind("#86bbe6", INK, "withstands one compromised KME and one crash")
_MORE = _Kind("#2b6cb0", "#ffffff", "withstands more than one of either")
_NEIGHBOURS = _Kind("#eef1f4", PALE, "neighbours: nobody is between them")
_NO_PLAN = _Kind("#ffffff", GREY, "no plan")
_KINDS = (_BOTH, _LEARNED, _BLOCKED, _ONE, _MORE, _NEIGHBOURS, _NO_PLAN)
MATRIX_KMES_MAX = 100
"""A matrix of more is no picture that anybody can read."""
_BESIDE = 36.0
"""Between the network and the matrix."""
_HEADING = 3 * LINE_HEIGHT
_NUMBER = 26.0
"""Room for the number of a row."""
_CELLS = ((10, 36.0), (16, 30.0), (26, 24.0), (MATRIX_KMES_MAX, 16.0))
"""Up to so many KMEs, cells of this size; the smallest have no room for numbers."""
_TRUST: dict[Trust, str] = {
    "trusted": "trusted, by the topology file",
    "avoid": "relays only if there is no other way",
    "never": "never relays",
}


def check_drawable(topology: Topology) -> None:
    """Raise RequestRefusedError if there are too many KMEs for a picture."""
    if (number := len(topology.kmes)) > MATRIX_KMES_MAX:
        raise RequestRefusedError(
            f"{topology.name} has {number} KMEs; a picture of all pairs has room for {MATRIX_KMES_MAX}",
            hint="leave out --svg and --png; --json has all pairs",
        )


def draw_pairs(topology: Topology, found: Mapping[Pair, Candidate | str], title: str, summary: str) -> str:
    """Return the SVG of a network and of what each (source, target) withstands, under a title and a summary."""
    return _Drawing(topology, found, title, summary).svg()


@dataclass(frozen=True, slots=True)
class _Drawing:
    topology: Topology
    found: Mapping[Pair, Candidate | str]
    title: str
    summary: str

    @property
    def cell(self) -> float:
        return next(size for most, size in _CELLS if len(self.topology.kmes) <= most)

    @property
    def font(self) -> float:
        return 12 if self.cell > 16 else 10

    @property
    def radius(self) -> float:
        return 13.0 if self.cell > 16 else 10.0

    def svg(self) -> str:
        names = max(map(len, self.topology.kmes)) * SMALL_LETTER + _NUMBER + 4
        side = self.cell * len(self.topology.kmes)
        height = max(side + _HEADING, 280.0)
        across = max(340.0, 0.9 * height)
        matrix = MARGIN + across + _BESIDE + names
        legend = list(self._legend())
        half = (len(legend) + 1) // 2
        column = max(matrix - names - MARGIN, max(room for _, room in legend[:half]) + _BESIDE)
        in_two = column + max((room for _, room in legend[half:]), default=0) <= matrix + side - MARGIN
        rows = half if in_two else len(legend)
        widest = max(len(self.title) * LETTER, len(self.summary) * 0.56 * 13)
        width = max(matrix + side, MARGIN + widest) + MARGIN
        top = MARGIN + 4 * LINE_HEIGHT
        below = top + height + 2.5 * LINE_HEIGHT
        body = [
            text(self.title, MARGIN, MARGIN + 12, anchor="start", size=16, bold=True),
            text(self.summary, MARGIN, MARGIN + 12 + 1.5 * LINE_HEIGHT, GREY, anchor="start", size=13),
            *group(MARGIN, top, self._network(across, height)),
            *group(matrix, top + (height + _HEADING - side) / 2, self._matrix(side)),
        ]
        for number, (entry, _) in enumerate(legend):
            x, y = MARGIN + number // rows * column, number % rows * 1.5 * LINE_HEIGHT
            body += group(x, below + y, entry)
        return page(self.title, width, below + (rows - 1) * 1.5 * LINE_HEIGHT + MARGIN, body)

    def _network(self, width: float, height: float) -> Iterator[str]:
        r, links = self.radius, self.topology.links
        edge = r + GAP + HEIGHT
        places = {
            kme: (x + edge, y + edge)
            for kme, (x, y) in spread(self.topology, width - 2 * edge, height - 2 * edge, 1.5 * r).items()
        }
        for a, b in links:
            (x1, y1), (x2, y2) = places[a], places[b]
            yield f'<path d="M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}" stroke="{STEEL}" stroke-width="1.5"/>'
        for kme, (x, y, anchor) in beside(places, links, r, 0.56 * self.font, (width, height)).items():
            yield text(kme, x, y + 4, GREY, anchor=anchor, size=self.font, halo=True)
        for number, (kme, (x, y)) in enumerate(places.items(), 1):
            yield from _circle(x, y, r, self.topology.trust.get(kme))
            yield text(str(number), x, y + 4, size=self.font, bold=True)

    def _matrix(self, side: float) -> Iterator[str]:
        kmes, cell = self.topology.kmes, self.cell
        size = self.font
        yield text("target", side / 2, -28, GREY)
        yield text("source", -_NUMBER, -10, GREY, anchor="end")
        for number, kme in enumerate(kmes, 1):
            at = (number - 0.5) * cell
            yield text(str(number), at, -10, size=size, bold=True)
            yield text(str(number), -10, at + 4, size=size, bold=True)
            yield text(kme, -_NUMBER, at + 4, anchor="end", size=size)
        for row, source in enumerate(kmes):
            for column, target in enumerate(kmes):
                if source != target:
                    yield from self._cell(column * cell, row * cell, (source, target))
        yield f'<rect width="{side:g}" height="{side:g}" fill="none" stroke="{FAINT}"/>'

    def _cell(self, x: float, y: float, pair: Pair) -> Iterator[str]:
        kind, cell = self._kind(pair), self.cell
        yield f'<rect x="{x:g}" y="{y:g}" width="{cell:g}" height="{cell:g}" fill="{kind.fill}" stroke="#ffffff"/>'
        made = self.found[pair]
        if kind is _NO_PLAN:
            yield text("\N{MULTIPLICATION SIGN}", x + cell / 2, y + cell / 2 + 4, kind.ink)
        elif kind is not _NEIGHBOURS and cell > 16 and isinstance(made, Candidate):
            have = made.resilience
            yield text(f"{have.compromised}/{have.failed}", x + cell / 2, y + cell / 2 + 4, kind.ink, size=11)

    def _kind(self, pair: Pair) -> _Kind:
        made = self.found[pair]
        if pair[1] in self.topology.neighbours[pair[0]]:
            return _NEIGHBOURS
        if isinstance(made, str):
            return _NO_PLAN
        have = made.resilience
        if have.compromised == 0:
            return _BOTH if have.failed == 0 else _LEARNED
        if have.failed == 0:
            return _BLOCKED
        return _ONE if (have.compromised, have.failed) == (1, 1) else _MORE

    def _legend(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Yield what each colour and each mark says, and how much room that takes."""
        counts = Counter(map(self._kind, self.found))
        between = len(self.found) - counts[_NEIGHBOURS]
        for kind in _KINDS:
            if number := counts[kind]:
                share = "" if kind is _NEIGHBOURS else f", {100 * number / between:.0f} %"
                swatch = f'<rect y="-11" width="14" height="14" fill="{kind.fill}" stroke="{FAINT}"/>'
                yield _entry(swatch, f"{kind.says}: {counted(number, 'pair')}{share}")
        if self.cell > 16 and counts[_NEIGHBOURS] < len(self.found):
            yield _entry(
                text("1/0", 7, 0, size=11), "withstands 1 compromised KME and 0 failed ones, in the worst case"
            )
        for trust, says in _TRUST.items():
            if self.topology.noted(trust):
                yield _entry("".join(_circle(7, -4, 7, trust)), says)


def _entry(mark: str, says: str) -> tuple[tuple[str, ...], float]:
    return (mark, text(says, 26, 0, anchor="start")), 26 + len(says) * SMALL_LETTER


def _circle(x: float, y: float, radius: float, trust: Trust | None) -> Iterator[str]:
    at = f'cx="{x:.1f}" cy="{y:.1f}"'
    match trust:
        case None:
            yield f'<circle {at} r="{radius:g}" fill="#f3f5f8" stroke="{STEEL}" stroke-width="1.5"/>'
        case "trusted":
            yield f'<circle {at} r="{radius:g}" fill="#e3ecfb" stroke="{BLUE}" stroke-width="1.5"/>'
            yield f'<circle {at} r="{radius - 2.5:g}" fill="none" stroke="{BLUE}" stroke-width="1"/>'
        case "avoid":
            dashes = 'stroke-dasharray="3 3"'
            yield f'<circle {at} r="{radius:g}" fill="#ffffff" stroke="{STEEL}" stroke-width="1.5" {dashes}/>'
        case "never":
            side = 0.7071 * radius
            yield f'<circle {at} r="{radius:g}" fill="#ffffff" stroke="{RED}" stroke-width="1.5"/>'
            yield f'<path d="M{x - side:.1f} {y + side:.1f} l{2 * side:.1f} {-2 * side:.1f}" stroke="{RED}"/>'
