"""The smallest sets of KMEs or links that learn or block a plan's secret, and all the minimal ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar, cast

from qkdrelay.network import solver
from qkdrelay.network.bdd import NODES_MAX, Diagram, TooLargeError
from qkdrelay.network.names import Link
from qkdrelay.network.plan import Plan
from qkdrelay.network.threshold_circuit import Circuit, Element, blocking, learning
from qkdrelay.schemes.recursive import RELAY_SEARCH_MAX, SEARCH_MAX
from qkdrelay.sharing.work import attempt, combining

SETS_MAX = 1_000
"""Minimal sets listed unless another number is asked for."""
SOLVED_MAX = 100
"""Minimal sets the solver is asked for."""
_QUICK_NODES_MAX = 20_000
_SHARE_BYTES = 1 << 10
"""Bytes of the shares that a rebuild's bound on work is reckoned with: 20 keys and more."""

E = TypeVar("E", bound=Element)


@dataclass(frozen=True, slots=True)
class MinimalSets(Generic[E]):
    """Minimal sets, smallest first, each in natural order of its members.

    ``smallest`` is the size of the smallest (None: no set at all does it) and always exact. ``counts`` says how many
    sets of each size there are in all, if that is known. ``complete``: all of them are in ``sets``.
    """

    sets: tuple[tuple[E, ...], ...]
    smallest: int | None
    counts: Mapping[int, int] | None
    complete: bool


@dataclass(frozen=True, slots=True)
class Resilience:
    """Sizes of what a plan withstands in the worst case: no set of that size (or smaller) ...

    ``compromised``: ... of KMEs learns the secret; ``failed``: ... of KMEs, ``failed_links``: ... of links blocks it;
    ``tampering``: ... of KMEs, altering, withholding and conspiring, keeps the target from the secret.
    """

    compromised: int
    failed: int
    failed_links: int
    tampering: int


def resilience(plan: Plan, others: int, trusted: Collection[str] = ()) -> Resilience:
    """Return what ``plan`` withstands, exactly, in a network with ``others`` KMEs besides the two ends.

    Where no set at all does harm, the number is ``others``. ``trusted`` KMEs are taken to be honest, but may fail.

    Tampering. B tampers: its KMEs alter, invent and withhold shares as they like, and know what B receives. The
    target then releases the secret, and only it, for *every* behaviour of B exactly when it rebuilds without B and B
    does not learn (`what_if.case`), up to the chance that the AMD code errs (protocol, section 3). Proof.

    - Enough: write D(v) if v is not in B and k of its successors have D, or v is the target; D(source) says
      that it rebuilds without B. By induction from the target, if D(v), then whatever payload p an honest v got on a
      route, p is among those the target has for that route: k successors with D each got a true share of p, the
      target has those shares among its candidates, and every subset of k candidates is tried. So the secret is found.
    - It stays alone: let p' != p decode at the split of an honest v that got p. If B knows fewer than k of the shares
      that v sent, the AMD code catches it. So B knows k of them; it knows what a successor got only if that is in B,
      or, by induction, B satisfies the circuit at it. So another payload at the source means that B satisfies the
      circuit, that is, learns.
    - The search may be left out or cut short (`agreement`) at the source's split, for there nothing but p decodes; and
      at v if all thresholds from v on are majorities: by induction, then B does not satisfy the circuit at a KME that
      has D, for k of its n successors have D, k would be satisfied, and 2k > n. So nothing but p decodes at v, either.
    - Needed: B may withhold everything, which is to fail; and if B learns, it can compute and re-share another
      secret with a valid code, and the target cannot tell them apart.

    The largest number such that all B of that size are harmless is therefore the smaller of compromised and failed.
    "Every subset is tried" holds within the rebuild's bound on work; a plan whose splits may exceed that bound
    (`rebuild_is_exhaustive`) is said to withstand no tampering.
    """

    def harmless(circuit: Circuit) -> int:
        size = smallest(circuit)
        return others if size is None else size - 1

    compromised = harmless(learning(plan, set(plan.order) - set(trusted)))
    failed = harmless(blocking(plan))
    tampering = min(compromised, failed) if rebuild_is_exhaustive(plan) else 0
    return Resilience(compromised, failed, harmless(blocking(plan, kmes=False, links=True)), tampering)


def rebuild_is_exhaustive(plan: Plan) -> bool:
    """Whether the target's work is enough to try every subset of shares at every split, whatever tamperers send.

    A split of n shares with threshold k, where share i may be one of c_i payloads, has e_k(c_1, ..., c_n) subsets (the
    elementary symmetric polynomial), and hands on no more payloads than that. Each split has an equal part of the
    work, which is reckoned with shares of `_SHARE_BYTES`; where another payload than the true one may decode, each
    subset may give one, and who agrees with it is looked at. All that may have been done before the last share came
    must be left: if there is one split, C(m, k) subsets at m = k, ..., n shares, together C(n+1, k+1).
    """
    splits = {kme: count for kme, count in plan.path_counts.items() if kme == plan.source or plan.is_split(kme)}
    part, work = SEARCH_MAX // sum(splits.values()), 0
    candidates, majority = {plan.target: 1}, {plan.target: True}
    for kme in reversed(plan.order[:-1]):
        successors, threshold = plan.successors(kme), plan.threshold(kme)
        majority[kme] = 2 * threshold > len(successors) and all(majority[s] for s in successors)
        subsets = [1] + [0] * threshold
        for successor in successors:
            for size in range(threshold, 0, -1):
                subsets[size] += subsets[size - 1] * candidates[successor]
        each = attempt(threshold, _SHARE_BYTES)
        if kme != plan.source and not majority[kme]:
            each += combining(threshold, _SHARE_BYTES) * (len(successors) - threshold)
        here = subsets[-1] * each
        if here > part:
            return False
        work += here * splits.get(kme, 0)
        candidates[kme] = subsets[-1] if len(successors) > 1 else candidates[successors[0]]
    shares, needed = len(plan.successors(plan.source)), plan.threshold(plan.source)
    rebuilds = plan.final_shares if len(splits) > 1 else (shares + 1) / (needed + 1)
    return work * rebuilds <= RELAY_SEARCH_MAX


def smallest(circuit: Circuit) -> int | None:
    """Return the size of the smallest set that makes ``circuit`` true, exactly; None if none does."""
    small = circuit.without_dominated()
    costs = [1.0] * len(small.elements)
    try:
        found = Diagram(small, _QUICK_NODES_MAX).cheapest(costs)
    except TooLargeError:
        found = solver.cheapest(small, costs)
    return None if found is None else len(found)


def minimal_learning_coalitions(plan: Plan, limit: int = SETS_MAX) -> MinimalSets[str]:
    """Return the minimal coalitions of KMEs between the ends that learn the secret."""
    return cast(MinimalSets[str], minimal(learning(plan), limit))


def minimal_blocking_kmes(plan: Plan, limit: int = SETS_MAX) -> MinimalSets[str]:
    """Return the minimal sets of KMEs between the ends whose failure blocks the secret."""
    return cast(MinimalSets[str], minimal(blocking(plan), limit))


def minimal_blocking_links(plan: Plan, limit: int = SETS_MAX) -> MinimalSets[Link]:
    """Return the minimal sets of links, each as (sender, receiver) in the plan, whose cut blocks the secret."""
    return cast(MinimalSets[Link], minimal(blocking(plan, kmes=False, links=True), limit))


def minimal(circuit: Circuit, limit: int, nodes_max: int = NODES_MAX) -> MinimalSets[Element]:
    """Return the minimal sets of a circuit, at most ``limit`` of them, smallest first.

    If its diagram has more than ``nodes_max`` nodes, the solver finds them one by one: at most SOLVED_MAX, uncounted.
    """
    try:
        family = Diagram(circuit, nodes_max).minimal_sets()
    except TooLargeError:
        return _solved(circuit, min(limit, SOLVED_MAX))
    counts = family.counts()
    sets = _readable(circuit, islice(family, limit))
    return MinimalSets(sets, min(counts, default=None), counts, len(sets) == sum(counts.values()))


def _solved(circuit: Circuit, limit: int) -> MinimalSets[Element]:
    """Ask the solver for one set after the other, each without any of those before: smallest first, so minimal."""
    costs = [1.0] * len(circuit.elements)
    found: list[tuple[int, ...]] = []
    chosen = first = solver.cheapest(circuit, costs)
    while chosen is not None and len(found) < limit:
        found.append(chosen)
        chosen = solver.cheapest(circuit, costs, found)
    return MinimalSets(_readable(circuit, found), None if first is None else len(first), None, chosen is None)


def _readable(circuit: Circuit, sets: Iterable[tuple[int, ...]]) -> tuple[tuple[Element, ...], ...]:
    named = (tuple(sorted((circuit.elements[i] for i in chosen), key=natural)) for chosen in sets)
    return tuple(sorted(named, key=lambda chosen: (len(chosen), [natural(element) for element in chosen])))


def natural(element: Element) -> list[list[str | int]]:
    """Return a key that sorts kme-10 after kme-9, and links by their ends."""
    names = (element,) if isinstance(element, str) else element
    return [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)] for name in names]
