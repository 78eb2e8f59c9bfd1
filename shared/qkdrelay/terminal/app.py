"""A command line: how it is made, and how it runs."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar, cast

import typer

from qkdrelay.errors import BrokerUnreachableError, QkdRelayError
from qkdrelay.terminal.commands import Command, Group
from qkdrelay.terminal.output import note

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


def run_app(app: typer.Typer) -> None:
    """Run a command line; every refusal is one line with a hint, and its exit code. No traceback reaches a user."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding does not have
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        said = io.StringIO()
        cast(Any, error).show(said)  # each that gets here has it
        note(*said.getvalue().rstrip("\n").split("\n"))
        sys.exit(error.exit_code)
    except typer.Abort:
        note("Aborted!")
        sys.exit(EXIT_FAILED)
    except QkdRelayError as error:
        say_error(error)
        sys.exit(EXIT_UNREACHABLE if isinstance(error, BrokerUnreachableError) else EXIT_USAGE)
    except BrokenPipeError:
        sys.exit(EXIT_FAILED)
    except Exception:  # ours to mend; what it tells may have come from outside
        note(*traceback.format_exc().rstrip("\n").split("\n"))
        sys.exit(EXIT_FAILED)


def say_error(error: QkdRelayError) -> None:
    """Print an error and its hint to stderr."""
    note(f"error: {error}")
    if error.hint:
        note(f"hint: {error.hint}")
