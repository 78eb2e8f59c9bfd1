"""The outcome of a relay in one case: these KMEs compromised, those failed, these links cut; and why."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from qkdrelay.network.names import Link
from qkdrelay.network.plan import Plan


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A KME whose payload the target cannot rebuild: the successors whose share arrives, and how many it takes."""

    kme: str
    present: tuple[str, ...]
    missing: tuple[str, ...]
    needed: int


@dataclass(frozen=True, slots=True)
class Held:
    """A KME whose payload the coalition holds: it is a member, or enough of its successors' shares are held."""

    kme: str
    member: bool
    shares: tuple[str, ...]
    needed: int


@dataclass(frozen=True, slots=True)
class Case:
    """The outcome, and why: the KMEs that fall short and what the coalition holds, those nearer the source first."""

    delivered: bool
    learned: bool
    short: tuple[Shortfall, ...]
    held: tuple[Held, ...]


def case(
    plan: Plan, compromised: Collection[str] = (), failed: Collection[str] = (), cut: Collection[Link] = ()
) -> Case:
    """Return what becomes of a relay over ``plan``.

    Links are cut in both directions. What is learned is the worst case: a failed KME or a cut link may have let
    the shares pass before.
    """
    held = _held(plan, compromised)
    short = _short(plan, failed, cut)
    learned = any(holding.kme == plan.source for holding in held)
    ends_failed = bool({plan.source, plan.target} & set(failed))
    delivered = not ends_failed and all(shortfall.kme != plan.source for shortfall in short)
    return Case(delivered, learned, short, held)


def _held(plan: Plan, coalition: Collection[str]) -> tuple[Held, ...]:
    there: dict[str, Held] = {}
    for kme in reversed(plan.order):
        shares = tuple(s for s in plan.successors(kme) if s in there)
        needed = plan.threshold(kme) if kme != plan.target else 1
        if kme in coalition or len(shares) >= needed:
            there[kme] = Held(kme, kme in coalition, shares, needed)
    return tuple(reversed(there.values()))


def _short(plan: Plan, failed: Collection[str], cut: Collection[Link]) -> tuple[Shortfall, ...]:
    broken = {frozenset(link) for link in cut}
    lost = {plan.target} & set(failed)
    short = []
    for kme in reversed(plan.order[:-1]):
        missing = tuple(s for s in plan.successors(kme) if s in lost or frozenset((kme, s)) in broken)
        present = tuple(s for s in plan.successors(kme) if s not in missing)
        if len(present) < plan.threshold(kme):
            short.append(Shortfall(kme, present, missing, plan.threshold(kme)))
        if len(present) < plan.threshold(kme) or kme in failed:
            lost.add(kme)
    return tuple(reversed(short))
