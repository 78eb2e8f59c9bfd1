"""The analysis of one plan: what becomes of a relay in one case, and what it takes to learn or block its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qkdrelay.network import minimal_sets, probability
from qkdrelay.network.minimal_sets import MinimalSets
from qkdrelay.network.names import Link
from qkdrelay.network.plan import Plan
from qkdrelay.network.probability import Probability
from qkdrelay.network.threshold_circuit import Element
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


def analysis_as_data(found: Analysis) -> dict[str, Any]:
    """Return an analysis for programs; links are pairs, the order of a pair being that of the plan."""
    kinds: dict[str, MinimalSets[Any]] = {
        "minimal_learning_coalitions": found.learning,
        "minimal_blocking_kmes": found.blocking,
        "minimal_blocking_links": found.cuts,
    }
    return {
        "messages": found.plan.share_messages,
        "compromised": list(found.situation.compromised),
        "failed": list(found.situation.failed),
        "cut": [list(link) for link in found.situation.cut],
        "delivered": found.case.delivered,
        "learned": found.case.learned,
        "short": [
            {"kme": s.kme, "present": list(s.present), "missing": list(s.missing), "needed": s.needed}
            for s in found.case.short
        ],
        "held": [
            {"kme": h.kme, "member": h.member, "shares": list(h.shares), "needed": h.needed} for h in found.case.held
        ],
        **{name: [[_element(e) for e in chosen] for chosen in sets.sets] for name, sets in kinds.items()},
        "smallest": {name: sets.smallest for name, sets in kinds.items()},
        "counts": {
            name: None if sets.counts is None else {str(size): count for size, count in sorted(sets.counts.items())}
            for name, sets in kinds.items()
        },
        "complete": {name: sets.complete for name, sets in kinds.items()},
        "leak_probability": _probability(found.leak),
        "loss_probability": _probability(found.loss),
    }


def _element(element: Element) -> str | list[str]:
    return element if isinstance(element, str) else list(element)


def _probability(found: Probability | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"low": found.low, "high": found.high, "exact": found.exact, "confidence": found.confidence}
