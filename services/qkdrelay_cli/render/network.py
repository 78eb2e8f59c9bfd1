"""The network as the coordinator knows it, in tables."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from qkdrelay.as_data.network import reports
from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.messages.network_answers import KmeView, NetworkView
from qkdrelay.messages.reports import SILENT_S, LinkReport
from qkdrelay.network.names import link_name
from qkdrelay.terminal.wording import duration
from qkdrelay_cli.render.capacity import in_words


def network_as_tables(view: NetworkView) -> Group:
    """Return the network for people."""
    lab = Text("lab on: KMEs can be compromised on purpose", "yellow") if view.lab else Text("lab off", "dim")
    name = escaped(view.name, NAME_MAX)
    sites: list[str | Table] = ["", _sites(view)] if view.sites else []
    return Group(Text.assemble((name, "bold"), "  ", lab), *sites, "", _kmes(view), "", _links(view), "", _keys(view))


def _sites(view: NetworkView) -> Table:
    table = Table("site", "KMEs", "broker", "cannot be read by", box=None, pad_edge=False)
    for site in view.sites:
        here = [*site.kmes, *(["the coordinator"] if site.has_coordinator else [])]
        table.add_row(site.name, ", ".join(here), escaped(site.broker), Text(", ".join(site.away_from), "red"))
    return table


def _kmes(view: NetworkView) -> Table:
    several = len({kme.version for kme in view.kmes if kme.version}) > 1
    version = ["version"] if several else []
    table = Table("KME", "heard", "relays pending", "lab", *version, "noted", box=None, pad_edge=False)
    for kme in view.kmes:
        pending = str(kme.pending) if kme.heard_s_ago is not None else "?"
        of_version = [Text(escaped(kme.version, NAME_MAX), "yellow")] if several else []
        table.add_row(kme.name, _heard(kme), pending, _lab(kme), *of_version, kme.trust or "")
    table.columns[-1].header = "noted" if any(kme.trust for kme in view.kmes) else ""
    return table


def _heard(kme: KmeView) -> Text:
    if kme.heard_s_ago is None:
        return Text("not yet", "red")
    if kme.heard_s_ago < SILENT_S:
        return Text(f"{kme.heard_s_ago:.1f} s ago")
    return Text(f"{duration(kme.heard_s_ago)} ago", "red")


def _lab(kme: KmeView) -> Text:
    if kme.lab_mode:
        return Text(f"compromised: {kme.lab_mode}", "bold red")
    return Text("on" if kme.lab else "off")


def _links(view: NetworkView) -> Table:
    said = reports(view)
    table = Table("link (a>b)", "a>b", "key", "waiting", "  b>a", "key", "waiting", "ordered", box=None, pad_edge=False)
    for column in (2, 3, 5, 6):
        table.columns[column].justify = "right"
    for a, b in view.links:
        there, back = _cells(said.get((a, b))), _cells(said.get((b, a)))
        ordered = Text("down" if (a, b) in view.down else "", "yellow")
        table.add_row(link_name(a, b), *there, Text.assemble("  ", back[0]), *back[1:], ordered)
    return table


def _cells(report: LinkReport | None) -> tuple[Text, Text, Text]:
    if report is None:
        return Text("?", "red"), Text("?"), Text("?")
    state = Text("up", "green") if report.up else Text("down", "red")
    waiting = Text(str(report.waiting), "yellow" if report.waiting else "")
    return state, Text(bytes_shown(report.available_bytes)), waiting


def _keys(view: NetworkView) -> Table:
    """Return where the key of each direction comes from; links of which nothing is known are left out."""
    said = reports(view)
    table = Table("key of (a>b)", "source", "rate", "blocks granted", "given up", "why", box=None, pad_edge=False)
    for column in (2, 3, 4):
        table.columns[column].justify = "right"
    for way in ((a, b) for link in view.links for a, b in (link, link[::-1])):
        if (report := said.get(way)) is None:
            continue
        key = report.key
        why = Text(escaped(key.why_dry), "red") if key.why_dry else Text(escaped(key.why_given_up), "dim")
        given_up = Text(str(key.blocks_given_up), "yellow" if key.blocks_given_up else "")
        rate = in_words(report.rate_bps, 3)
        table.add_row(link_name(*way), key.source, rate, str(key.blocks_granted), given_up, why)
    return table


def bytes_shown(n: int) -> str:
    """Return a number of bytes as people read it."""
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if n >= factor:
            return f"{n / factor:.1f} {unit}"
    return f"{n} B"
