"""`coordinator network`, `supplies` and `link`: the network as it is, and QKD links that stop carrying."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from typing import Annotated

import typer

from qkdrelay.terminal import ActionCommand, app_with, console, print_json, say
from qkdrelay.terminal.wording import JsonOption
from qkdrelay_cli import completion
from qkdrelay_cli.arguments import check_name

link_app = app_with("Make a QKD link stop or resume carrying.")

A = Annotated[str, typer.Argument(metavar="A", help="KME at one end.", autocompletion=completion.KME)]
B = Annotated[str, typer.Argument(metavar="B", help="KME at the other end.", autocompletion=completion.NEIGHBOUR)]


def network(*, as_json: JsonOption = False) -> None:
    """Show the network as it is now.

    Its KMEs, and for each direction of its QKD links: state, key available, shares that wait.

    Example: coordinator network
    """
    from qkdrelay.as_data.network import network_as_data
    from qkdrelay.messages.network_answers import NetworkView
    from qkdrelay.messages.requests import NetworkRequest
    from qkdrelay_cli import session
    from qkdrelay_cli.render.network import network_as_tables

    view = session.ask(NetworkRequest(), NetworkView)
    if as_json:
        print_json(network_as_data(view))
    else:
        console().print(network_as_tables(view))


def supplies(*, as_json: JsonOption = False) -> None:
    """Show what there is of keys for applications, and what is in the way.

    For each pair of KMEs: supply that is stored and coming, how fast it is used, requests that wait. For each pair of
    SAEs: keys at the master's KME by state, since its start, and how fast they are taken.

    Example: coordinator supplies
    """
    from qkdrelay.as_data.supplies import supplies_as_data
    from qkdrelay.messages.answers import SuppliesView
    from qkdrelay.messages.requests import SuppliesRequest
    from qkdrelay_cli import session
    from qkdrelay_cli.render.supplies import supplies_as_tables

    view = session.ask(SuppliesRequest(), SuppliesView)
    if as_json:
        print_json(supplies_as_data(view))
    else:
        console().print(supplies_as_tables(view))


@link_app.command(cls=ActionCommand)
def down(a: A, b: B, *, as_json: JsonOption = False) -> None:
    """Stop the QKD link between two KMEs: shares wait for it.

    Exit status 3 if a KME at its end does not answer; it will obey when it is back.

    Example: coordinator link down kme-7 kme-8
    """
    _turn(a, b, up=False, as_json=as_json)


@link_app.command(cls=ActionCommand)
def up(a: A, b: B, *, as_json: JsonOption = False) -> None:
    """Let the QKD link between two KMEs carry again.

    Exit status 3 if a KME at its end does not answer; it will obey when it is back.

    Example: coordinator link up kme-7 kme-8
    """
    _turn(a, b, up=True, as_json=as_json)


def _turn(a: str, b: str, *, up: bool, as_json: bool) -> None:
    from qkdrelay.client import COMMAND_S
    from qkdrelay.messages.answers import Acknowledged
    from qkdrelay.messages.requests import LinkRequest
    from qkdrelay_cli import session

    request = LinkRequest(a=check_name(a), b=check_name(b), up=up)
    done = session.ask(request, Acknowledged, COMMAND_S)
    if as_json:
        print_json({"link": [a, b], "up": up})
    else:
        say(done.text)
