"""Whether any set of a given size satisfies a circuit: the small algorithm a KME checks a plan with.

Every set of the size is tried, but tens of thousands at a time, as the bits of whole numbers, after leaving out the
elements another one stands for. A plan of 500 KMEs, all of which split, is checked against all pairs in a fraction
of a second. No solver, no library.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

from qkdrelay.errors import InvalidPlanError
from qkdrelay.network.threshold_circuit import Circuit

SETS_AT_ONCE_MAX = 1 << 17
STEPS_MAX = 1 << 25
"""Bound on the work of one check: a step is an edge of the circuit for up to 8,192 sets. Some seconds in all."""


def any_of_size(circuit: Circuit, size: int, steps_max: int = STEPS_MAX) -> bool:
    """Whether a set of at most ``size`` elements makes the circuit true.

    Raises InvalidPlanError, having done nothing, if the check would exceed its bound on work.
    """
    small = circuit.without_dominated()
    n = len(small.elements)
    size = min(size, n)
    if size <= 0:
        return size == 0 and small.holds(())
    inner = next(t for t in range(size, 0, -1) if t == 1 or comb(n, t) <= SETS_AT_ONCE_MAX)
    edges = sum(1 + len(gate.children) for gate in small.gates)
    steps = edges * (comb(n, size - inner) + (comb(n, size) >> 13))
    if steps > steps_max:
        raise InvalidPlanError(
            f"the {comb(n, size)} coalitions of {size} KMEs are more than a KME checks a plan against",
            hint=f"use a plan with fewer KMEs that split, or demand less than {size}",
        )
    masks = _masks(n, inner)
    for base in combinations(range(n), size - inner):
        # The subsets of the first m elements come first in the numbering, so a prefix of the bits has just these.
        full = (1 << comb(base[0] if base else n, inner)) - 1
        chosen = [full if i in base else mask & full for i, mask in enumerate(masks)]
        if full and small.evaluate(chosen, full):
            return True
    return False


def _masks(n: int, size: int) -> list[int]:
    """Return for each of ``n`` elements the subsets of ``size`` that have it: bit b stands for subset number b.

    They are numbered as in Knuth, TAOCP 7.2.1.3 (combinatorial number system): those without the last element first.
    """
    ranks: list[list[int]] = [[] for _ in range(n)]
    for subset in combinations(range(n), size):
        rank = sum(comb(element, number) for number, element in enumerate(subset, 1))
        for element in subset:
            ranks[element].append(rank)
    return [_ones(places, comb(n, size)) for places in ranks]


def _ones(places: list[int], length: int) -> int:
    octets = bytearray(length // 8 + 1)
    for place in places:
        octets[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(octets, "little")
