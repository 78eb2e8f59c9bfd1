"""A plan read as monotone circuits of thresholds: who learns the secret, and what blocks it.

Protocol, section 9. A KME's place in a plan does not depend on the route a share came by, so one gate per KME
says it all, however many share messages the plan unfolds to. Three questions, one kind of circuit:

- *learning*: the gate of a KME is true if the coalition holds what that KME received: the KME is in it, or
  the threshold k of its n successors' gates are true. The target's shares alone are no part of it.
- *blocking*: the gate of a KME is true if what it sends on cannot be rebuilt: the KME failed, or n-k+1 of its
  n successors' shares are lost. A share is lost with its link or with its receiver's gate. Links are undirected;
  a plan is acyclic, so it uses a link in one direction only and may name it by that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from qkdrelay.network.names import Link
from qkdrelay.network.plan import Plan

Element = str | Link
"""A member of a set: a KME's name, or a link (sender, receiver) of the plan."""


@dataclass(frozen=True, slots=True)
class Gate:
    """True if its own element (an index, if it has one) is chosen or ``threshold`` of ``children`` are true."""

    own: int | None
    threshold: int
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Circuit:
    """Gates, children first; the last one is the output. ``elements`` are what may be chosen."""

    elements: tuple[Element, ...]
    gates: tuple[Gate, ...]

    def holds(self, chosen: Collection[Element]) -> bool:
        """Whether choosing these elements makes the output true."""
        return self.evaluate([int(element in chosen) for element in self.elements], 1) == 1

    def evaluate(self, masks: Sequence[int], full: int) -> int:
        """Evaluate many sets at once: bit b of ``masks[i]`` says that set number b has element i.

        ``full`` has a one for each set. Returns a one for each set that makes the output true.
        """
        values: list[int] = []
        for gate in self.gates:
            own = 0 if gate.own is None else masks[gate.own]
            values.append(own | _at_least(gate.threshold, [values[child] for child in gate.children], full))
        return values[-1]

    def without_dominated(self) -> Circuit:
        """Return the circuit over fewer elements that has the same smallest sets' size.

        An element that only one gate has is not needed if some child's own element makes that gate true by itself:
        any set can take that one instead, and is no larger. So of KMEs that only forward, the last one stands for all.
        """
        alone: list[int | None] = []
        owns: list[int | None] = []
        for gate in self.gates:
            below = next((alone[c] for c in gate.children if alone[c] is not None), None)
            owns.append(gate.own if gate.threshold > 1 or below is None else None)
            alone.append(below if owns[-1] is None and gate.threshold == 1 else owns[-1])
        kept = sorted(own for own in owns if own is not None)
        place: dict[int | None, int] = {element: i for i, element in enumerate(kept)}
        gates = (
            Gate(place.get(own), gate.threshold, gate.children) for own, gate in zip(owns, self.gates, strict=True)
        )
        return Circuit(tuple(self.elements[i] for i in kept), tuple(gates))


def _at_least(threshold: int, masks: Sequence[int], full: int) -> int:
    """Return a one where at least ``threshold`` of ``masks`` have one: add them up, bit by bit, and compare."""
    digits: list[int] = []  # digits[i] has digit i, worth 2^i, of the count at each place
    for mask in masks:
        carry = mask
        for i, digit in enumerate(digits):
            digits[i], carry = digit ^ carry, digit & carry
            if not carry:
                break
        if carry:
            digits.append(carry)
    more, same = 0, full
    for i in reversed(range(max(len(digits), threshold.bit_length()))):
        digit = digits[i] if i < len(digits) else 0
        if threshold >> i & 1:
            same &= digit
        else:
            more |= same & digit
            same &= ~digit
    return more | same


def between(plan: Plan) -> tuple[str, ...]:
    """Return the plan's KMEs but its two ends, each before its successors."""
    return tuple(kme for kme in plan.order if kme not in (plan.source, plan.target))


def learning(plan: Plan, members: Iterable[str] | None = None) -> Circuit:
    """Return the circuit that is true for the coalitions that learn the secret.

    ``members`` are those who may be in one: by default all KMEs between the two ends, who know it anyway.
    """
    allowed = set(between(plan)) if members is None else set(members) & set(between(plan))
    build = _Builder()
    place: dict[str, int] = {}
    for kme in reversed(plan.order):
        successors = plan.successors(kme)
        threshold = 1 if kme == plan.target else plan.threshold(kme)
        own = build.element(kme) if kme in allowed else None
        place[kme] = build.gate(own, threshold, [place[s] for s in successors])
    return build.circuit()


def blocking(plan: Plan, *, kmes: bool = True, links: bool = False) -> Circuit:
    """Return the circuit that is true for the sets of KMEs, links or both that block the secret."""
    build = _Builder()
    place: dict[str, int] = {}
    for kme in reversed(plan.order):
        lost = [build.gate(build.element((kme, s)), 1, [place[s]]) if links else place[s] for s in plan.successors(kme)]
        threshold = 1 if kme == plan.target else len(lost) - plan.threshold(kme) + 1
        own = build.element(kme) if kmes and kme not in (plan.source, plan.target) else None
        place[kme] = build.gate(own, threshold, lost)
    return build.circuit()


class _Builder:
    """Collects gates and elements; the elements end up source first, which keeps decision diagrams small."""

    def __init__(self) -> None:
        self._elements: list[Element] = []
        self._gates: list[Gate] = []

    def element(self, element: Element) -> int:
        self._elements.append(element)
        return len(self._elements) - 1

    def gate(self, own: int | None, threshold: int, children: Iterable[int]) -> int:
        self._gates.append(Gate(own, threshold, tuple(children)))
        return len(self._gates) - 1

    def circuit(self) -> Circuit:
        last = len(self._elements) - 1
        flipped = (Gate(None if g.own is None else last - g.own, g.threshold, g.children) for g in self._gates)
        return Circuit(tuple(reversed(self._elements)), tuple(flipped))
