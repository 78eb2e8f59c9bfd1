"""Options and arguments that several commands have: the network, its KMEs and links, the policy, the demand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qkdrelay.network.demand import Policy
from qkdrelay_cli import completion
from qkdrelay_cli.arguments import DEMAND_EXAMPLE

_SOURCE = typer.Argument(
    help="KME the keys start at, such as kme-1.", show_default=False, autocompletion=completion.KME
)
_TARGET = typer.Argument(help="KME that is to have them, too.", show_default=False, autocompletion=completion.KME)
SourceArgument = Annotated[str, _SOURCE]
TargetArgument = Annotated[str, _TARGET]
AnySourceArgument = Annotated[str | None, _SOURCE]
AnyTargetArgument = Annotated[str | None, _TARGET]
PolicyOption = Annotated[Policy | None, typer.Option("--policy", help="Take a plan of this kind only.")]
WithstandOption = Annotated[
    list[str] | None,
    typer.Option(
        "--withstand",
        metavar=DEMAND_EXAMPLE,
        autocompletion=completion.DEMAND,
        help="How many KMEs may be compromised, fail and tamper at once.",
    ),
]
TopologyOption = Annotated[
    Path | None,
    typer.Option(
        "--topology",
        metavar="TOPOLOGY",
        autocompletion=completion.TOPOLOGY,
        help="Topology file, or a name such as nsfnet. Without one: that of the running network.",
    ),
]
AllowUnprotectedOption = Annotated[
    bool,
    typer.Option("--allow-unprotected", help="Take the best plan there is, even if KMEs on the way must be trusted."),
]
CompromisedOption = Annotated[
    list[str] | None, typer.Option(metavar="A,B", help="KMEs that read along.", autocompletion=completion.KMES)
]
FailedOption = Annotated[
    list[str] | None, typer.Option(metavar="A,B", help="KMEs that are down.", autocompletion=completion.KMES)
]
CutOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="D:E,F:G",
        help="Links that do not carry, each written KME:KME.",
        autocompletion=completion.LINKS,
    ),
]
