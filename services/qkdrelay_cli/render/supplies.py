"""Keys for applications as the coordinator knows of them, in tables and as data."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from qkdrelay.escaping import escaped
from qkdrelay.messages.answers import SaePairView, SuppliesView, SupplyView
from qkdrelay.network.names import link_name
from qkdrelay.terminal.wording import duration
from qkdrelay_cli.render.network import SILENT_S, bytes_shown

_WHY_SHOWN_MAX = 80


def supplies_as_data(view: SuppliesView) -> dict[str, Any]:
    """Return what is known for programs."""
    return {
        "kmes": list(view.kmes),
        "supplies": [
            {
                "source": one.source,
                **msgspec.to_builtins(one.supply),
                "refills": one.refills,
                "said_s_ago": one.said_s_ago,
                "why": one.why or one.supply.why,
            }
            for one in view.supplies
        ],
        "pairs": [
            {**msgspec.to_builtins(one.pair), "kme": one.kme, "said_s_ago": one.said_s_ago} for one in view.pairs
        ],
        "left_out": view.left_out,
    }


def supplies_as_tables(view: SuppliesView) -> Group:
    """Return what is known for people."""
    if not view.kmes:
        return Group("no KME has applications; `coordinator saes add` adds one")
    parts: list[Any] = [Text.assemble("KMEs with applications: ", ", ".join(view.kmes))]
    if view.supplies:
        parts += ["", _supplies(view.supplies)]
    if view.pairs:
        parts += ["", _pairs(view.pairs)]
    if not view.supplies and not view.pairs:
        parts += ["", "no pair of SAEs has asked for keys yet"]
    if view.left_out:
        parts += ["", f"and {view.left_out} more"]
    return Group(*parts)


def _supplies(supplies: tuple[SupplyView, ...]) -> Table:
    columns = "supply (a>b)", "withstands", "stored", "coming", "wanted", "used/s", "waiting", "refills", "said", "why"
    table = Table(*columns, box=None, pad_edge=False)
    for column in table.columns[2:8]:
        column.justify = "right"
    for one in supplies:
        said = one.supply
        is_dry = said.waiting and not said.stored_bytes
        table.add_row(
            link_name(one.source, said.target),
            f"compromised={said.level}",
            Text(bytes_shown(said.stored_bytes), "red" if is_dry else ""),
            bytes_shown(said.pending_bytes),
            bytes_shown(said.wanted_bytes),
            bytes_shown(round(said.assigned_bytes_per_s)),
            Text(str(said.waiting), "yellow" if said.waiting else ""),
            str(one.refills),
            _said(one.said_s_ago),
            _why(one.why or said.why),
        )
    return table


def _pairs(pairs: tuple[SaePairView, ...]) -> Table:
    columns = (
        "master",
        "slave",
        "withstands",
        "ready",
        "keys/s",
        "handed out",
        "burned",
        "expired",
        "waiting",
        "said",
        "why",
    )
    table = Table(*columns, box=None, pad_edge=False)
    for column in table.columns[3:9]:
        column.justify = "right"
    for one in pairs:
        pair = one.pair
        table.add_row(
            pair.master,
            pair.slave,
            f"compromised={pair.level}",
            Text(str(pair.ready_keys), "yellow" if pair.low else ""),
            f"{pair.keys_per_s:.1f}",
            str(pair.handed_out),
            str(pair.burned),
            str(pair.expired),
            Text(str(pair.waiting), "yellow" if pair.waiting else ""),
            _said(one.said_s_ago),
            _why(pair.why or ("low" if pair.low else "")),
        )
    return table


def _said(seconds: float) -> Text:
    return Text(f"{seconds:.0f} s ago") if seconds < SILENT_S else Text(f"{duration(seconds)} ago", "red")


def _why(text: str) -> str:
    return escaped(text, _WHY_SHOWN_MAX)
