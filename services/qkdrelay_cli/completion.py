"""Completion by the shell: KMEs and links of the network at hand, and names of topologies.

Nobody is asked: the network is that of ``--topology`` on the line, or else of the deployment in this directory.
"""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that the shell does not wait

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from qkdrelay.errors import QkdRelayError
from qkdrelay.network.names import SAE_ID
from qkdrelay.terminal import one_of, some_of
from qkdrelay_cli.arguments import DEMANDED, link_argument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qkdrelay.network.topology import Topology

DEPLOYED = Path("deploy/topology.toml")
_SAES = Path("deploy/saes.json")
_SAES_BYTES_MAX = 1 << 22
_NUMBERS = range(4)


def _network(ctx: typer.Context) -> Topology | None:
    from qkdrelay.network.topology_file import load_topology

    which = Path(ctx.params.get("topology") or DEPLOYED)
    try:
        # Not from a pipe: nobody may be at its other end.
        return None if which.exists() and not which.is_file() else load_topology(which)
    except (QkdRelayError, OSError):
        return None


def _kmes(ctx: typer.Context) -> Iterable[str]:
    """Return the KMEs of the network at hand, without one that is named as the source."""
    network = _network(ctx)
    return [kme for kme in network.kmes if kme != ctx.params.get("source")] if network else []


def _neighbours(ctx: typer.Context) -> Iterable[str]:
    """Return those with a QKD link to the KME that the line names as A."""
    network = _network(ctx)
    return network.neighbours.get(ctx.params.get("a") or "", ()) if network else ()


def _links(ctx: typer.Context) -> Iterable[str]:
    """Return the QKD links, each both ways."""
    network = _network(ctx)
    return [link_argument(kme, near) for kme in network.kmes for near in network.neighbours[kme]] if network else []


def _demands(_ctx: typer.Context) -> Iterable[str]:
    """Return what may be withstood, in small numbers."""
    return [f"{what}={number}" for what in DEMANDED for number in _NUMBERS]


def _topologies(_ctx: typer.Context) -> Iterable[str]:
    """Return the topologies that come with this package, and the files for one in this directory."""
    from qkdrelay.network.topology_file import shipped_names

    return [*shipped_names(), *sorted(file.name for file in Path().glob("*.toml") if file.name.isprintable())]


def _saes(_ctx: typer.Context) -> Iterable[str]:
    """Return the SAEs of the deployment in this directory."""
    import json

    try:
        readable = _SAES.is_file() and _SAES.stat().st_size <= _SAES_BYTES_MAX
        said = json.loads(_SAES.read_text(encoding="utf-8")) if readable else {}
    except (OSError, ValueError, RecursionError):
        return []
    return [sae for sae in said if SAE_ID.fullmatch(sae)] if isinstance(said, dict) else []


KME, NEIGHBOUR, TOPOLOGY, SAE = map(one_of, (_kmes, _neighbours, _topologies, _saes))
KMES, LINKS, DEMAND, SAES = map(some_of, (_kmes, _links, _demands, _saes))
