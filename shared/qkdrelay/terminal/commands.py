"""The commands and groups of both command lines: what is given twice, what is a list, what lost output means.

A parameter that takes a list (its type is a list) may be repeated, and each time it may be a list with commas; what the
command gets is one list. Any other option is refused when it is given twice: one of the two would be dropped unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup

from qkdrelay.errors import RequestRefusedError
from qkdrelay.terminal.streams import OnLoss, on_loss


class Command(TyperCommand):
    """A command that shows something: if that cannot be written, it has failed."""

    on_loss: ClassVar[OnLoss] = "fail"

    def make_parser(self, ctx: Any) -> Any:
        """Return the parser of its arguments."""
        return _strict(super().make_parser(ctx), ctx)

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        on_loss(self.on_loss)
        return super().invoke(ctx)


class ActionCommand(Command):
    """A command that does something: what became of it decides the exit status, whether that can be written or not."""

    on_loss = "tell"


class StreamCommand(Command):
    """A command that prints until somebody ends it: whoever reads, for instance."""

    on_loss = "end"


class Group(TyperGroup):
    """A group of commands."""

    def make_parser(self, ctx: Any) -> Any:
        """Return the parser of its own arguments."""
        return _strict(super().make_parser(ctx), ctx)


def _strict(parser: Any, ctx: Any) -> Any:
    """Have a parser look at what it has read."""
    read = parser.parse_args

    def parse_args(args: list[str]) -> tuple[dict[str, Any], list[str], list[Any]]:
        values, rest, given = read(args=args)
        # Not while the shell completes a line, and not where help is asked for.
        if not ctx.resilient_parsing and not any(param.is_eager for param in given):
            _refuse_doubled(given)
            _split_lists(given, values)
        return values, rest, given

    parser.parse_args = parse_args
    return parser


def takes_list(param: Any) -> bool:
    """Return whether a parameter is a list: an option that may be repeated, or all the arguments there are."""
    return bool(param.nargs == -1 or getattr(param, "multiple", False))


def _refuse_doubled(given: Sequence[Any]) -> None:
    """Raise RequestRefusedError for the first option that is there again and takes no list."""
    for param, times in Counter(given).items():
        if times > 1 and not takes_list(param):
            value = "" if param.is_flag else ", and takes one value"
            often = "twice" if times == 2 else f"{times} times"
            raise RequestRefusedError(f"{param.opts[0]} is given {often}{value}", hint="give it once")


def _split_lists(given: Iterable[Any], values: dict[str, Any]) -> None:
    """Take lists with commas apart; raise RequestRefusedError for one with nothing between two commas."""
    for param in {param.name: param for param in given if takes_list(param)}.values():
        items = [item.strip() for text in values.get(param.name) or () for item in text.split(",")]
        if "" in items:
            is_option = param.param_type_name == "option"
            name = param.opts[0] if is_option else param.metavar
            hint = f"such as {name} {param.metavar}" if is_option else "with a comma or a space between two"
            raise RequestRefusedError(f"{name} {','.join(values[param.name])!r}: an item is empty", hint=hint)
        values[param.name] = items
