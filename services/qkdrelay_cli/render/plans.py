"""Plans for a relay and what each withstands, in tables and words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from qkdrelay.network.candidates import Candidate
from qkdrelay.network.names import route_name
from qkdrelay.network.plan import Plan
from qkdrelay.terminal import console
from qkdrelay_cli.render import TERMINAL_WIDTH
from qkdrelay_cli.render.capacity import in_words

_LEGEND = (
    "In the worst case. Compromised and failed KMEs are withstood at the same time; a",
    "tampering one counts as one of each.",
)


def print_candidates(found: Sequence[Candidate], title: str, demand: str) -> None:
    """Print the plans there are, and how the chosen one goes; ``demand`` says what is to be withstood."""
    screen = console()
    screen.print(Text(title, "bold"), soft_wrap=True)
    screen.print(demand, soft_wrap=True)
    screen.print()
    screen.print(_table(found))
    for line in _LEGEND:
        screen.print(Text(line, "dim"), soft_wrap=True)
    shown = next((candidate for candidate in found if candidate.chosen), None)
    if shown is None:
        return
    screen.print()
    for line in plan_in_words(shown.plan):
        screen.print(line, soft_wrap=True)
    if shown.relies_on:
        screen.print(Text(f"It relies on the honesty of {', '.join(shown.relies_on)}.", "yellow"), soft_wrap=True)
    elif not shown.meets_demand:
        screen.print(Text("It does not withstand what was asked for.", "yellow"))


def _table(found: Sequence[Candidate]) -> Table:
    table = Table("", "policy", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in ("compromised", "failed", "links", "tampering", "messages", "key", "rate"):
        table.add_column(name, justify="right")
    for candidate in found:
        have = candidate.resilience
        numbers = (have.compromised, have.failed, have.failed_links, have.tampering, candidate.messages)
        mark, style = ("*", "bold") if candidate.chosen else ("", "" if candidate.meets_demand else "dim")
        drawn = f"{sum(candidate.link_key_batch.values()):,} B"
        table.add_row(mark, candidate.policy, *map(str, numbers), drawn, in_words(candidate.rate_bps, 3), style=style)
    return table


def plan_in_words(plan: Plan, width: int = TERMINAL_WIDTH) -> Iterator[str]:
    """Yield what each KME of a plan does with what it receives; KMEs that forward share a line."""
    column = max(map(len, plan.order)) + 2
    for kme in plan.order:
        if plan.is_split(kme) or kme == plan.source:
            ways = [_way(plan, successor) for successor in plan.successors(kme)]
            n = len(ways)
            head = (
                f"{kme.ljust(column)}splits, any {plan.threshold(kme)} of {n}:" if n > 1 else f"{kme.ljust(column)}to"
            )
            text = f"{head} {', '.join(ways)}"
            yield from textwrap.wrap(
                text, width, subsequent_indent=" " * column, break_long_words=False, break_on_hyphens=False
            )


def _way(plan: Plan, kme: str) -> str:
    """Name a successor and those it forwards to, up to the next KME that splits or the target."""
    way = [kme]
    while len(plan.successors(way[-1])) == 1:
        way.append(plan.successors(way[-1])[0])
    return route_name(tuple(way))
