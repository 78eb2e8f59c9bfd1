"""The analysis of one plan: what becomes of a relay in one case, and what it takes to learn or block its keys."""

from __future__ import annotations

from dataclasses import dataclass

from qkdrelay.network import minimal_sets, probability
from qkdrelay.network.minimal_sets import MinimalSets
from qkdrelay.network.names import Link
from qkdrelay.network.plan import Plan
from qkdrelay.network.probability import Probability
from qkdrelay.network.what_if import Case, case


@dataclass(frozen=True, slots=True)
class Situation:
    """The case that is asked about: KMEs compromised, KMEs failed, links cut."""

    compromised: tuple[str, ...]
    failed: tuple[str, ...]
    cut: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Chances:
    """Probabilities, 0 to 1, that a KME is compromised, a KME is down, a link does not carry; None: not asked for."""

    kme_leak: float | None
    kme_loss: float | None
    link_loss: float | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """The analysis of one plan in one situation."""

    plan: Plan
    situation: Situation
    case: Case
    learning: MinimalSets[str]
    blocking: MinimalSets[str]
    cuts: MinimalSets[Link]
    leak: Probability | None
    loss: Probability | None


def analysed(plan: Plan, situation: Situation, chances: Chances, limit: int | None) -> Analysis:
    """Return what there is to know about a plan; at most ``limit`` sets of each kind."""
    most = minimal_sets.SETS_MAX if limit is None else limit
    lossy = chances.kme_loss is not None or chances.link_loss is not None
    return Analysis(
        plan=plan,
        situation=situation,
        case=case(plan, situation.compromised, situation.failed, situation.cut),
        learning=minimal_sets.minimal_learning_coalitions(plan, most),
        blocking=minimal_sets.minimal_blocking_kmes(plan, most),
        cuts=minimal_sets.minimal_blocking_links(plan, most),
        leak=None if chances.kme_leak is None else probability.leak(plan, chances.kme_leak),
        loss=probability.loss(plan, chances.kme_loss or 0.0, chances.link_loss or 0.0) if lossy else None,
    )
