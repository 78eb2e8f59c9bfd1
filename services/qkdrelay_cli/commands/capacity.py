"""`coordinator capacity`: the rate of protected key that a network can give, and what it gives now."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qkdrelay.errors import RequestRefusedError
from qkdrelay.terminal import print_json
from qkdrelay.terminal.wording import JsonOption
from qkdrelay_cli.arguments import network_of
from qkdrelay_cli.options import AnySourceArgument, AnyTargetArgument, TopologyOption
from qkdrelay_cli.picture_files import PictureFiles, PngOption, SvgOption


def capacity(
    source: AnySourceArgument = None,
    target: AnyTargetArgument = None,
    *,
    topology: TopologyOption = None,
    at_once: Annotated[
        int,
        typer.Option("--compromised", metavar="T", min=0, max=3, help="KMEs between that may be compromised at once."),
    ] = 1,
    demand: Annotated[
        Path | None,
        typer.Option(
            "--demand", metavar="FILE", help='What each pair wants, in bit/s: [demand], "kme-1 kme-8" = 200_000.'
        ),
    ] = None,
    next_link: Annotated[
        bool, typer.Option("--next-link", help="What each link that is not there would add, best first.")
    ] = False,
    svg: SvgOption = None,
    png: PngOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how much key a network can deliver, whichever KMEs are compromised, and prove that it can be no more.

    For one pair alone, or for all pairs that are no neighbours at once, each getting the same; or as a file demands.
    Rates are bit/s of delivered key over links that seal with one-time pads; neighbours have their own link besides.

    --svg and --png draw the links by how much of them is used and what more of them would be worth.

    Example: coordinator capacity kme-1 kme-8 --topology eight-kmes
    """
    from qkdrelay.network.capacity import KmePair
    from qkdrelay.network.demand_file import load_demand
    from qkdrelay.network.key_rates import further_links, key_rates, pairs_of
    from qkdrelay_cli.render.capacity import as_data, drawn, print_further, print_rates

    pictures = PictureFiles(svg, png)
    network = network_of(topology)
    if (source is None) != (target is None) or (source is not None and demand is not None):
        raise RequestRefusedError("name two KMEs, or a file of demands, or nothing for all pairs")
    if source is not None and target is not None:
        network.require(source)
        if network.require(target) == source:
            raise RequestRefusedError(f"source and target are both {source}", hint="name two different KMEs")
        pairs = [KmePair(source, target)]
    else:
        pairs = pairs_of(network) if demand is None else load_demand(demand, network)
    if not pairs:
        raise RequestRefusedError("all KMEs are neighbours: each pair has a link of its own")
    further = further_links(network, pairs, at_once) if next_link else None
    found = key_rates(network, pairs, at_once)
    if pictures:
        pictures.write(drawn(network, found, has_demand=demand is not None))
    if as_json:
        print_json(as_data(network, found, further, has_demand=demand is not None))
        return
    print_rates(network, found, has_demand=demand is not None)
    if further is not None:
        print_further(found, further, has_demand=demand is not None)
