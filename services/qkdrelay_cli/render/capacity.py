"""The rates of a network, in tables and as data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.network.capacity import Optimum
from qkdrelay.network.key_rates import KeyRates, PairRate
from qkdrelay.network.topology import Topology
from qkdrelay.terminal import console
from qkdrelay.terminal.wording import counted

SHOWN = 12
"""Pairs and links that people are shown."""
_UNITS = ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1.0, "bit/s"))


def as_data(network: Topology, found: KeyRates) -> dict[str, Any]:
    """Return all of it; rates in bit/s, and shares of 1."""
    return {
        "network": network.name,
        "compromised": found.compromised,
        "rate_bps": found.possible.share,
        "certificate_bps": found.possible.certificate,
        "threshold_bps": found.threshold,
        "plans_bps": found.plans,
        "pairs": [_pair(rate) for rate in found.pairs]
        + [
            {"source": p.source, "target": p.target, "rate_bps": 0.0, "any_protocol_bps": None, "bundles": []}
            for p in found.unprotected
        ],
        "links": [
            {"link": list(link), "utilisation": used / found.rates[link], "price": found.possible.prices[link]}
            for link, used in found.possible.used.items()
        ],
    }


def _pair(rate: PairRate) -> dict[str, Any]:
    return {
        "source": rate.pair.source,
        "target": rate.pair.target,
        "rate_bps": rate.rate_bps,
        "any_protocol_bps": rate.any_protocol_bps,
        "bundles": [
            {
                "paths": [list(path) for path in bundle.paths],
                "share": flow * bundle.worth / rate.rate_bps,
                "worth": bundle.worth,
            }
            for bundle, flow in sorted(rate.uses.items(), key=lambda use: -use[1] * use[0].worth)
        ],
    }


def print_rates(network: Topology, found: KeyRates, *, has_demand: bool) -> None:
    """Print what is possible, what bounds it, what there is today, and where it is narrow."""
    screen, name = console(), escaped(network.name, NAME_MAX)
    alone = len(found.pairs) == 1 and not has_demand
    one = f"{found.pairs[0].pair.source} to {found.pairs[0].pair.target}"
    whom = one if alone else f"each of {counted(len(found.pairs), 'pair')} at once"
    safe = f"with {counted(found.compromised, 'compromised KME')} between"
    screen.print(Text(f"{name}: {'share of the demand of' if has_demand else 'key for'} {whom}, {safe}", "bold"))
    screen.print()
    shown = (lambda share: f"{100 * share:.1f} %") if has_demand else in_words
    possible = found.possible
    table = _table("", "", "", "how")
    table.add_row("possible", shown(possible.share), "", "bundles of disjoint paths, with extraction")
    table.add_row("certificate", shown(possible.certificate), "", "no use of such bundles delivers more")
    table.add_row("threshold plans", shown(found.threshold), _of(found.threshold, possible), "time-shared at best")
    table.add_row("plans today", shown(found.plans), _of(found.plans, possible), "each pair by its own plan alone")
    screen.print(table)
    screen.print()
    if alone:
        screen.print(f"no protocol exceeds {in_words(found.pairs[0].any_protocol_bps)} for this pair")
        screen.print()
    for line in _narrow(found):
        screen.print(line)
    if found.unprotected:
        some = ", ".join(f"{pair.source} to {pair.target}" for pair in found.unprotected[:SHOWN])
        more = ", ..." if len(found.unprotected) > SHOWN else ""
        needed = f"{found.compromised + 1} disjoint paths are needed"
        screen.print()
        screen.print(f"not protected, and left out ({needed}): {some}{more}", soft_wrap=True)


def _narrow(found: KeyRates) -> Iterator[Table | Text]:
    """Yield the links that hold all others up, dearest first."""
    dear = sorted(
        ((price, link) for link, price in found.possible.prices.items() if price > 1e-12), key=lambda p: (-p[0], p[1])
    )
    table = _table("link", "rate", "used", "price")
    for price, (a, b) in dear[:SHOWN]:
        rate = found.rates[a, b]
        used = f"{100 * found.possible.used[a, b] / rate:.0f} %"
        table.add_row(f"{a}>{b}", in_words(rate), used, f"{price:.3g}")
    yield Text("links that are narrow; the price is what a bit/s more there would add", "dim")
    yield table
    if len(dear) > SHOWN:
        yield Text(f"... and {len(dear) - SHOWN} more (--json has all)", "dim")


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="", show_header=bool(names[0]))
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place and name != "how" else "left")
    return table


def _of(share: float, possible: Optimum) -> str:
    return f"{100 * share / possible.share:.0f} %"


def in_words(bps: float) -> str:
    """Return a rate as people read it."""
    size, unit = next((size, unit) for size, unit in _UNITS if bps >= size or size == 1.0)
    return f"{bps / size:.4g} {unit}"
