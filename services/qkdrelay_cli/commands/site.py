"""`coordinator site`: a site begun by its own operator, whose private keys never leave it."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qkdrelay.terminal import ActionCommand, app_with, note, say
from qkdrelay_cli import completion

site_app = app_with("A site begun by its own operator: keys, certificates, the secrets it shares with other sites.")

Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the site's, or the authority's, folder.")]
Network = Annotated[
    Path,
    typer.Option(
        "--topology",
        metavar="TOPOLOGY",
        help="Topology file, or a name such as nsfnet.",
        autocompletion=completion.TOPOLOGY,
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="Take it though it is old, or replaces what is there.")]


@site_app.command("init", cls=ActionCommand)
def init_site(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The site's, in the topology.")],
    *,
    topology: Network,
    to: Folder = Path(),
) -> None:
    """Make a site's private keys, and the request that its authority signs; at that site.

    Keys that are there are kept. NAME.request is to be sent to the authority; nothing in it is secret.
    Tell the authority's operator the fingerprint that is printed, by another way than the file goes.

    Example: coordinator site init berlin --topology two-cities.toml
    """
    from qkdrelay.network.topology_file import load_topology
    from qkdrelay_deployment.site_requests import begin_site

    done = begin_site(load_topology(topology), name, to)
    say(done.path, f"fingerprint of the keys: {done.fingerprint}")
    note(f"send {done.path} to the network's authority, and tell its operator the fingerprint by another way")


@site_app.command("sign", cls=ActionCommand)
def sign_request(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="What a site has sent.")],
    *,
    topology: Network,
    to: Folder = Path(),
    replace: Replace = False,
) -> None:
    """Certify a site's keys; at the authority, which is begun if there is none.

    Of the request the keys alone are taken; names and hosts are those of the topology. NAME.signed goes
    back to the site: its certificates, those of other sites that are known, and the network as it may see it.
    A site that was certified with other keys before is refused without --replace.

    Example: coordinator site sign berlin.request --topology two-cities.toml
    """
    from qkdrelay.network.topology_file import load_topology
    from qkdrelay_deployment.site_requests import authority_fingerprint, sign_site

    done = sign_site(load_topology(topology), request, to, replace=replace)
    say(done.path, f"fingerprint of the keys: {done.fingerprint}")
    say(f"fingerprint of the authority: {authority_fingerprint(to)}")
    note(f"if site {done.site} reads another fingerprint of its keys, somebody else has asked: delete {done.path},")
    note("and sign what the site sends, with --replace")


@site_app.command("accept", cls=ActionCommand)
def accept_answer(
    signed: Annotated[Path, typer.Argument(metavar="SIGNED", help="What the authority has answered.")],
    *,
    to: Folder = Path(),
    replace: Replace = False,
) -> None:
    """Put what the authority has answered in place; at the site.

    The certificates must be for the keys that are here, of the authority that was accepted before if
    one was, and good now.

    Example: coordinator site accept berlin.signed
    """
    from qkdrelay_deployment.site_answers import accept_signed

    done = accept_signed(signed, to, replace=replace)
    say(f"site {done.site} has its certificates, in {done.path}", f"fingerprint of the authority: {done.fingerprint}")
    note("compare it with what the authority's operator reads")


@site_app.command("offer", cls=ActionCommand)
def offer_to(
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The site that is to have them.")],
    *,
    name: Annotated[str | None, typer.Option("--site", metavar="NAME", help="The site here, if several are.")] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="FILE", help="OTHER's certificate, if it is not known.")
    ] = None,
    to: Folder = Path(),
) -> None:
    """Make the secrets that two sites share, sealed for the other; at the site whose name sorts first.

    Secrets that are there are kept. NAME-to-OTHER.offer can be opened by that site alone.

    Example: coordinator site offer munich
    """
    from qkdrelay_deployment.site_exchange import offer_secrets

    done = offer_secrets(to, other, site=name, certificate=certificate)
    say(done.path)
    note(f"holds, sealed for {done.other}: {', '.join(done.names)}", f"send it to {done.other} within 30 days")


@site_app.command("take", cls=ActionCommand)
def take_from(
    offered: Annotated[Path, typer.Argument(metavar="OFFER", help="What another site has sent.")],
    *,
    to: Folder = Path(),
    replace: Replace = False,
) -> None:
    """Keep the secrets that another site has made for what the two share; at the site they are for.

    A secret that is another than the one here is refused without --replace, as is an old offer.

    Example: coordinator site take berlin-to-munich.offer
    """
    from qkdrelay_deployment.site_exchange import take_offer

    done = take_offer(offered, to, replace=replace)
    how = "has already what" if done.known_already else "has what"
    say(f"{done.path} {how} {done.other} has made: {', '.join(done.names)}")
