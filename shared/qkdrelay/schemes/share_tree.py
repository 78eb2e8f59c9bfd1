"""A plan unfolded into its splits, from the source down to what is held or to the target."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

Route = tuple[str, ...]
"""The KMEs a share has passed, source first, the present holder last."""


class Graph(Protocol):
    """A plan, as far as sharing needs to know it. It is acyclic; the KME without successors is the target."""

    @property
    def source(self) -> str:
        """The KME where the payload starts."""
        ...

    def successors(self, kme: str) -> tuple[str, ...]:
        """Return the ordered successors of ``kme``; number i (from 1) gets the share with x = i."""
        ...

    def threshold(self, kme: str) -> int:
        """Return how many of ``kme``'s successors' shares rebuild what it held; 1 for a single successor."""
        ...

    def share_length(self, route: Route, payload_length: int) -> int:
        """Return the length in bytes of the share on ``route`` for a payload of ``payload_length`` bytes."""
        ...


@dataclass(frozen=True, slots=True)
class SplitNode:
    """One split: ``children`` maps x to the share's route, extended for as long as KMEs only forward."""

    route: Route
    threshold: int
    children: Mapping[int, Route]

    def present(self, there: Collection[Route]) -> int:
        """Return how many of the split's shares are among the routes ``there``."""
        return sum(child in there for child in self.children.values())


@dataclass(frozen=True, slots=True)
class Tree:
    """The splits by route, each before those below it; what is held and fits; the routes without anything."""

    splits: Mapping[Route, SplitNode]
    held: Mapping[Route, bytes] = field(repr=False)
    missing: tuple[Route, ...]

    def within_reach(self) -> set[Route]:
        """Return the routes whose payload is held, or is above enough that are, if nothing is false."""
        reach = set(self.held)
        for split in reversed(list(self.splits.values())):
            if split.present(reach) >= split.threshold:
                reach.add(split.route)
        return reach

    def majorities(self) -> set[Route]:
        """Return the splits with a threshold of more than half of their shares, as have all splits below them."""
        found: set[Route] = set()
        for split in reversed(list(self.splits.values())):
            below = all(child in found or child not in self.splits for child in split.children.values())
            if below and 2 * split.threshold > len(split.children):
                found.add(split.route)
        return found


def unfold(graph: Graph, held: Mapping[Route, bytes], payload_length: int) -> Tree:
    """Return the tree of ``graph``'s splits, cut where a payload of the right length is held.

    Takes time in proportion to the share messages of the plan, whatever is in ``held``.
    """
    splits: dict[Route, SplitNode] = {}
    usable: dict[Route, bytes] = {}
    missing: list[Route] = []

    def is_held(route: Route) -> bool:
        payload = held.get(route)
        if payload is None or len(payload) != graph.share_length(route, payload_length):
            return False
        usable[route] = payload
        return True

    def end_of_forwards(route: Route) -> Route:
        while not is_held(route) and len(successors := graph.successors(route[-1])) == 1:
            route = (*route, successors[0])
        return route

    stack: list[Route] = [(graph.source,)]
    while stack:
        route = stack.pop()
        if is_held(route):
            continue
        successors = graph.successors(route[-1])
        if not successors:
            missing.append(route)
            continue
        # The source comes here with a single successor too: encoded, and then a split 1 of 1.
        children = {x: end_of_forwards((*route, kme)) for x, kme in enumerate(successors, start=1)}
        splits[route] = SplitNode(route, graph.threshold(route[-1]), children)
        stack.extend(reversed(children.values()))
    return Tree(splits, usable, tuple(missing))
