"""`coordinator provision` and `coordinator certs`: what a deployment needs, from a topology."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qkdrelay.terminal import note, say
from qkdrelay_cli import completion

if TYPE_CHECKING:
    from qkdrelay_deployment.saes import Written

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
    standby: Annotated[bool, typer.Option("--standby", help="A second coordinator, which waits to lead.")] = False,
    sites: Annotated[bool, typer.Option("--sites", help="A bundle with its own broker for each site.")] = False,
    site: Annotated[
        str | None, typer.Option("--site", metavar="NAME", help="One site's bundle, begun by `coordinator site`.")
    ] = None,
) -> None:
    """Write what a deployment of a network needs.

    The compose file, the secrets (.env), the broker's configuration, certificates for the SAEs that
    the topology names and for their KMEs, and with --tls one for the broker and for each service;
    prints their paths. Folders for what QKD devices know KMEs by, where links have such devices,
    and what is still to be put there. Secrets that .env already has are kept, SAEs that were
    added, and certificates that last another month, so doing it twice changes nothing.

    With --sites there is a folder for each of the topology's sites, or each KME where it names none: a
    bundle that starts from there alone, and has nothing of others but what two sites share. The folder
    `authority` is of none of them: keep it apart.

    With --site the bundle of that site is completed, from what `coordinator site` has put into its folder.

    Example: coordinator provision nsfnet --out .

    Example: coordinator provision mine.toml --sites --out bundles
    """
    from qkdrelay.errors import SettingsError
    from qkdrelay.network.topology_file import load_topology
    from qkdrelay_deployment import provision as deployment
    from qkdrelay_deployment.own_site import write_site
    from qkdrelay_deployment.sites import write_sites

    network = load_topology(topology)
    if not sites and site is None:
        _say_written(deployment.write_deployment(network, to, lab=lab, tls=tls, cluster=cluster, standby=standby))
        return
    if sites and site is not None:
        raise SettingsError("--site does not go with --sites", hint="one site's bundle, or those of all")
    if tls or cluster:
        given = "--tls" if tls else "--cluster"
        hint = "sites meet by TLS in any case" if tls else "each site has a broker of its own"
        raise SettingsError(f"{given} does not go with {'--site' if site is not None else '--sites'}", hint=hint)
    if site is not None:
        _say_written(write_site(network, site, to, lab=lab, standby=standby))
        return
    for written in write_sites(network, to, lab=lab, standby=standby).values():
        _say_written(written)


def _say_written(written: Written) -> None:
    for path in written.files:
        say(path)
    if written.struck_off:
        note(f"struck off, as the topology no longer has them or their KMEs: SAEs {', '.join(written.struck_off)}")
    note_not_revoked(written.not_revoked)
    for folder, files in groupby(written.missing, lambda path: path.parent):
        kme, peer = folder.parts[-2:]
        what = ", ".join(file.name for file in files)
        note(f"to be put into {folder}, for the QKD device of {kme} on its link with {peer}: {what}")
    if written.missing:
        note("ca.pem is the authority of the device's certificate; cert.pem and key.pem are what it knows the KME by")


def certs(topology: TopologyFile, *, to: Folder = Path()) -> None:
    """Write the certificates for TLS to the broker, and those of SAEs (`provision` does it, too).

    An authority, and a certificate for the broker and for each service; another authority, and a
    certificate for each SAE and each KME that serves them; prints their paths. Those that last
    another month are kept. KMEs use theirs without being started anew.

    Example: coordinator certs eight-kmes --out .
    """
    from qkdrelay.broker.rabbitmq.tls import CERTIFICATE
    from qkdrelay.network.topology_file import load_topology
    from qkdrelay_deployment import provision as deployment
    from qkdrelay_deployment.certificates import RENEW_BEFORE, valid_until
    from qkdrelay_deployment.sae_changes import provision_sae_certificates

    network = load_topology(topology)
    written = deployment.provision_certificates(network, to)
    of_saes = provision_sae_certificates(network, to)
    written += of_saes.files
    for path in written:
        say(path)
    end = min(valid_until(path.read_text(encoding="utf-8")) for path in written if path.name == CERTIFICATE)
    when = f"Valid until {end:%Y-%m-%d}; in the last {RENEW_BEFORE.days} days this replaces them."
    note(when)
    note_not_revoked(of_saes.not_revoked)


def note_not_revoked(saes: tuple[str, ...]) -> None:
    """Tell of SAEs that were struck off while the authority's key was away."""
    if saes:
        what = "these SAEs are out, but their certificates are not revoked yet, for want of the authority's key"
        note(f"{what}: {', '.join(saes)}; put it back for a moment, and `make certs`")
