"""Arguments as people write them: names, links such as kme-6:kme-8, demands such as compromised=1,failed=1."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qkdrelay.errors import RequestRefusedError
from qkdrelay.network.demand import Demand

if TYPE_CHECKING:
    from qkdrelay.network.names import Link
    from qkdrelay.network.topology import Topology

NAME_LENGTH_MAX: Final = 100
"""Characters of a KME's name or a relay's id."""
DEMANDED: Final = tuple(field.name for field in fields(Demand))
DEMAND_EXAMPLE: Final = str(Demand(failed=1)) + ",tampering=0"
_DEMANDED = re.compile(rf"({'|'.join(DEMANDED)})=([0-9]{{1,3}})")


def check_name(name: str) -> str:
    """Return what was given as a KME's name or a relay's id if it can be sent; whether it exists, the coordinator says.

    Raises RequestRefusedError.
    """
    if not name or len(name) > NAME_LENGTH_MAX or not name.isprintable():
        shown = repr(name if len(name) <= NAME_LENGTH_MAX else name[:20] + "...").encode("ascii", "backslashreplace")
        raise RequestRefusedError(
            f"{shown.decode()} is no name", hint="KMEs have names such as kme-1, relays ids of hexadecimal digits"
        )
    return name


def parsed_demand(parts: list[str] | None) -> Demand:
    """Return what a plan must withstand; what is not named stays as by default. Raises RequestRefusedError."""
    numbers: dict[str, int] = {}
    for part in parts or ():
        found = _DEMANDED.fullmatch(part)
        if found is None or found[1] in numbers:
            wrong = f"--withstand {part!r} cannot be read" if found is None else f"--withstand names {found[1]!r} twice"
            raise RequestRefusedError(wrong, hint=f"such as --withstand {DEMAND_EXAMPLE}")
        numbers[found[1]] = int(found[2])
    return Demand(**numbers)


def named_kmes(names: list[str] | None, network: Topology) -> tuple[str, ...]:
    """Return each KME once; raise TopologyError for one that is not there."""
    return tuple(dict.fromkeys(network.require(name) for name in names or ()))


def named_links(names: list[str] | None, network: Topology) -> tuple[Link, ...]:
    """Return each link once; raise RequestRefusedError or TopologyError for what is none."""
    links: dict[Link, None] = {}
    for part in names or ():
        ends = part.split(_BETWEEN)
        if len(ends) != 2:
            raise RequestRefusedError(f"{part!r} is no link", hint=f"such as --cut {link_argument('kme-6', 'kme-8')}")
        links[network.link(*ends)] = None
    return tuple(links)


_BETWEEN = ":"


def link_argument(a: str, b: str) -> str:
    """Return how a link is written, in either order, as an argument."""
    return f"{a}{_BETWEEN}{b}"


def network_of(which: Path | None) -> Topology:
    """Return the network of a file or name; without one, the network that the running coordinator knows."""
    from qkdrelay.network.topology_file import load_topology

    if which is not None:
        return load_topology(which)

    from qkdrelay.errors import BrokerUnreachableError, QkdRelayError, SettingsError
    from qkdrelay.messages.network_answers import NetworkView
    from qkdrelay.messages.requests import NetworkRequest
    from qkdrelay_cli import session

    try:
        view = session.ask(NetworkRequest(), NetworkView)
    except (BrokerUnreachableError, SettingsError) as error:
        hint = f"{error.hint}; or name a topology file (--topology)" if error.hint else "--topology takes a file"
        kind: type[QkdRelayError] = type(error)
        raise kind(str(error), hint=hint) from None
    return view.topology()
