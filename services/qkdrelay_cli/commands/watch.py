"""`coordinator watch`: what the KMEs report, as they report it."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from time import monotonic, time
from typing import TYPE_CHECKING

import typer

from qkdrelay.terminal import Screen, console, lost_output, note, print_json
from qkdrelay.terminal.wording import JsonOption

if TYPE_CHECKING:
    from qkdrelay_cli.render.report_order import Seen

_LOOK_AGAIN_S = 1.0


def watch(*, as_json: JsonOption = False) -> None:
    """Print what the KMEs report, live, until Ctrl-C. It comes from the broker, and is not verified.

    Only the coordinator can tell whether a report is true, and acts on no other: `coordinator show`, `trace` and
    `network` have what it found. What becomes of a relay is shown a moment later, causes above their effects. Hellos,
    and how much supply there is, are left out: `coordinator network` and `supplies` sum them up. With --json each line
    is one JSON object.

    Example: coordinator watch
    """
    from qkdrelay.client import REPORTS, reported
    from qkdrelay.errors import QkdRelayError
    from qkdrelay.messages.assignments import Supplies
    from qkdrelay.messages.reports import Hello
    from qkdrelay_cli import session
    from qkdrelay_cli.render.report_order import Ordered

    ordered = Ordered()
    show = partial(_show, None if as_json else console())
    try:
        with session.connected_client(watch=REPORTS) as connection:
            note("watching what the broker says the KMEs report, unverified; Ctrl-C stops")
            while lost_output() is None:
                message = connection.receive(ordered.wait_s(monotonic(), _LOOK_AGAIN_S))
                if message is not None:
                    try:
                        kme, reports = reported(message[1], message[2])
                        for report in reports:
                            if not isinstance(report, Hello | Supplies):
                                show(ordered.add(kme, report, time(), monotonic()))
                    except QkdRelayError as error:
                        note(f"a message that is no report: {error}")
                show(ordered.due(monotonic()))
    except KeyboardInterrupt:
        show(ordered.due(math.inf))
        raise typer.Exit(0) from None


def _show(screen: Screen | None, reports: Iterable[Seen]) -> None:
    """Print reports for people, or without a screen for programs."""
    from qkdrelay_cli.render.reports import report_as_data, report_in_words

    for seen in reports:
        if screen is None:
            print_json(report_as_data(seen.kme, seen.report, seen.at), indent=None)
        else:
            screen.print(report_in_words(seen.kme, seen.report, seen.at), soft_wrap=True)
