"""`coordinator demo`: the reference scenario in one process."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from qkdrelay.errors import QkdRelayError, RequestRefusedError
from qkdrelay.terminal import EXIT_FAILED, console, note, print_json, say, say_error


def demo(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was seen as JSON, and nothing else.")] = False,
    logs: Annotated[bool, typer.Option("--logs", help="Show the services' logs, on stderr.")] = False,
    web: Annotated[
        bool, typer.Option("--web", help="Serve a live page of such a network instead, until Ctrl-C.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=65535, help="Port of 127.0.0.1 for the page, 0 for a free one; by default 8080."
        ),
    ] = None,
) -> None:
    """Play the reference scenario in this process: eight KMEs, a broken link, two compromised KMEs, two applications.

    Needs no broker and no settings. The exit code is 0 only if everything claimed was observed.

    With --web the network goes on, in slow motion: relays between any two KMEs, a link cut and mended, keys for the
    applications, to be looked at with a browser.

    Example: coordinator demo --web
    """
    # Imported only here: the other commands, and `--help`, should not wait for the KMEs' code.
    from qkdrelay_demo.scenario import REFERENCE_SCENARIO, play  # noqa: PLC0415
    from qkdrelay_demo.story import tell_story  # noqa: PLC0415

    if web or port is not None:
        if as_json or not web:
            wrong = "--web prints no JSON" if as_json else "--port is for the page"
            raise RequestRefusedError(wrong, hint="leave out --json" if as_json else "with --web")
        _show(port, logs=logs)
        return
    _log_to_stderr(logs)
    try:
        seen = play(REFERENCE_SCENARIO)
    except QkdRelayError as error:
        say_error(error)
        raise typer.Exit(EXIT_FAILED) from None
    if as_json:
        print_json(seen.to_json())
    else:
        tell_story(seen, console())
    for claim in seen.claims:
        if not claim.held:
            note(f"not observed: {claim.text}: {claim.expected}; but: {claim.observed}")
    if not seen.ok:
        raise typer.Exit(EXIT_FAILED)


def _show(port: int | None, *, logs: bool) -> None:
    from qkdrelay.service.process import prepare_process  # noqa: PLC0415
    from qkdrelay_demo.live import show_live  # noqa: PLC0415

    stop = prepare_process()
    _log_to_stderr(logs)
    show_live(port, lambda where: say(f"The network is at {where}   (Ctrl-C ends it)"), stop)


def _log_to_stderr(logs: bool) -> None:
    """Stdout is for the story, or for JSON alone."""
    from qkdrelay.service.logs import set_up_logging  # noqa: PLC0415

    set_up_logging("auto", "info" if logs else "error", sys.stderr)
