"""`coordinator analyse`: what becomes of a relay if these KMEs are compromised, those fail and these links are cut."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from typing import Annotated

import typer

from qkdrelay.errors import RequestRefusedError
from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.terminal import console, print_json
from qkdrelay.terminal.wording import JsonOption
from qkdrelay_cli.arguments import named_kmes, named_links, network_of, parsed_demand
from qkdrelay_cli.options import (
    AnySourceArgument,
    AnyTargetArgument,
    CompromisedOption,
    CutOption,
    FailedOption,
    PolicyOption,
    TopologyOption,
    WithstandOption,
)
from qkdrelay_cli.picture_files import PictureFiles, PngOption, SvgOption

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
    from qkdrelay.as_data.analysis import Chances, Situation, analysed, analysis_as_data
    from qkdrelay.network.selection import choose
    from qkdrelay_cli.render.findings import analysis_in_words

    situation = Situation(named_kmes(compromised, network), named_kmes(failed, network), named_links(cut, network))
    chosen = choose(network, source, target, demand, policy, allow_unprotected=True)
    if pictures:
        from qkdrelay_pictures.plan import draw_plan

        pictures.write(draw_plan(network, chosen, situation.compromised, situation.failed, situation.cut))
    found = analysed(
        chosen.plan,
        situation,
        Chances(kme_leak, kme_loss, link_loss),
        limit or (None if as_json else SHOWN),
    )
    if as_json:
        print_json({"source": source, "target": target, "policy": chosen.policy, **analysis_as_data(found)})
        return
    screen = console()
    for line in analysis_in_words(
        found, f"{source} to {target} in {escaped(network.name, NAME_MAX)}, policy {chosen.policy}"
    ):
        screen.print(line, soft_wrap=True)
