"""`coordinator provision` and `coordinator certs`: what a deployment needs, from a topology."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qkdrelay.terminal import note, say
from qkdrelay_cli import completion

TopologyFile = Annotated[
    Path,
    typer.Argument(
        metavar="TOPOLOGY",
        help="Topology file, or a name such as nsfnet.",
        autocompletion=completion.TOPOLOGY,
    ),
]
Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write.")]


def provision(
    topology: TopologyFile,
    *,
    to: Folder = Path(),
    lab: Annotated[bool, typer.Option("--lab", help="Let KMEs be compromised on purpose.")] = False,
    tls: Annotated[bool, typer.Option("--tls", help="TLS to the broker, with certificates made here.")] = False,
    cluster: Annotated[bool, typer.Option("--cluster", help="Three broker nodes instead of one.")] = False,
) -> None:
    """Write what a deployment of a network needs.

    The compose file, the secrets (.env), the broker's configuration, and with --tls a certificate
    for the broker and for each service; prints their paths. Secrets that .env already has are kept,
    and certificates that last another month, so doing it twice changes nothing.

    Example: coordinator provision nsfnet --out .
    """
    from qkdrelay.network.topology_file import load_topology
    from qkdrelay_deployment import provision as deployment

    for path in deployment.write_deployment(load_topology(topology), to, lab=lab, tls=tls, cluster=cluster):
        say(path)


def certs(topology: TopologyFile, *, to: Folder = Path()) -> None:
    """Write the certificates for TLS to the broker (`provision --tls` does it, too).

    An authority, and a certificate for the broker and for each service; prints their paths. Those
    that last another month are kept.

    Example: coordinator certs eight-kmes --out .
    """
    from qkdrelay.broker.rabbitmq.tls import CERTIFICATE
    from qkdrelay.network.topology_file import load_topology
    from qkdrelay_deployment import provision as deployment
    from qkdrelay_deployment.certificates import RENEW_BEFORE, valid_until

    written = deployment.provision_certificates(load_topology(topology), to)
    for path in written:
        say(path)
    end = min(valid_until(path.read_text(encoding="utf-8")) for path in written if path.name == CERTIFICATE)
    when = f"Valid until {end:%Y-%m-%d}; in the last {RENEW_BEFORE.days} days this replaces them."
    note(when)
