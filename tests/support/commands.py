"""The commands of both command lines, found by looking at them: what is added later is there by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

import kme.__main__
import qkdrelay_cli

APPS = {"coordinator": qkdrelay_cli.app, "kme": kme.__main__.app}


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command and group with the words that call it."""
    for name, app in APPS.items():
        yield from _below(get_command(app), (name,))


def leaves() -> list[str]:
    """Return the words of each command that is no group."""
    return [" ".join(words) for words, command in commands() if not hasattr(command, "commands")]


def _below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _below(below, (*words, name))
