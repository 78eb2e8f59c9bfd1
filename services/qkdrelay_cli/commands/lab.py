"""`coordinator lab`: KMEs compromised on purpose, and an adversary who uses what they leak."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from typing import Annotated

import typer

from qkdrelay.messages.states import LabMode
from qkdrelay.terminal import ActionCommand, app_with, print_json, say
from qkdrelay.terminal.wording import JsonOption
from qkdrelay_cli import completion
from qkdrelay_cli.arguments import check_name

ATTACK_S = 30.0
"""Rebuilding from many false shares takes a while."""

lab_app = app_with("Compromise KMEs on purpose, and attack (with the lab on).")

KmeArgument = Annotated[
    str, typer.Argument(metavar="KME", help="Its name, such as kme-4.", autocompletion=completion.KME)
]


@lab_app.command(cls=ActionCommand)
def compromise(
    kme: KmeArgument,
    *,
    mode: Annotated[
        LabMode,
        typer.Option(help="Hand shares to the adversary, alter them, or keep them back."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Let a KME behave as if compromised, from the next share on.

    Exit status 3 if the KME does not answer; it will obey when it is back.

    Example: coordinator lab compromise kme-4 --mode leak
    """
    _set(kme, mode, as_json=as_json)


@lab_app.command(cls=ActionCommand)
def restore(kme: KmeArgument, *, as_json: JsonOption = False) -> None:
    """Let a KME be honest again.

    Exit status 3 if the KME does not answer; it will obey when it is back.

    Example: coordinator lab restore kme-4
    """
    _set(kme, None, as_json=as_json)


@lab_app.command()
def attack(
    relay: Annotated[str, typer.Argument(metavar="RELAY", help="The relay's id, or the beginning of it.")],
    *,
    kme: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help="Use only what these KMEs leaked.", autocompletion=completion.KMES),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Try to rebuild a relay's secret from what KMEs leaked.

    The adversary pools all that compromised KMEs have seen, and uses the very code of the
    target. It tells whether that worked; the exit status is 0 in both cases.

    Example: coordinator lab attack 3f2a --kme kme-4,kme-6
    """
    from qkdrelay.as_data.relays import attack_as_data
    from qkdrelay.messages.answers import AttackView
    from qkdrelay.messages.requests import AttackRequest
    from qkdrelay_cli import session
    from qkdrelay_cli.render.attack import attack_in_words

    kmes = tuple(check_name(name) for name in kme or ())
    view = session.ask(AttackRequest(relay=check_name(relay), kmes=kmes), AttackView, ATTACK_S)
    if as_json:
        print_json(attack_as_data(view))
    else:
        say(*attack_in_words(view))


def _set(kme: str, mode: LabMode | None, *, as_json: bool) -> None:
    from qkdrelay.client import COMMAND_S
    from qkdrelay.messages.answers import Acknowledged
    from qkdrelay.messages.requests import LabRequest
    from qkdrelay_cli import session

    request = LabRequest(kme=check_name(kme), mode=mode)
    done = session.ask(request, Acknowledged, COMMAND_S)
    if as_json:
        print_json({"kme": kme, "mode": mode})
    else:
        say(done.text)
