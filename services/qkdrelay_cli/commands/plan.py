"""`coordinator plan`: the plans there are for a relay, what each withstands, and which one to take."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from qkdrelay.errors import RequestRefusedError
from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.terminal import print_json
from qkdrelay.terminal.wording import JsonOption
from qkdrelay_cli.arguments import named_kmes, named_links, network_of, parsed_demand
from qkdrelay_cli.options import (
    AllowUnprotectedOption,
    CompromisedOption,
    CutOption,
    PolicyOption,
    SourceArgument,
    TargetArgument,
    TopologyOption,
    WithstandOption,
)
from qkdrelay_cli.picture_files import PictureFiles, PngOption, SvgOption


def plan(
    source: SourceArgument,
    target: TargetArgument,
    *,
    topology: TopologyOption = None,
    policy: PolicyOption = None,
    withstand: WithstandOption = None,
    keys: Annotated[int, typer.Option(metavar="N", help="How many keys, for the link key they take.")] = 1,
    key_size: Annotated[int, typer.Option(metavar="BITS", help="Size of each key, a multiple of 8.")] = 256,
    allow_unprotected: AllowUnprotectedOption = False,
    svg: SvgOption = None,
    png: PngOption = None,
    compromised: CompromisedOption = None,
    cut: CutOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the plans for a relay and what each withstands in the worst case; nothing is relayed.

    By default the plan chosen withstands one compromised KME and, if the network allows it, one failed one.

    --svg and --png draw the plan chosen on its network; KMEs given as compromised and links given as cut are drawn as
    such, and what becomes of the relay then.

    Exit status 2 if no plan withstands what is asked for; the plans there are are printed all the same.

    Example: coordinator plan kme-1 kme-8 --topology eight-kmes
    """
    from qkdrelay.as_data.plans import candidate_as_data
    from qkdrelay.messages.keys import check_key_amount
    from qkdrelay.network.selection import choose, plans
    from qkdrelay_cli.render.plans import print_candidates

    check_key_amount(keys, key_size)
    pictures = PictureFiles(svg, png)
    if not pictures and (compromised or cut):
        raise RequestRefusedError(
            "--compromised and --cut are for the drawing",
            hint="name its file (--svg or --png), or use `coordinator analyse`",
        )
    demand, network = parsed_demand(withstand), network_of(topology)
    readers, broken = named_kmes(compromised, network), named_links(cut, network)
    found = plans(network, source, target, demand, policy, key_count=keys, key_size_bits=key_size)
    refusal: RequestRefusedError | None = None
    if not any(candidate.chosen for candidate in found):
        try:
            taken = choose(
                network,
                source,
                target,
                demand,
                policy,
                allow_unprotected=allow_unprotected,
                key_count=keys,
                key_size_bits=key_size,
            )
            found = [replace(candidate, chosen=candidate.policy == taken.policy) for candidate in found]
        except RequestRefusedError as error:
            refusal = error
    chosen = next((candidate for candidate in found if candidate.chosen), None)
    if pictures and chosen is not None:
        from qkdrelay_pictures.plan import draw_plan

        pictures.write(draw_plan(network, chosen, readers, cut=broken))
    if as_json:
        print_json({"source": source, "target": target, "plans": [candidate_as_data(candidate) for candidate in found]})
    elif found:
        more = ", and failed=1 if the network allows it" if demand.failed is None else ""
        print_candidates(
            found, f"{source} to {target} in {escaped(network.name, NAME_MAX)}", f"to withstand {demand}{more}"
        )
    if refusal is not None:
        raise refusal
