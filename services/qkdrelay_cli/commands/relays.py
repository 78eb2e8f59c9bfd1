"""`coordinator relays`, `show` and `trace`: what became of earlier relays."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qkdrelay.messages.limits import RELAYS_SHOWN_MAX
from qkdrelay.terminal import console, note, print_json
from qkdrelay.terminal.wording import JsonOption
from qkdrelay_cli.arguments import check_name

if TYPE_CHECKING:
    from qkdrelay.messages.answers import RelayView


RelayArgument = Annotated[
    str, typer.Argument(metavar="RELAY", help="The relay's id, or its first hexadecimal digits, 4 or more.")
]


def relays(
    *,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=RELAYS_SHOWN_MAX, help="At most so many.")] = 20,
    supply: Annotated[
        bool, typer.Option("--supply", help="Those of supply, too, which keys for applications are cut from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the latest relays, newest first.

    Example: coordinator relays --limit 5
    """
    from rich.table import Table
    from rich.text import Text

    from qkdrelay.as_data.relays import summary_as_data
    from qkdrelay.messages.answers import RelaysView
    from qkdrelay.messages.requests import RelaysRequest
    from qkdrelay.terminal.wording import duration, moment
    from qkdrelay_cli import session
    from qkdrelay_cli.render.outcome import STYLES

    view = session.ask(RelaysRequest(limit=limit, supply=supply), RelaysView)
    if as_json:
        print_json({"total": view.total, "relays": [summary_as_data(relay) for relay in view.relays]})
        return
    if not view.relays:
        note("no relays yet; `coordinator relay SOURCE TARGET` makes one")
        return
    table = Table("relay", "asked", "state", "from", "to", "keys", "took", box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    for relay in view.relays:
        keys = f"{relay.key_count} x {relay.key_size_bits}{' supply' if relay.supply else ''}"
        took = duration(relay.elapsed_s)
        state = Text(relay.state, STYLES.get(relay.state, ""))
        number, asked = str(relay.relay_id)[:8], moment(relay.created_at)
        table.add_row(number, asked, state, relay.source, relay.target, keys, took)
    console().print(table)
    # Not in the table, where a narrow window leaves them a few characters a line.
    for relay in view.relays:
        if relay.reason:
            console().print(f"{str(relay.relay_id)[:8]}: {relay.reason}", markup=False, highlight=False)
    if view.total > len(view.relays):
        note(f"{len(view.relays)} of {view.total}; --limit shows more")


def show(relay: RelayArgument, *, as_json: JsonOption = False) -> None:
    """Show one relay: how it ended, what was missing or false.

    Example: coordinator show 3f2a
    """
    from qkdrelay.as_data.relays import relay_as_data
    from qkdrelay_cli.render.outcome import print_outcome

    view = _ask(relay)
    if as_json:
        print_json(relay_as_data(view))
    else:
        print_outcome(view, console())


def trace(relay: RelayArgument, *, as_json: JsonOption = False) -> None:
    """Show the flow of one relay's shares as a tree.

    It tells who split, who forwarded, what arrived, what did not, and why.

    Example: coordinator trace 3f2a
    """
    from qkdrelay.as_data.relays import tree_as_data
    from qkdrelay_cli.render.tree import as_tree

    view = _ask(relay)
    if as_json:
        print_json(tree_as_data(view))
    else:
        console().print(as_tree(view))


def _ask(relay: str) -> RelayView:
    from qkdrelay.messages.answers import RelayView
    from qkdrelay.messages.requests import ShowRequest
    from qkdrelay_cli import session

    return session.ask(ShowRequest(relay=check_name(relay), follow=False), RelayView)
