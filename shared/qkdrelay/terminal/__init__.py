"""Both command lines: results to stdout, the rest to stderr, one line and a hint for what is wrong."""

from qkdrelay.terminal.app import (
    EXIT_FAILED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    PIPE_WIDTH,
    app_with,
    console,
    run_app,
    say_error,
)

__all__ = ["EXIT_FAILED", "EXIT_UNREACHABLE", "EXIT_USAGE", "PIPE_WIDTH", "app_with", "console", "run_app", "say_error"]
