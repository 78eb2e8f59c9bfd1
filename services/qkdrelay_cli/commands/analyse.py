"""`coordinator analyse`: what becomes of a relay if these KMEs are compromised, those fail and these links are cut."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qkdrelay.errors import RequestRefusedError
from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.terminal import console, print_json
from qkdrelay.terminal.wording import JsonOption
from qkdrelay_cli.options import (
    AnySourceArgument,
    AnyTargetArgument,
    CompromisedOption,
    CutOption,
    FailedOption,
    PolicyOption,
    TopologyOption,
    WithstandOption,
    named_kmes,
    named_links,
    network_of,
    parsed_demand,
)
from qkdrelay_pictures.files import PictureFiles, PngOption, SvgOption

if TYPE_CHECKING:
    from qkdrelay.network.minimal_sets import MinimalSets
    from qkdrelay.network.names import Link
    from qkdrelay.network.plan import Plan
    from qkdrelay.network.probability import Probability
    from qkdrelay.network.threshold_circuit import Element
    from qkdrelay.network.what_if import Case

SHOWN = 12
"""Sets of each kind that people are shown unless they ask for another number."""


def analyse(
    source: AnySourceArgument = None,
    target: AnyTargetArgument = None,
    *,
    topology: TopologyOption = None,
    policy: PolicyOption = None,
    withstand: WithstandOption = None,
    compromised: CompromisedOption = None,
    failed: FailedOption = None,
    cut: CutOption = None,
    kme_leak: Annotated[
        float | None, typer.Option(metavar="P", min=0.0, max=1.0, help="Probability that a KME is compromised.")
    ] = None,
    kme_loss: Annotated[
        float | None, typer.Option(metavar="P", min=0.0, max=1.0, help="Probability that a KME is down.")
    ] = None,
    link_loss: Annotated[
        float | None, typer.Option(metavar="P", min=0.0, max=1.0, help="Probability that a link does not carry.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=100_000, help=f"Sets of each kind to list; by default {SHOWN}, in JSON 1000."
        ),
    ] = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="What every pair of KMEs withstands, instead of one pair.")
    ] = False,
    svg: SvgOption = None,
    png: PngOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a relay withstands: who could learn the keys, what could block them, how likely that is.

    Exact, for the plan that `coordinator relay` takes with the same options. With KMEs compromised or failed, or links
    cut, it also says what becomes of that very case, and why.

    --svg and --png draw the plan on its network, in that case. For all pairs, they draw the network and what each pair
    withstands.

    Example: coordinator analyse kme-1 kme-8 --failed kme-6 --topology eight-kmes
    """
    pictures = PictureFiles(svg, png)
    demand, network = parsed_demand(withstand), network_of(topology)
    if all_pairs:
        if source or target or compromised or failed or cut or (kme_leak, kme_loss, link_loss) != (None, None, None):
            raise RequestRefusedError("--all-pairs takes no pair and no case", hint="leave out one or the other")
        from qkdrelay_cli.render import pairs

        pairs.print_pairs(network, policy or "best", demand, pictures, as_json=as_json)
        return
    if source is None or target is None:
        raise RequestRefusedError("source and target are missing", hint="name two KMEs, or take --all-pairs")
    from qkdrelay.network.selection import choose

    situation = Situation(named_kmes(compromised, network), named_kmes(failed, network), named_links(cut, network))
    chosen = choose(network, source, target, demand, policy, allow_unprotected=True)
    if pictures:
        from qkdrelay_pictures.plan import draw_plan

        pictures.write(draw_plan(network, chosen, situation.compromised, situation.failed, situation.cut))
    found = look_at(
        chosen.plan,
        situation,
        Chances(kme_leak, kme_loss, link_loss),
        limit or (None if as_json else SHOWN),
    )
    if as_json:
        print_json({"source": source, "target": target, "policy": chosen.policy, **analysis_as_data(found)})
        return
    from qkdrelay_cli.render.findings import analysis_in_words

    screen = console()
    for line in analysis_in_words(
        found, f"{source} to {target} in {escaped(network.name, NAME_MAX)}, policy {chosen.policy}"
    ):
        screen.print(line, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Situation:
    """The case that is asked about."""

    compromised: tuple[str, ...]
    failed: tuple[str, ...]
    cut: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Chances:
    """How likely KMEs and links fall; None: not asked for."""

    kme_leak: float | None
    kme_loss: float | None
    link_loss: float | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that is found about one plan."""

    plan: Plan
    situation: Situation
    case: Case
    learning: MinimalSets[str]
    blocking: MinimalSets[str]
    cuts: MinimalSets[Link]
    leak: Probability | None
    loss: Probability | None


def look_at(plan: Plan, situation: Situation, chances: Chances, limit: int | None) -> Analysis:
    """Return what there is to know about a plan; at most ``limit`` sets of each kind."""
    from qkdrelay.network import minimal_sets, probability
    from qkdrelay.network.what_if import case

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
