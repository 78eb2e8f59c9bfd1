"""`coordinator plan`: the plans there are for a relay, what each withstands, and which one to take."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qkdrelay.errors import RequestRefusedError
from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.network.names import link_name, route_name
from qkdrelay.terminal import console, print_json
from qkdrelay.terminal.wording import JsonOption
from qkdrelay_cli.options import (
    AllowUnprotectedOption,
    CompromisedOption,
    CutOption,
    PolicyOption,
    SourceArgument,
    TargetArgument,
    TopologyOption,
    WithstandOption,
    named_kmes,
    named_links,
    network_of,
    parsed_demand,
)
from qkdrelay_pictures.files import PictureFiles, PngOption, SvgOption

if TYPE_CHECKING:
    from rich.table import Table

    from qkdrelay.network.candidates import Candidate
    from qkdrelay.network.plan import Plan

_WIDTH = 80
_LEGEND = (
    "In the worst case. Compromised and failed KMEs are withstood at the same time; a",
    "tampering one counts as one of each.",
)


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
    from qkdrelay.messages.keys import check_key_amount
    from qkdrelay.network.selection import choose, plans

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
        print_json(
            {"source": source, "target": target, "plans": [candidates_as_data(candidate) for candidate in found]}
        )
    elif found:
        more = ", and failed=1 if the network allows it" if demand.failed is None else ""
        _show(found, f"{source} to {target} in {escaped(network.name, NAME_MAX)}", f"to withstand {demand}{more}")
    if refusal is not None:
        raise refusal


def candidates_as_data(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate for programs; links are written a>b, link key is in bytes."""
    hops = candidate.plan.hops
    have = candidate.resilience
    return {
        "policy": candidate.policy,
        "withstands": {
            "compromised": have.compromised,
            "failed": have.failed,
            "failed_links": have.failed_links,
            "tampering": have.tampering,
        },
        "messages": candidate.messages,
        "link_key": {link_name(*link): drawn for link, drawn in candidate.link_key.items()},
        "link_key_batch": {link_name(*link): drawn for link, drawn in candidate.link_key_batch.items()},
        "successors": {kme: list(hops[kme].successors) for kme in candidate.plan.order if kme in hops},
        "thresholds": {kme: hops[kme].threshold for kme in candidate.plan.order if kme in hops},
        "meets_wish": candidate.meets_demand,
        "relies_on": list(candidate.relies_on),
        "chosen": candidate.chosen,
    }


def _show(found: Sequence[Candidate], title: str, demand: str) -> None:
    from rich.text import Text

    screen = console()
    screen.print(Text(title, "bold"), soft_wrap=True)
    screen.print(demand, soft_wrap=True)
    screen.print()
    screen.print(_table(found))
    for line in _LEGEND:
        screen.print(Text(line, "dim"), soft_wrap=True)
    shown = next((candidate for candidate in found if candidate.chosen), None)
    if shown is None:
        return
    screen.print()
    for line in candidates_in_words(shown.plan):
        screen.print(line, soft_wrap=True)
    if shown.relies_on:
        screen.print(Text(f"It relies on the honesty of {', '.join(shown.relies_on)}.", "yellow"), soft_wrap=True)
    elif not shown.meets_demand:
        screen.print(Text("It does not withstand what was asked for.", "yellow"))


def _table(found: Sequence[Candidate]) -> Table:
    from rich.table import Table

    table = Table("", "policy", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in ("compromised", "failed", "links", "tampering", "messages", "link key"):
        table.add_column(name, justify="right")
    for candidate in found:
        have = candidate.resilience
        numbers = (have.compromised, have.failed, have.failed_links, have.tampering, candidate.messages)
        mark, style = ("*", "bold") if candidate.chosen else ("", "" if candidate.meets_demand else "dim")
        drawn = f"{sum(candidate.link_key_batch.values()):,} B"
        table.add_row(mark, candidate.policy, *map(str, numbers), drawn, style=style)
    return table


def candidates_in_words(plan: Plan, width: int = _WIDTH) -> Iterator[str]:
    """Yield what each KME of a plan does with what it receives; KMEs that forward share a line."""
    column = max(map(len, plan.order)) + 2
    for kme in plan.order:
        if plan.is_split(kme) or kme == plan.source:
            ways = [_way(plan, successor) for successor in plan.successors(kme)]
            n = len(ways)
            head = (
                f"{kme.ljust(column)}splits, any {plan.threshold(kme)} of {n}:" if n > 1 else f"{kme.ljust(column)}to"
            )
            text = f"{head} {', '.join(ways)}"
            yield from textwrap.wrap(
                text, width, subsequent_indent=" " * column, break_long_words=False, break_on_hyphens=False
            )


def _way(plan: Plan, kme: str) -> str:
    """Name a successor and those it forwards to, up to the next KME that splits or the target."""
    way = [kme]
    while len(plan.successors(way[-1])) == 1:
        way.append(plan.successors(way[-1])[0])
    return route_name(tuple(way))
