"""Both command lines: results to stdout, the rest to stderr, one line and a hint for what is wrong."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from qkdrelay.errors import BrokerUnreachableError, QkdRelayError

PIPE_WIDTH = 10_000
EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 1, 2, 3


def app_with(help_text: str) -> typer.Typer:
    """Return an empty command line."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def console() -> Console:
    """Return stdout: as wide as the terminal; in a pipe as wide as needed, so that no id is wrapped or cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def run_app(app: typer.Typer) -> None:
    """Run a command line; every refusal is one line with a hint, and its exit code. No traceback reaches a user."""
    try:
        app()
    except QkdRelayError as error:
        say_error(error)
        sys.exit(EXIT_UNREACHABLE if isinstance(error, BrokerUnreachableError) else EXIT_USAGE)
    except BrokenPipeError:
        sys.exit(EXIT_FAILED)


def say_error(error: QkdRelayError) -> None:
    """Print an error and its hint to stderr."""
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
