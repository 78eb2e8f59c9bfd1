"""A circuit as a decision diagram: exact probabilities, smallest sets, and all minimal sets.

Bryant, "Graph-based algorithms for Boolean function manipulation", IEEE ToC 1986; minimal sets after Rauzy, "New
algorithms for fault trees analysis", Reliability Engineering and System Safety 40, 1993: a zero-suppressed diagram
holds them all, so they can be counted without listing them and listed smallest first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qkdrelay.network.threshold_circuit import Circuit

NODES_MAX = 200_000
"""Bound on the nodes of one diagram and on the steps that make them; about a second's work."""

_Node = tuple[int, int, int]
"""Level of the element, what holds without it, what holds with it."""


class TooLargeError(Exception):
    """The diagram would exceed its bound; another method has to answer."""


class _Store:
    """Nodes of a diagram, each once. Numbers 0 and 1 are false and true; children come before their parents."""

    def __init__(self, levels: int, nodes_max: int) -> None:
        self.nodes: list[_Node] = [(levels, 0, 0), (levels, 1, 1)]
        self._known: dict[_Node, int] = {}
        self._nodes_max = nodes_max

    def node(self, level: int, low: int, high: int) -> int:
        key = (level, low, high)
        number = self._known.get(key)
        if number is None:
            if len(self.nodes) >= self._nodes_max:
                raise TooLargeError
            number = self._known[key] = len(self.nodes)
            self.nodes.append(key)
        return number


class Diagram:
    """The decision diagram of a monotone circuit; element i of the circuit is level i."""

    def __init__(self, circuit: Circuit, nodes_max: int = NODES_MAX) -> None:
        """Build it, or raise TooLargeError."""
        self.elements = circuit.elements
        self._nodes_max = nodes_max
        self._store = _Store(len(circuit.elements), nodes_max)
        self._choices: dict[tuple[int, int, int], int] = {}
        values: list[int] = []
        for gate in circuit.gates:
            value = self._at_least(gate.threshold, [values[child] for child in gate.children])
            values.append(value if gate.own is None else self._choose(self._store.node(gate.own, 0, 1), 1, value))
        self._root = values[-1]
        self._choices.clear()

    def _at_least(self, threshold: int, functions: Sequence[int]) -> int:
        if threshold > len(functions):
            return 0
        counts = [1] + [0] * threshold
        for function in functions:
            for count in range(threshold, 0, -1):
                counts[count] = self._choose(function, counts[count - 1], counts[count])
        return counts[threshold]

    def _choose(self, test: int, then: int, other: int) -> int:
        """Return the function that is ``then`` where ``test`` holds and ``other`` where it does not."""
        nodes, choices = self._store.nodes, self._choices
        results: list[int] = []
        todo: list[tuple[int, int, int, int]] = [(test, then, other, -1)]
        while todo:
            f, g, h, level = todo.pop()
            if level >= 0:
                high = results.pop()
                low = results.pop()
                result = low if low == high else self._store.node(level, low, high)
                choices[f, g, h] = result
                results.append(result)
            elif f < 2 or g == h:
                results.append(g if f == 1 or g == h else h)
            elif (g, h) == (1, 0):
                results.append(f)
            elif (known := choices.get((f, g, h))) is not None:
                results.append(known)
            else:
                if len(choices) >= 4 * self._nodes_max:
                    raise TooLargeError
                level = min(nodes[f][0], nodes[g][0], nodes[h][0])
                (f0, f1), (g0, g1), (h0, h1) = (
                    (nodes[x][1], nodes[x][2]) if nodes[x][0] == level else (x, x) for x in (f, g, h)
                )
                todo += ((f, g, h, level), (f1, g1, h1, -1), (f0, g0, h0, -1))
        return results[0]

    def probability(self, of: Sequence[float]) -> float:
        """Return the probability of the output if element i is chosen with probability ``of[i]``, independently."""
        chance = [0.0, 1.0]
        for level, low, high in self._store.nodes[2 : self._root + 1]:
            chance.append((1 - of[level]) * chance[low] + of[level] * chance[high])
        return chance[self._root]

    def cheapest(self, costs: Sequence[float]) -> tuple[int, ...] | None:
        """Return the elements' indices of a set of least cost that makes the output true; None if none does."""
        nodes = self._store.nodes
        cost = [float("inf"), 0.0]
        for level, low, high in nodes[2 : self._root + 1]:
            cost.append(min(cost[low], cost[high] + costs[level]))
        if cost[self._root] == float("inf"):
            return None
        chosen, number = [], self._root
        while number > 1:
            level, low, high = nodes[number]
            if cost[low] <= cost[high] + costs[level]:
                number = low
            else:
                chosen.append(level)
                number = high
        return tuple(chosen)

    def minimal_sets(self) -> SetFamily:
        """Return all minimal sets that make the output true, or raise TooLargeError."""
        nodes = self._store.nodes
        families = _Store(len(self.elements), self._nodes_max)
        without = _Without(nodes, families, 4 * self._nodes_max)
        minimal = {0: 0, 1: 1}
        for number in self._below_root():
            level, low, high = nodes[number]
            # With this element: what needs it, that is, does not do without.
            needing = without(minimal[high], low)
            minimal[number] = families.node(level, minimal[low], needing) if needing else minimal[low]
        return SetFamily(families.nodes, minimal[self._root])

    def _below_root(self) -> list[int]:
        seen, todo = {0, 1}, [self._root]
        while todo:
            number = todo.pop()
            if number not in seen:
                seen.add(number)
                todo += self._store.nodes[number][1:]
        return sorted(seen - {0, 1})


class _Without:
    """Takes out of a family of sets those that satisfy a monotone function."""

    def __init__(self, functions: list[_Node], families: _Store, steps_max: int) -> None:
        self._functions, self._families, self._steps_max = functions, families, steps_max
        self._known: dict[tuple[int, int], int] = {}

    def __call__(self, family: int, function: int) -> int:
        functions, families, known = self._functions, self._families.nodes, self._known
        results: list[int] = []
        todo: list[tuple[int, int, int]] = [(family, function, -1)]
        while todo:
            z, f, level = todo.pop()
            while f > 1 and functions[f][0] < families[z][0]:  # no set of the family has that element
                f = functions[f][1]
            if level >= 0:
                high = results.pop()
                low = results.pop()
                known[z, f] = self._families.node(level, low, high) if high else low
                results.append(known[z, f])
            elif f == 1 or z == 0:
                results.append(0)
            elif f == 0 or z == 1:
                results.append(z)
            elif (z, f) in known:
                results.append(known[z, f])
            else:
                if len(known) >= self._steps_max:
                    raise TooLargeError
                level, low, high = families[z]
                tested, f0, f1 = functions[f]
                if tested > level:
                    todo += ((z, f, level), (high, f, -1), (low, f, -1))
                else:
                    todo += ((z, f, level), (high, f1, -1), (low, f0, -1))
        return results[0]


class SetFamily:
    """A family of sets of elements' indices, as a zero-suppressed diagram."""

    def __init__(self, nodes: list[_Node], root: int) -> None:
        self._nodes, self._root = nodes, root
        counts: list[dict[int, int]] = [{}, {0: 1}]
        for _, low, high in nodes[2 : root + 1]:
            merged = dict(counts[low])
            for size, count in counts[high].items():
                merged[size + 1] = merged.get(size + 1, 0) + count
            counts.append(merged)
        self._counts = counts

    def counts(self) -> dict[int, int]:
        """Return for each size how many sets have it, smallest first."""
        return dict(sorted(self._counts[self._root].items()))

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Yield every set, smallest first, without looking at more nodes than the sets have."""
        for size in self.counts():
            stack: list[tuple[int, tuple[int, ...]]] = [(self._root, ())]
            while stack:
                number, chosen = stack.pop()
                if size - len(chosen) not in self._counts[number]:
                    continue
                if number == 1:
                    yield chosen
                    continue
                level, low, high = self._nodes[number]
                stack += ((low, chosen), (high, (*chosen, level)))
