"""Keys for applications as the coordinator knows of them, in tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from qkdrelay.escaping import escaped
from qkdrelay.messages.answers import SaePairView, SuppliesView, SupplyView
from qkdrelay.messages.reports import SILENT_S
from qkdrelay.network.names import link_name
from qkdrelay.terminal.wording import duration
from qkdrelay_cli.render.network import bytes_shown

_WHY_SHOWN_MAX = 200


def supplies_as_tables(view: SuppliesView) -> Group:
    """Return what is known for people; what is in the way stands below each table."""
    if not view.kmes:
        return Group("no KME has applications; `coordinator saes add` adds one")
    parts: list[Any] = [Text.assemble("KMEs with applications: ", ", ".join(view.kmes))]
    if view.supplies:
        parts += ["", _supplies(view.supplies), *_remarks(map(_of_supply, view.supplies)), *_served(view.supplies)]
    if view.pairs:
        parts += ["", _pairs(view.pairs), *_remarks(map(_of_pair, view.pairs))]
    if not view.supplies and not view.pairs:
        parts += ["", "no pair of SAEs has asked for keys yet"]
    if view.left_out:
        parts += ["", f"and {view.left_out} more"]
    return Group(*parts)


def _supplies(supplies: tuple[SupplyView, ...]) -> Table:
    table = _table("supply", "level", "stored", "coming", "wanted", "used/s", "waiting", "refills", names=1)
    for one in supplies:
        said = one.supply
        is_dry = said.waiting and not said.stored_bytes
        table.add_row(
            link_name(one.source, said.target),
            str(said.level),
            Text(bytes_shown(said.stored_bytes), "red" if is_dry else ""),
            bytes_shown(said.pending_bytes),
            bytes_shown(said.wanted_bytes),
            bytes_shown(round(said.assigned_bytes_per_s)),
            Text(str(said.waiting), "yellow" if said.waiting else ""),
            str(one.refills),
        )
    return table


def _pairs(pairs: tuple[SaePairView, ...]) -> Table:
    table = _table("master", "slave", "level", "ready", "handed out", "burned", "expired", "keys/s", "waiting", names=2)
    for one in pairs:
        pair = one.pair
        table.add_row(
            pair.master,
            pair.slave,
            str(pair.level),
            Text(str(pair.ready_keys), "yellow" if pair.low else ""),
            str(pair.handed_out),
            str(pair.burned),
            str(pair.expired),
            f"{pair.keys_per_s:.1f}",
            Text(str(pair.waiting), "yellow" if pair.waiting else ""),
        )
    return table


def _table(*columns: str, names: int) -> Table:
    """Return a table of figures behind so many columns of names; figures stay whole in a narrow window."""
    table = Table(*columns, box=None, pad_edge=False)
    for column in table.columns[:names]:
        column.overflow = "fold"
    for column in table.columns[names:]:
        column.justify, column.no_wrap = "right", True
    return table


def _of_supply(one: SupplyView) -> tuple[str, list[str]]:
    about = f"{link_name(one.source, one.supply.target)}, level {one.supply.level}"
    return about, [*_silence(one.source, one.said_s_ago), one.why or one.supply.why]


def _served(supplies: Iterable[SupplyView]) -> Iterator[Text]:
    """Return why those are refilled that are."""
    for one in supplies:
        if one.refills and one.served:
            about = f"{link_name(one.source, one.supply.target)}, level {one.supply.level}"
            yield Text(f"{about}: refilled since {escaped(one.served, _WHY_SHOWN_MAX)}", "dim")


def _of_pair(one: SaePairView) -> tuple[str, list[str]]:
    low = "fewer keys are ready than should be" if one.pair.low else ""
    return f"{one.pair.master} to {one.pair.slave}", [*_silence(one.kme, one.said_s_ago), low, one.pair.why]


def _silence(kme: str, seconds: float) -> list[str]:
    """Return what is said of figures that are old."""
    return [f"as {kme} said {duration(seconds)} ago"] if seconds >= SILENT_S else []


def _remarks(said: Iterable[tuple[str, list[str]]]) -> Iterator[Text]:
    for about, remarks in said:
        if shown := "; ".join(escaped(remark, _WHY_SHOWN_MAX) for remark in remarks if remark):
            yield Text(f"{about}: {shown}", "yellow")
