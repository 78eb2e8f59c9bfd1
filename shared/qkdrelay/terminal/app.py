"""A command line: how it is made, and how it runs."""

from __future__ import annotations

import errno
import io
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import typer

from qkdrelay.errors import QkdRelayError, UnreachableError
from qkdrelay.terminal.commands import Command, Group
from qkdrelay.terminal.completion import is_asked_by_bash, with_whole_words
from qkdrelay.terminal.output import note
from qkdrelay.terminal.refusals import hint_for
from qkdrelay.terminal.streams import lost_output, standard_streams

F = TypeVar("F", bound=Callable[..., Any])
EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 1, 2, 3, 130


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
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run_app(app: typer.Typer) -> None:
    """Run a command line and exit; every refusal is one line with a hint, and its exit status.

    No traceback reaches a user. What cannot be printed changes the status only where printing was all there was to do.
    """
    try:
        with standard_streams():
            run = partial(_run, app)
            status = _after_losses(with_whole_words(run) if is_asked_by_bash() else run())
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    sys.exit(status)


def _run(app: typer.Typer) -> int:
    try:
        return app(standalone_mode=False) or 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else EXIT_FAILED if ended.code else 0
    except typer.TyperException as error:
        said = io.StringIO()
        cast(Any, error).show(said)  # each that gets here has it
        note(*said.getvalue().rstrip("\n").split("\n"))
        return error.exit_code
    except typer.Abort:
        note("Aborted!")
        return EXIT_FAILED
    except QkdRelayError as error:
        say_error(error)
        return EXIT_UNREACHABLE if isinstance(error, UnreachableError) else EXIT_USAGE
    except OSError as error:  # of a file: what comes from a connection is an error of ours
        where = f"{error.filename}: " if error.filename else ""
        note(f"error: {where}{error.strerror or error}")
        return EXIT_USAGE
    except Exception:  # ours to mend; what it tells may have come from outside
        note(*traceback.format_exc().rstrip("\n").split("\n"))
        return EXIT_FAILED


def _after_losses(status: int) -> int:
    """Return the exit status once all is printed, or cannot be; say so then."""
    lost = lost_output()
    if lost is None:
        return status
    error, on_loss = lost
    if on_loss == "end" and error.errno == errno.EPIPE:
        return status
    why = "it is closed" if error.errno == errno.EBADF else error.strerror
    if on_loss == "tell" and status == 0:
        note(f"warning: stdout: cannot be written: {why}; what was asked for is done all the same")
        return status
    note(f"error: stdout: cannot be written: {why}")
    return status or EXIT_FAILED


def say_error(error: QkdRelayError) -> None:
    """Print an error and its hint to stderr."""
    note(f"error: {error}")
    if hint := hint_for(error):
        note(f"hint: {hint}")
