"""The probability that a secret leaks, or is lost, when KMEs and links fall independently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from qkdrelay.errors import RequestRefusedError
from qkdrelay.network.bdd import Diagram, TooLargeError
from qkdrelay.network.names import Link
from qkdrelay.network.plan import Plan
from qkdrelay.network.threshold_circuit import Circuit, Element, Gate, blocking, learning

SAMPLES = 1 << 18
CONFIDENCE = 0.999
_PRECISION_BITS = 32
_SAMPLES_AT_ONCE = 1 << 16

Chances = float | Mapping[str, float]
"""One probability for every KME between the ends, or one by name; who is not named has 0."""
LinkChances = float | Mapping[Link, float]
"""One probability for every link, or one by its ends, in either order; a link that is not named has 0."""


@dataclass(frozen=True, slots=True)
class Probability:
    """A probability, exact (``low == high``, up to rounding) or in an interval.

    If not ``exact``, the true value lies from ``low`` to ``high`` with ``confidence`` (Clopper and Pearson, Biometrika
    1934, over independent samples).
    """

    low: float
    high: float
    exact: bool
    confidence: float = 1.0


def leak(plan: Plan, compromised: Chances, *, samples: int = SAMPLES) -> Probability:
    """Return the probability that the compromised KMEs learn the secret. The two ends know it and do not count."""
    circuit = learning(plan)
    return _probability(circuit, {kme: _of_kme(compromised, kme) for kme in plan.order}, samples)


def loss(plan: Plan, failed: Chances = 0.0, cut: LinkChances = 0.0, *, samples: int = SAMPLES) -> Probability:
    """Return the probability that failed KMEs and cut links block the secret. The two ends do not fail."""
    of: dict[Element, float] = {kme: _of_kme(failed, kme) for kme in plan.order}
    of |= {link: _of_link(cut, link) for link in plan.links}
    return _probability(blocking(plan, links=True), of, samples)


def _of_kme(chances: Chances, kme: str) -> float:
    return chances.get(kme, 0.0) if isinstance(chances, Mapping) else chances


def _of_link(chances: LinkChances, link: Link) -> float:
    if isinstance(chances, Mapping):
        return chances.get(link, chances.get((link[1], link[0]), 0.0))
    return chances


def _probability(circuit: Circuit, of: Mapping[Element, float] | Mapping[str, float], samples: int) -> Probability:
    chances = [dict(of)[element] for element in circuit.elements]  # type: ignore[index]
    for element, chance in zip(circuit.elements, chances, strict=True):
        if not 0.0 <= chance <= 1.0:
            raise RequestRefusedError(f"the probability of {element} is {chance}", hint="it must be from 0 to 1")
    circuit, chances = _folded(circuit, chances)
    try:
        exact = Diagram(circuit).probability(chances)
    except TooLargeError:
        return _sampled(circuit, chances, samples)
    return Probability(exact, exact, exact=True)


def _folded(circuit: Circuit, chances: Sequence[float]) -> tuple[Circuit, list[float]]:
    """Put one element in the place of every gate whose inputs are independent of all else, with its probability.

    What is left needs a diagram: gates with inputs that meet again. Of disjoint paths, nothing is.
    """
    uses = Counter(child for gate in circuit.gates for child in gate.children)
    known: list[float | None] = []
    for gate in circuit.gates:
        below = [known[c] for c in gate.children]
        alone = all(uses[c] == 1 or known[c] in (0.0, 1.0) for c in gate.children)
        inputs = [chance for chance in below if chance is not None]
        own = 0.0 if gate.own is None else chances[gate.own]
        free = alone and len(inputs) == len(below)
        known.append(own + (1 - own) * _at_least(gate.threshold, inputs) if free else None)
    gates: list[Gate] = []
    left: list[float] = []
    for gate, chance in zip(circuit.gates, known, strict=True):
        own = chance if chance is not None else 0.0 if gate.own is None else chances[gate.own]
        gates.append(Gate(len(left), 1, ()) if chance is not None else Gate(len(left), gate.threshold, gate.children))
        left.append(own)
    return _needed(gates, left)


def _needed(gates: Sequence[Gate], chances: Sequence[float]) -> tuple[Circuit, list[float]]:
    """Return the circuit of the gates below the last one, and of the elements that may be chosen, source first."""
    reached = [False] * len(gates)
    reached[-1] = True
    for i in reversed(range(len(gates))):
        for child in gates[i].children:
            reached[child] = reached[child] or reached[i]
    kept = [i for i in range(len(gates)) if reached[i]]
    chosen = [i for i in reversed(kept) if chances[i] > 0]
    element = {i: place for place, i in enumerate(chosen)}
    gate = {i: place for place, i in enumerate(kept)}
    short = tuple(Gate(element.get(i), gates[i].threshold, tuple(gate[c] for c in gates[i].children)) for i in kept)
    return Circuit(tuple(str(i) for i in chosen), short), [chances[i] for i in chosen]


def _at_least(threshold: int, chances: Sequence[float]) -> float:
    """Return the probability that at least ``threshold`` of independent events happen."""
    if threshold > len(chances):
        return 0.0
    exactly = [1.0] + [0.0] * threshold  # the last one counts that many or more
    for chance in chances:
        exactly[-1] += exactly[-2] * chance
        for count in range(threshold - 1, -1, -1):
            exactly[count] = exactly[count] * (1 - chance) + (exactly[count - 1] * chance if count else 0.0)
    return exactly[-1]


def _sampled(circuit: Circuit, chances: Sequence[float], samples: int) -> Probability:
    from scipy.special import betaincinv  # noqa: PLC0415 - a KME, which imports this package, has no scipy

    random = Random(0)  # noqa: S311 - samples, not secrets; the same question has the same answer
    hits, full = 0, (1 << _SAMPLES_AT_ONCE) - 1
    rounds = -(-samples // _SAMPLES_AT_ONCE)
    for _ in range(rounds):
        hits += circuit.evaluate([_coins(chance, random) for chance in chances], full).bit_count()
    total, tail = rounds * _SAMPLES_AT_ONCE, (1 - CONFIDENCE) / 2
    low = float(betaincinv(hits, total - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, total - hits, 1 - tail)) if hits < total else 1.0
    return Probability(low, high, exact=False, confidence=CONFIDENCE)


def _coins(chance: float, random: Random) -> int:
    """Return as many bits as samples at once, each one with probability ``chance``, to 2^-32."""
    digits = round(chance * (1 << _PRECISION_BITS))
    if digits == 1 << _PRECISION_BITS:
        return (1 << _SAMPLES_AT_ONCE) - 1
    coins = 0
    for place in range(_PRECISION_BITS):  # from the last binary digit: each halves, and a one adds a half
        toss = random.getrandbits(_SAMPLES_AT_ONCE)
        coins = coins | toss if digits >> place & 1 else coins & toss
    return coins
