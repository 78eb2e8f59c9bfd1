"""A command line: how it is made, how it runs, and where it writes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from rich.console import Console

from qkdrelay.errors import BrokerUnreachableError, QkdRelayError
from qkdrelay.terminal.commands import Command, Group

PIPE_WIDTH = 10_000
F = TypeVar("F", bound=Callable[..., Any])
EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 1, 2, 3


class App(typer.Typer):
    """A command line all of whose commands are read alike (`qkdrelay.terminal.commands`)."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """Return a decorator that makes a function a command."""
        return super().command(name, **{"cls": Command, **options})


def app_with(help_text: str) -> App:
    """Return an empty command line."""
    return App(
        cls=Group,
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
