"""`coordinator demo`: the reference scenario in one process."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from qkdrelay.errors import QkdRelayError
from qkdrelay.terminal import EXIT_FAILED, console, note, print_json, say_error


def demo(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was seen as JSON, and nothing else.")] = False,
    logs: Annotated[bool, typer.Option("--logs", help="Show the services' logs, on stderr.")] = False,
) -> None:
    """Play the reference scenario in this process: eight KMEs, a broken link, two compromised KMEs, two applications.

    Needs no broker and no settings. The exit code is 0 only if everything claimed was observed.

    Example: coordinator demo --json
    """
    # Imported only here: the other commands, and `--help`, should not wait for the KMEs' code.
    from qkdrelay_demo.scenario import REFERENCE_SCENARIO, play  # noqa: PLC0415
    from qkdrelay_demo.story import tell_story  # noqa: PLC0415

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


def _log_to_stderr(logs: bool) -> None:
    """Stdout is for the story, or for JSON alone."""
    from qkdrelay.service.logs import set_up_logging  # noqa: PLC0415

    set_up_logging("auto", "info" if logs else "error", sys.stderr)
