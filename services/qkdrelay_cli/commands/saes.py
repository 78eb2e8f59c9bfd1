"""`coordinator saes`: applications that have keys from their KMEs, added and struck off while the network runs."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qkdrelay.network.directory import LEVEL_MAX, STOCK_MAX, WEIGHT_MAX, PairSettings
from qkdrelay.terminal import ActionCommand, app_with, console, note, print_json, say
from qkdrelay.terminal.wording import JsonOption
from qkdrelay_cli import completion
from qkdrelay_cli.commands.provision import note_not_revoked

if TYPE_CHECKING:
    from qkdrelay_deployment.sae_changes import SaeShown

saes_app = app_with("SAEs, the applications that have keys from their KMEs: list, add, strike off; without a restart.")

DeploymentOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the deployment.")]
SaeArgument = Annotated[
    str, typer.Argument(metavar="SAE", help="Its id, such as sae-1.", autocompletion=completion.SAE)
]
_DEFAULT = PairSettings()


@saes_app.command("list")
def list_saes(*, of: DeploymentOption = Path(), as_json: JsonOption = False) -> None:
    """List the SAEs of this deployment.

    With each are its KME, where that serves it, how long its certificate lasts, and what its pairs are to have.

    Example: coordinator saes list
    """
    from rich.table import Table

    from qkdrelay_deployment.sae_changes import saes_of

    saes, only_pairs = saes_of(of)
    if as_json:
        print_json({"saes": [_as_data(sae) for sae in saes], "only_pairs": only_pairs})
        return
    if not saes:
        note("no SAEs; `coordinator saes add` adds one")
        return
    table = Table("sae", "kme", "url", "certificate", box=None, pad_edge=False)
    for sae in saes:
        until = f"until {sae.until:%Y-%m-%d}" if sae.until else "not there: make certs"
        table.add_row(sae.sae_id, sae.kme, sae.url, until)
    console().print(table)
    if any(sae.pairs for sae in saes):
        pairs = Table("master", "slave", "level", "stock", "weight", box=None, pad_edge=False)
        for sae in saes:
            for slave, settings in sae.pairs.items():
                pairs.add_row(sae.sae_id, slave, *(str(value) for value in asdict(settings).values()))
        console().print("", pairs)
    if only_pairs:
        note("only the pairs that are listed get keys")


@saes_app.command(cls=ActionCommand)
def add(
    sae: SaeArgument,
    kme: Annotated[str, typer.Argument(metavar="KME", help="Where it is.", autocompletion=completion.KME)],
    *,
    pair: Annotated[
        list[str] | None,
        typer.Option(metavar="SAE", help="It has these settings with this SAE.", autocompletion=completion.SAES),
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, max=LEVEL_MAX, help=f"Compromised KMEs to withstand ({_DEFAULT.level}).")
    ] = None,
    stock: Annotated[
        int | None, typer.Option(min=0, max=STOCK_MAX, help=f"Keys that are cut ahead ({_DEFAULT.stock}).")
    ] = None,
    weight: Annotated[
        int | None,
        typer.Option(min=1, max=WEIGHT_MAX, help=f"Its share where there is too little ({_DEFAULT.weight})."),
    ] = None,
    to: DeploymentOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Add an SAE, and make its certificate.

    All KMEs and the coordinator read that within seconds; nothing is started anew. With --pair it has settings of its
    own with another SAE, in both directions.

    Example: coordinator saes add sae-5 kme-5 --pair sae-1 --level 2
    """
    from qkdrelay_deployment.sae_changes import add_sae

    given = {"level": level, "stock": stock, "weight": weight}
    settings = {name: value for name, value in given.items() if value is not None}
    shown = add_sae(to, sae, kme, tuple(pair or ()), **settings)
    if as_json:
        print_json(_as_data(shown))
    else:
        say(f"{sae} is at {kme}: {shown.url}", f"its certificate and key are in {shown.folder}")


@saes_app.command(cls=ActionCommand)
def remove(sae: SaeArgument, *, of: DeploymentOption = Path(), as_json: JsonOption = False) -> None:
    """Strike an SAE off, revoke its certificates and destroy its keys.

    All KMEs and the coordinator read that within seconds; nothing is started anew.

    Example: coordinator saes remove sae-5
    """
    from qkdrelay_deployment.sae_changes import remove_sae

    written = remove_sae(of, sae)
    if as_json:
        print_json({"struck_off": sae, "revoked": sae not in written.not_revoked})
    else:
        say(f"{sae} is struck off")
    note_not_revoked(written.not_revoked)


@saes_app.command(cls=ActionCommand)
def renew(sae: SaeArgument, *, of: DeploymentOption = Path(), as_json: JsonOption = False) -> None:
    """Give an SAE a new certificate and key, and revoke those it had.

    That is if somebody else may have its key. It keeps its place and its keys for applications. Certificates that end
    are renewed by `coordinator certs`.

    Example: coordinator saes renew sae-1
    """
    from qkdrelay_deployment.sae_changes import renew_sae

    shown = renew_sae(of, sae)
    if as_json:
        print_json(_as_data(shown))
    else:
        say(f"{sae} has a new certificate and key, in {shown.folder}; those it had are revoked")


def _as_data(sae: SaeShown) -> dict[str, Any]:
    return {
        "sae": sae.sae_id,
        "kme": sae.kme,
        "url": sae.url,
        "folder": sae.folder,
        "certificate_until": sae.until and sae.until.isoformat(),
        "pairs": [{"slave": slave, **asdict(settings)} for slave, settings in sae.pairs.items()],
    }
