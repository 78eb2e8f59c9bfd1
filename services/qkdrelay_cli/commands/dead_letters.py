"""`coordinator dead-letters`: messages that nobody accepted, and why."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qkdrelay.errors import RequestRefusedError
from qkdrelay.messages.limits import LETTERS_SHOWN_MAX, NUMBER_MAX, REQUEUED_MAX
from qkdrelay.terminal import ActionCommand, app_with, console, note, print_json, say
from qkdrelay.terminal.wording import JsonOption

dead_letters_app = app_with("Messages that nobody accepted: look at them, put them back, delete them.")

LetterArgument = Annotated[int, typer.Argument(metavar="LETTER", help="Its number in the list.")]
LettersArgument = Annotated[
    list[int] | None, typer.Argument(metavar="LETTER", help="Numbers in the list.", show_default=False)
]


@dead_letters_app.command("list")
def list_letters(
    *,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=LETTERS_SHOWN_MAX, help="At most so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the latest dead letters, newest first.

    Example: coordinator dead-letters list --limit 5
    """
    from rich.table import Table

    from qkdrelay.messages.answers import DeadLettersView
    from qkdrelay.messages.requests import DeadLettersRequest
    from qkdrelay.terminal.wording import duration
    from qkdrelay_cli import session
    from qkdrelay_cli.render.dead_letters import dead_letter_summary_as_data, size

    view = session.ask(DeadLettersRequest(limit=limit), DeadLettersView)
    if as_json:
        print_json(
            {"total": view.total, "dead_letters": [dead_letter_summary_as_data(letter) for letter in view.letters]}
        )
        return
    if not view.letters:
        note("no dead letters")
        return
    table = Table("letter", "age", "from queue", "bytes", "reason", box=None, pad_edge=False)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for letter in view.letters:
        table.add_row(str(letter.letter), duration(letter.age_s), letter.queue, size(letter), letter.reason)
    console().print(table)
    if view.total > len(view.letters):
        note(f"{len(view.letters)} of {view.total}; --limit shows more")


@dead_letters_app.command("show")
def show_letter(
    letter: LetterArgument,
    *,
    raw: Annotated[Path | None, typer.Option(metavar="FILE", help="Write its bytes into a file, too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter: who sent it, why it was refused.

    Of the message itself only what it says in clear; what is sealed in it stays sealed. What is in it is not
    verified: whoever could write the queue may have made it up.

    Example: coordinator dead-letters show 17
    """
    from qkdrelay.messages.answers import DeadLetterView
    from qkdrelay.messages.requests import DeadLetterRequest
    from qkdrelay.terminal.wording import write_bytes
    from qkdrelay_cli import session
    from qkdrelay_cli.render.dead_letters import dead_letter_as_data, dead_letter_in_words

    view = session.ask(DeadLetterRequest(letter=checked([letter])[0]), DeadLetterView)
    if raw is not None:
        write_bytes(raw, view.body)
    if as_json:
        print_json(dead_letter_as_data(view))
    else:
        say(*dead_letter_in_words(view))


@dead_letters_app.command(cls=ActionCommand)
def requeue(letters: LettersArgument = None, *, as_json: JsonOption = False) -> None:
    """Put dead letters back into the queues they came from.

    At most 100 at once, all of these or none. Who reads them checks them anew. What was handled before is
    recognized and changes nothing; what is still wrong, or too late by now, comes back as a new dead letter.

    Example: coordinator dead-letters requeue 17 18
    """
    from qkdrelay.messages.answers import Acknowledged
    from qkdrelay.messages.requests import RequeueRequest
    from qkdrelay_cli import session

    chosen = checked(letters)
    if not 1 <= len(chosen) <= REQUEUED_MAX:
        raise RequestRefusedError(f"{len(chosen)} dead letters were named; 1 to {REQUEUED_MAX} can be requeued at once")
    done = session.ask(RequeueRequest(letters=chosen), Acknowledged)
    if as_json:
        print_json({"requeued": list(chosen)})
    else:
        say(done.text)


@dead_letters_app.command(cls=ActionCommand)
def drop(
    letters: LettersArgument = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All there are; asks before it does.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete dead letters for good.

    Example: coordinator dead-letters drop 17 18
    """
    from qkdrelay.messages.answers import Acknowledged
    from qkdrelay.messages.requests import DropRequest
    from qkdrelay_cli import session

    chosen = checked(letters)
    if every == bool(chosen) or len(chosen) > LETTERS_SHOWN_MAX:
        raise RequestRefusedError("which dead letters?", hint=f"name 1 to {LETTERS_SHOWN_MAX}, or --all")
    if every and not yes and not _agreed("drop all dead letters?"):
        raise typer.Exit(1)
    done = session.ask(DropRequest(letters=chosen or None), Acknowledged)
    if as_json:
        print_json({"dropped": "all" if every else list(chosen)})
    else:
        say(done.text)


def _agreed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        raise
    except (OSError, RuntimeError):
        raise RequestRefusedError(f"{question} there is nobody to ask", hint="say --yes") from None


def checked(letters: list[int] | None) -> tuple[int, ...]:
    """Return the numbers that were given, if they can be sent; RequestRefusedError otherwise."""
    for number in letters or ():
        if not 0 <= number <= NUMBER_MAX:
            raise RequestRefusedError(f"there is no dead letter {number}", hint="`coordinator dead-letters list`")
    return tuple(dict.fromkeys(letters or ()))
