"""Disjoint paths of least cost between two KMEs.

Successive shortest paths in the network with every KME split in two (Suurballe, Networks 1974; Ahuja, Magnanti, Orlin,
"Network Flows", 9.7): after each round the paths found so far are as many, and of the least total cost for that number.
By Menger's theorem the last round has as many as the pair's connectivity. Written out because a general min-cost
flow solver takes tens of milliseconds a pair, and all pairs of a network are to be planned in seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

Path = tuple[str, ...]
"""KMEs from the source to the target."""


class _Flow:
    """A unit-capacity network: arc number e ^ 1 is arc e backwards."""

    def __init__(self, nodes: int) -> None:
        self.out: list[list[int]] = [[] for _ in range(nodes)]
        self.to: list[int] = []
        self.free: list[int] = []
        self.cost: list[int] = []
        self._potential = [0] * nodes

    def arc(self, start: int, end: int, capacity: int, cost: int) -> None:
        for tail, head, free, price in ((start, end, capacity, cost), (end, start, 0, -cost)):
            self.out[tail].append(len(self.to))
            self.to.append(head)
            self.free.append(free)
            self.cost.append(price)

    def augment(self, source: int, target: int) -> bool:
        """Send one unit more along a cheapest way; false if there is none."""
        far = 1 << 200
        distance = [far] * len(self.out)
        via = [-1] * len(self.out)
        distance[source] = 0
        queue = [(0, source)]
        while queue:
            reached, node = heapq.heappop(queue)
            if reached > distance[node]:
                continue
            if node == target:
                break
            base = reached + self._potential[node]
            for arc in self.out[node]:
                if self.free[arc]:
                    end = self.to[arc]
                    there = base + self.cost[arc] - self._potential[end]
                    if there < distance[end]:
                        distance[end], via[end] = there, arc
                        heapq.heappush(queue, (there, end))
        if distance[target] == far:
            return False
        # Nodes farther than the target keep reduced costs non-negative if they count as just as far.
        self._potential = [p + min(d, distance[target]) for p, d in zip(self._potential, distance, strict=True)]
        node = target
        while node != source:
            self.free[via[node]] -= 1
            self.free[via[node] ^ 1] += 1
            node = self.to[via[node] ^ 1]
        return True


def disjoint_paths(
    neighbours: Mapping[str, Sequence[str]],
    source: str,
    target: str,
    link_cost: Callable[[str, str], int],
    kme_cost: Callable[[str], int],
    *,
    shared: Collection[str] = (),
    rounds: int | None = None,
) -> Iterator[tuple[Path, ...]]:
    """Yield the cheapest single path, the cheapest pair of disjoint paths, and so on, as many as there are.

    The direct link counts as a path. ``link_cost`` is positive, ``kme_cost`` is not negative. ``neighbours`` lists only
    the KMEs that may be used, and the two ends. Paths may meet in ``shared`` KMEs; together they are acyclic all the
    same. ``rounds`` bounds how many paths are looked for, and is needed if there are shared ones.
    """
    kmes = list(neighbours)
    place = {kme: i for i, kme in enumerate(kmes)}
    many = len(kmes) if rounds is None else rounds
    flow = _Flow(2 * len(kmes))
    common = {*shared, source, target}
    for kme, i in place.items():
        flow.arc(2 * i, 2 * i + 1, many if kme in common else 1, kme_cost(kme))
    for kme, i in place.items():
        if kme == target:
            continue
        for near in neighbours[kme]:
            if near in place and near != source:
                both = {kme, near} <= common and {kme, near} != {source, target}
                flow.arc(2 * i + 1, 2 * place[near], many if both else 1, link_cost(kme, near))
    start, end = 2 * place[source] + 1, 2 * place[target]
    for number in range(1, many + 1):
        if not flow.augment(start, end):
            return
        yield _paths(flow, kmes, start, end, number)


def _paths(flow: _Flow, kmes: Sequence[str], start: int, end: int, number: int) -> tuple[Path, ...]:
    """Take the flow apart. Arcs with even numbers are forward; what flows is what is free backwards."""
    used: dict[int, int] = {}
    paths = []
    for _ in range(number):
        node, path = start, [kmes[start // 2]]
        while node != end:
            arc = next(a for a in flow.out[node] if not a & 1 and flow.free[a ^ 1] > used.get(a, 0))
            used[arc] = used.get(arc, 0) + 1
            node = flow.to[arc]
            if not node & 1:
                path.append(kmes[node // 2])
        paths.append(tuple(path))
    return tuple(sorted(paths, key=lambda path: (len(path), path)))
