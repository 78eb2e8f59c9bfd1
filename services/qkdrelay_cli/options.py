"""What the commands that plan take alike: the network, the policy, and what is to be withstood."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qkdrelay.errors import RequestRefusedError
from qkdrelay.network.demand import Demand, Policy
from qkdrelay_cli import completion

if TYPE_CHECKING:
    from qkdrelay.network.names import Link
    from qkdrelay.network.topology import Topology

_SOURCE = typer.Argument(
    help="KME the keys start at, such as kme-1.", show_default=False, autocompletion=completion.KME
)
_TARGET = typer.Argument(help="KME that is to have them, too.", show_default=False, autocompletion=completion.KME)
SourceArgument = Annotated[str, _SOURCE]
TargetArgument = Annotated[str, _TARGET]
AnySourceArgument = Annotated[str | None, _SOURCE]
AnyTargetArgument = Annotated[str | None, _TARGET]
PolicyOption = Annotated[Policy | None, typer.Option("--policy", help="Take a plan of this kind only.")]
_DEMAND = "compromised=1,failed=1,tampering=0"
WithstandOption = Annotated[
    list[str] | None,
    typer.Option(
        "--withstand",
        metavar=_DEMAND,
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
_PART = re.compile(r"(compromised|failed|tampering)=([0-9]{1,3})")


def parsed_demand(parts: list[str] | None) -> Demand:
    """Return what is to be withstood; what is not named stays as by default. Raises RequestRefusedError."""
    numbers: dict[str, int] = {}
    for part in parts or ():
        found = _PART.fullmatch(part)
        if found is None or found[1] in numbers:
            wrong = f"--withstand {part!r} cannot be read" if found is None else f"--withstand names {found[1]!r} twice"
            raise RequestRefusedError(wrong, hint=f"such as --withstand {_DEMAND}")
        numbers[found[1]] = int(found[2])
    return Demand(**numbers)


def network_of(which: Path | None) -> Topology:
    """Return the network of a file or name; without one, the network that the running coordinator knows."""
    from qkdrelay.network.topology import LinkNote, Topology
    from qkdrelay.network.topology_file import load_topology

    if which is not None:
        return load_topology(which)

    from qkdrelay.errors import BrokerUnreachableError, QkdRelayError, SettingsError
    from qkdrelay.messages.answers import NetworkView
    from qkdrelay.messages.requests import NetworkRequest
    from qkdrelay_cli import session

    try:
        view = session.ask(NetworkRequest(), NetworkView)
    except (BrokerUnreachableError, SettingsError) as error:
        hint = f"{error.hint}; or name a topology file (--topology)" if error.hint else "--topology takes a file"
        kind: type[QkdRelayError] = type(error)
        raise kind(str(error), hint=hint) from None
    return Topology(
        view.name,
        tuple(kme.name for kme in view.kmes),
        view.links,
        {(link.a, link.b): LinkNote(link.suite, link.rate_bps, link.buffer_bytes) for link in view.noted},
        {kme.name: kme.trust for kme in view.kmes if kme.trust},
    )


def named_kmes(names: list[str] | None, network: Topology) -> tuple[str, ...]:
    """Return each KME once; raise TopologyError for one that is not there."""
    return tuple(dict.fromkeys(network.require(name) for name in names or ()))


def named_links(names: list[str] | None, network: Topology) -> tuple[Link, ...]:
    """Return each link, written D:E, once; raise RequestRefusedError or TopologyError for what is none."""
    links: dict[Link, None] = {}
    for part in names or ():
        ends = part.split(":")
        if len(ends) != 2:
            raise RequestRefusedError(f"{part!r} is no link", hint="such as --cut kme-6:kme-8")
        links[network.link(*ends)] = None
    return tuple(links)
