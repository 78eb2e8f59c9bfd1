"""Spreads a whole network over a rectangle: by stress majorisation (Gansner, Koren, North, Graph Drawing 2004)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qkdrelay.network.topology import Topology

Points = NDArray[np.float64]
_STARTS = 24
_TURNS = 36
_STEPS, _PACE = 200, 0.8
_STRETCH = 1.5
"""Factor by which one axis may be stretched more than the other to fill the rectangle."""
_SEED = 20
_CLOSE, _CROSSED = 8.0, 1.0
"""Costs of a link that passes too close to a KME, and of one that crosses another."""
_ROUNDS, _MOVES, _DIRECTIONS = 8, (1.0, 2.5), 8
_WORK_MAX = 8_000_000
"""Pairs of links compared while KMEs are moved; about a second."""


def spread(topology: Topology, width: float, height: float, clearance: float) -> Mapping[str, tuple[float, float]]:
    """Return where each KME stands within the rectangle.

    Of many drawings, all with distances about as the hops between, the one with the fewest links that pass closer to a
    KME than ``clearance`` and the fewest crossings, the first KME to the left and the last to the right if possible;
    always the same one for the same network.
    """
    number = {kme: i for i, kme in enumerate(topology.kmes)}
    ends = np.array([(number[a], number[b]) for a, b in topology.links], dtype=np.intp).reshape(-1, 2)
    best, least = np.empty((0, 2)), np.inf
    for drawing in _majorised(_hops(topology)):
        crossed = _CROSSED * _crossings(drawing, ends)
        for turn in range(_TURNS):
            placed = _fitted(_turned(drawing, 2 * math.pi * turn / _TURNS), width, height)
            rightward = (placed[-1, 0] - placed[0, 0]) / width
            badness = round(crossed + _CLOSE * _too_close(placed, ends, clearance) - rightward, 3)
            if badness < least:
                best, least = placed, badness
    best = _freed(best, ends, clearance, np.array([width, height]))
    return {kme: (float(best[i, 0]), float(best[i, 1])) for kme, i in number.items()}


def _hops(topology: Topology) -> Points:
    """Return the distances between all; KMEs that cannot reach each other stand a little further than any that can."""
    n = len(topology.kmes)
    hops = np.full((n, n), np.inf)
    for i, kme in enumerate(topology.kmes):
        reached = topology.hops_to(kme)
        for j, other in enumerate(topology.kmes):
            if other in reached:
                hops[i, j] = reached[other]
    hops[np.isinf(hops)] = hops[np.isfinite(hops)].max() + 1
    return hops


def _majorised(hops: Points) -> Points:
    """Return drawings, shape (starts, KMEs, 2), each of the least stress near a random start.

    Each step moves every KME to, or rather towards, where the others want it. No matrix is multiplied or inverted, and
    sums run over an axis that is not the last: so every processor rounds alike, and chaos finds nothing to enlarge.
    """
    n = len(hops)
    away = (hops + np.eye(n))[..., None]
    weights = (1 - np.eye(n))[..., None] / (away * away)
    weights /= weights.sum(axis=1, keepdims=True)
    points = np.random.default_rng(_SEED).uniform(-n, n, (2, n, _STARTS))
    for _ in range(_STEPS):
        apart = points[:, None] - points[:, :, None]
        distance = np.sqrt(apart[0] * apart[0] + apart[1] * apart[1])
        points = points + _PACE * (weights * (1 - away / np.maximum(distance, 1e-9)) * apart).sum(axis=2)
    return points.transpose(2, 1, 0)


def _turned(points: Points, angle: float) -> Points:
    c, s = math.cos(angle), math.sin(angle)
    x, y = points[:, 0], points[:, 1]
    return np.column_stack((c * x + s * y, c * y - s * x))


def _fitted(points: Points, width: float, height: float) -> Points:
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.array([width, height])
    scale = room / np.maximum(high - low, 1e-9)
    scale = np.minimum(scale, _STRETCH * scale.min())
    return np.asarray(room / 2 + (points - (low + high) / 2) * scale)


def _freed(points: Points, ends: NDArray[np.intp], clearance: float, room: Points) -> Points:
    """Move KMEs that lie on links of others, and the ends of such links, as long as that helps and is little work."""
    angles = [2 * math.pi * direction / _DIRECTIONS for direction in range(_DIRECTIONS)]
    moves = clearance * np.array([(step * math.cos(a), step * math.sin(a)) for step in _MOVES for a in angles])
    badness = _badness(points, ends, clearance)
    work = 0
    for _ in range(_ROUNDS):
        kmes, links = np.nonzero(_beside(points, ends) < clearance)
        before = badness
        for kme in np.unique(np.concatenate([kmes, ends[links].ravel()])):
            work += len(moves) * len(ends) ** 2
            if work > _WORK_MAX:
                return points
            for place in np.clip(points[kme] + moves, 0, room):
                tried = points.copy()
                tried[kme] = place
                if (now := _badness(tried, ends, clearance)) < badness - 1e-6:
                    points, badness = tried, now
        if badness == before:
            break
    return points


def _badness(points: Points, ends: NDArray[np.intp], clearance: float) -> float:
    return _CLOSE * _too_close(points, ends, clearance) + _CROSSED * _crossings(points, ends)


def _too_close(points: Points, ends: NDArray[np.intp], clearance: float) -> float:
    """Return how many KMEs stand too close to another or to a link of others, each by how much."""
    x, y = points[:, 0], points[:, 1]
    one, other = np.triu_indices(len(points), 1)
    apart = np.sqrt((x[one] - x[other]) ** 2 + (y[one] - y[other]) ** 2)
    near = np.concatenate([_beside(points, ends).ravel(), apart / 2])
    return float(np.maximum(0, 1.5 - near / clearance).sum())


def _beside(points: Points, ends: NDArray[np.intp]) -> Points:
    """Return how far each KME stands from each link, infinite for its own; shape (KMEs, links)."""
    a, b = points[ends[:, 0]], points[ends[:, 1]]
    along = b - a
    offset = points[:, None] - a
    part = np.clip((offset * along).sum(-1) / np.maximum((along * along).sum(-1), 1e-9), 0, 1)
    away = offset - part[..., None] * along
    own = (np.arange(len(points))[:, None, None] == ends).any(axis=-1)
    return np.where(own, np.inf, np.sqrt((away * away).sum(-1)))


def _crossings(points: Points, ends: NDArray[np.intp]) -> int:
    """Return how many pairs of links cross."""
    one, other = np.triu_indices(len(ends), 1)
    a, b, c, d = (points[ends[which, end]] for which in (one, other) for end in (0, 1))
    apart = (ends[one][:, :, None] != ends[other][:, None, :]).all(axis=(1, 2))

    def side(p: Points, q: Points, r: Points) -> Points:
        return np.asarray((q - p)[:, 0] * (r - p)[:, 1] - (q - p)[:, 1] * (r - p)[:, 0])

    crossed = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    return int((crossed & apart).sum())
