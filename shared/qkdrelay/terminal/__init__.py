"""Both command lines: results to stdout, the rest to stderr, one line and a hint for what is wrong."""

from qkdrelay.terminal.app import EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE, app_with, run_app, say_error
from qkdrelay.terminal.commands import ActionCommand, StreamCommand
from qkdrelay.terminal.completion import one_of, some_of
from qkdrelay.terminal.output import PIPE_WIDTH, Screen, console, note, print_json, say
from qkdrelay.terminal.streams import lost_output

__all__ = [
    "EXIT_FAILED",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
    "PIPE_WIDTH",
    "ActionCommand",
    "Screen",
    "StreamCommand",
    "app_with",
    "console",
    "lost_output",
    "note",
    "one_of",
    "print_json",
    "run_app",
    "say",
    "say_error",
    "some_of",
]
