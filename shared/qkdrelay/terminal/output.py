"""Output of the commands: results to stdout, the rest to stderr.

Whatever is printed goes through `say`, `note`, `print_json` or `console`, which show it escaped: colours and markup are
never taken from a text, and a line is one line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from qkdrelay.escaping import escaped, escaped_json

PIPE_WIDTH = 10_000
"""Columns of a table that is not shown on a terminal."""
RESULT_LINE_MAX = 20_000
"""Characters of a line of a result; the longest key there is takes 10,924."""


class Screen(Console):
    """Shows every text escaped, and as it is: styles are given to a `Text`, never written in it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what a string is shown as."""
        return super().render_str(escaped(text, RESULT_LINE_MAX), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything; whatever is made of others comes here again for each of them, down to the texts."""
        if isinstance(renderable, Text) and (shown := escaped(renderable.plain, None)) != renderable.plain:
            renderable = renderable.copy()
            renderable.plain = shown
        return super().render(renderable, options)


def console() -> Screen:
    """Return stdout: as wide as the terminal; in a pipe as wide as needed, so that no id is wrapped or cut."""
    return Screen(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def say(*lines: object) -> None:
    """Print lines of a result."""
    for line in lines:
        typer.echo(escaped(str(line), RESULT_LINE_MAX))


def note(*lines: object) -> None:
    """Tell the person at the terminal something that is no result, line by line."""
    for line in lines:
        typer.echo(escaped(str(line)), err=True)


def print_json(data: Any, *, indent: int | None = 2) -> None:
    """Print data as JSON: what is escaped in it is still the same to who reads it."""
    readable = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    typer.echo(escaped_json(json.dumps(data, indent=indent, ensure_ascii=not readable)))
