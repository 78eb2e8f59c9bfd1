"""Completion by the shell: lists with commas, and words that bash takes apart."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout

import typer

Completions = Callable[[typer.Context], Iterable[str]]
_BREAKS = ":="
"""Signs at which bash begins another word; it takes what comes after the last of them for the word to complete."""


def one_of(candidates: Completions) -> Callable[[typer.Context, str], list[str]]:
    """Return what completes a value; the shell itself offers files where there is none."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return [word for word in candidates(ctx) if word.startswith(incomplete)]

    return complete


def some_of(candidates: Completions) -> Callable[[typer.Context, str], list[str]]:
    """Return what completes the last item of a list with commas, with what is not yet in it."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = before.split(",")
        return [before + comma + word for word in candidates(ctx) if word.startswith(last) and word not in taken]

    return complete


def is_asked_by_bash() -> bool:
    """Return whether this process is to complete a line of bash."""
    asked = any(name.endswith("_COMPLETE") and value == "complete_bash" for name, value in os.environ.items())
    return asked and "COMP_WORDS" in os.environ and os.environ.get("COMP_CWORD", "").isdigit()


def with_whole_words(run: Callable[[], int]) -> int:
    """Complete a line of bash: ask for the whole word, and answer with the part of it that bash asked for."""
    at = int(os.environ["COMP_CWORD"])
    words = whole_words(os.environ["COMP_WORDS"].split("\n")[: at + 1])
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(words), str(len(words) - 1)
    value = words[-1].partition("=")[2] if words[-1].startswith("-") else words[-1]
    known = value[: max(map(value.rfind, _BREAKS)) + 1]
    with redirect_stdout(io.StringIO()) as told:
        status = run()
    sys.stdout.write("".join(line.removeprefix(known) for line in told.getvalue().splitlines(keepends=True)))
    return status


def whole_words(words: Iterable[str]) -> list[str]:
    """Put together what bash took apart at ``:`` and ``=``."""
    whole: list[str] = []
    is_open = False
    for word in words:
        is_break = word != "" and not word.strip(_BREAKS)
        if len(whole) > 1 and (is_break or is_open):
            whole[-1] += word
        else:
            whole.append(word)
        is_open = is_break
    return whole
