"""`coordinator provision`: what a deployment needs, from a topology."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def provision(
    topology: Annotated[
        Path, typer.Argument(metavar="TOPOLOGY", help="Topology file (TOML), or a name such as nsfnet.")
    ],
    *,
    to: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write.")] = Path(),
    lab: Annotated[bool, typer.Option("--lab", help="Let KMEs be compromised on purpose.")] = False,
) -> None:
    """Write what a deployment of a network needs.

    The compose file, the secrets (.env) and the broker's configuration; prints their paths.
    Secrets that .env already has are kept, so doing it twice changes nothing.

    Example: coordinator provision nsfnet --out .
    """
    from coordinator import provision as deployment
    from qkdrelay.network.topology import load_topology

    for path in deployment.provision(load_topology(topology), to, lab=lab):
        typer.echo(str(path))
