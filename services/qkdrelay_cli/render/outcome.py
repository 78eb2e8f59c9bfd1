"""A relay and its outcome, in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.text import Text

from qkdrelay.as_data.flow import Flow, Load
from qkdrelay.escaping import escaped
from qkdrelay.messages.answers import RelayView
from qkdrelay.messages.keys import key_id
from qkdrelay.messages.reports import Dispute
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.names import Route, link_name, route_name
from qkdrelay.terminal import PIPE_WIDTH
from qkdrelay.terminal.wording import counted, duration
from qkdrelay_cli.render import LABEL_WIDTH, TERMINAL_WIDTH

KEYS_SHOWN = 3
ROUTES_SHOWN = 12
STYLES = {"confirmed": "bold green", "failed": "bold red"}


def print_outcome(view: RelayView, console: Console) -> None:
    """Print a relay for people; ids are never wrapped in a pipe."""
    for line in outcome(view, console.width if console.width < PIPE_WIDTH else None):
        console.print(line)


def outcome(view: RelayView, width: int | None) -> Iterator[Text]:
    """Yield a relay line by line, for a terminal of ``width`` columns; None: nothing may be wrapped."""
    flow = Flow(view)
    keys = f"{counted(view.key_count, 'key')} of {view.key_size_bits} bits"
    took = f"in {duration(view.elapsed_s)}" if view.state in TERMINAL else f"for {duration(view.elapsed_s)} now"
    yield Text.assemble(
        (view.state, STYLES.get(view.state, "bold yellow")), f"  {view.source} to {view.target}, {keys}, {took}"
    )
    if view.reason:
        reason = escaped(view.reason)
        lines = (
            [reason] if width is None else textwrap.wrap(reason, max(20, width - LABEL_WIDTH), break_long_words=False)
        )
        yield from _block("reason", map(Text, lines))
    yield from _block("relay", [Text(str(view.relay_id), "bold")])
    if view.state == "confirmed":
        yield from _block("key ids", _keys(view))
    if view.relies_on:
        yield from _block("relies on", [Text(f"the honesty of {', '.join(view.relies_on)}", "yellow")])
    elif not view.protected:
        yield from _block("protection", [Text("none: one compromised KME on the way could learn the keys", "red")])
    yield from _block("shares", _shares(flow, (width or TERMINAL_WIDTH) - LABEL_WIDTH))
    if view.missing:
        yield from _block("missing", _missing(flow))
    if view.state == "failed" and view.short_splits:
        yield from _block("too few", [Text(short_split(s.split, s.present, s.needed)) for s in view.short_splits])
    if view.false_shares:
        head = Text("a KME on the route, the splitter included, altered the share", "red")
        yield from _block("false", [head, *_routes(view.false_shares)])
    if view.disputed:
        yield from _block("disputed", [line for dispute in view.disputed for line in _dispute(dispute)])
    if view.equivocating:
        head = Text("different shares came on one route", "red")
        yield from _block("equivocal", [head, *_routes(view.equivocating)])


def short_split(split: Route, present: int, needed: int) -> str:
    """Return in words that a split has too few shares."""
    return f"the split on {route_name(split)} has {present} of the {needed} shares it needs"


def _block(label: str, lines: Iterable[Text]) -> Iterator[Text]:
    """Yield lines with a label before the first."""
    for n, line in enumerate(lines):
        yield Text.assemble((("" if n else label).ljust(LABEL_WIDTH), "dim"), line)


def _keys(view: RelayView) -> Iterator[Text]:
    shown = view.key_count if view.key_count == KEYS_SHOWN + 1 else min(view.key_count, KEYS_SHOWN)
    for index in range(shown):
        yield Text(str(key_id(view.relay_id, index)))
    if view.key_count > shown:
        yield Text(f"... and {view.key_count - shown} more (--json has all)", "dim")


def _shares(flow: Flow, width: int) -> Iterator[Text]:
    """Yield how many shares crossed, then each link, in columns; what is short stands out."""
    arrived = f"{len(flow.collected)} of {flow.plan.final_shares} reached {flow.plan.target}"
    yield Text(f"{flow.share_messages} of {flow.view.planned_share_messages} crossed their links; {arrived}")
    cells = [_load(load) for load in flow.loads()]
    column = max(cell.cell_len for cell in cells) + 3
    rows = -(-len(cells) // max(1, (width + 3) // column))
    for row in range(rows):
        line = Text()
        for cell in cells[row::rows]:
            cell.align("left", column)
            line.append_text(cell)
        line.rstrip()
        yield line


def _load(load: Load) -> Text:
    style = "" if load.carried == load.planned else "yellow"
    return Text.assemble((f"{link_name(*load.link)} {load.carried}/{load.planned}", style))


def _missing(flow: Flow) -> Iterator[Text]:
    halts: dict[str, list[Route]] = {}
    for route in flow.view.missing[:ROUTES_SHOWN]:
        halts.setdefault(str(flow.halt(route)), []).append(route)
    for halt, routes in halts.items():
        yield Text(escaped(halt), "yellow")
        yield from (Text(f"  {route_name(route)}") for route in routes)
    yield from _rest(len(flow.view.missing))


def _routes(routes: tuple[Route, ...]) -> Iterator[Text]:
    yield from (Text(route_name(route), "red") for route in routes[:ROUTES_SHOWN])
    yield from _rest(len(routes))


def _rest(count: int) -> Iterator[Text]:
    if count > ROUTES_SHOWN:
        yield Text(f"... and {count - ROUTES_SHOWN} more (--json has all)", "dim")


def _dispute(dispute: Dispute) -> Iterator[Text]:
    yield Text(f"the shares of the split on {route_name(dispute.split)} do not fit together:")
    for group in dispute.sets:
        yield Text("  " + " with ".join(route_name(route) for route in group), "yellow")
