"""The rates of a network, in tables and as data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.network.capacity import KmePair, Optimum
from qkdrelay.network.key_rates import FurtherLink, KeyRates, PairRate, Unprotected
from qkdrelay.network.topology import Topology
from qkdrelay.terminal import console
from qkdrelay.terminal.wording import counted
from qkdrelay_pictures.rates import draw_rates

SHOWN = 12
"""Pairs and links that people are shown."""
_UNITS = ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1.0, "bit/s"))


def as_data(
    network: Topology, found: KeyRates, further: Sequence[FurtherLink] | None = None, *, has_demand: bool = False
) -> dict[str, Any]:
    """Return all of it; rates in bit/s, and shares of 1: of the demand, where there is one, what all pairs get."""
    total, kind = ("share", "share") if has_demand else ("rate_bps", "bps")
    more = {} if further is None else {"next_links": [_next(found, link, total) for link in further]}
    return {
        "network": network.name,
        "compromised": found.compromised,
        total: found.possible.share,
        f"certificate_{kind}": found.possible.certificate,
        f"threshold_{kind}": found.threshold,
        f"plans_{kind}": found.plans,
        "pairs": [_pair(rate, has_demand=has_demand) for rate in found.pairs]
        + [
            {
                "source": without.pair.source,
                "target": without.pair.target,
                **_demanded(without.pair, has_demand=has_demand),
                "rate_bps": 0.0,
                "any_protocol_bps": None,
                "bundles": [],
                "why": _why(found, without),
                "mended_by": [list(link) for link in without.mended_by],
            }
            for without in found.unprotected
        ],
        "links": [
            {"link": list(link), "utilisation": used / found.rates[link], "price": found.possible.prices[link]}
            for link, used in found.possible.used.items()
        ],
        **more,
    }


def _demanded(pair: KmePair, *, has_demand: bool) -> dict[str, Any]:
    return {"demand_bps": pair.demand} if has_demand else {}


def _next(found: KeyRates, further: FurtherLink, total: str) -> dict[str, Any]:
    return {
        "link": list(further.link),
        "link_rate_bps": further.rate_bps,
        total: further.share,
        "gain": _gain(found, further),
    }


def _gain(found: KeyRates, further: FurtherLink) -> float | None:
    """Return what a link adds, as a part of what there is."""
    share = found.possible.share
    return further.share / share - 1 if share else None


def _why(found: KeyRates, without: Unprotected) -> str:
    needed = found.compromised + 1
    there = f"{counted(without.paths, 'disjoint path')} {'joins' if without.paths == 1 else 'join'} the two"
    return f"{there}, and that takes {needed}"


def _pair(rate: PairRate, *, has_demand: bool) -> dict[str, Any]:
    return {
        "source": rate.pair.source,
        "target": rate.pair.target,
        **_demanded(rate.pair, has_demand=has_demand),
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
    pairs = [rate.pair for rate in found.pairs] or [without.pair for without in found.unprotected]
    alone = len(pairs) == 1
    whom = f"{pairs[0].source} to {pairs[0].target}" if alone else f"each of {counted(len(pairs), 'pair')} at once"
    safe = f"with {counted(found.compromised, 'compromised KME')} between"
    screen.print(Text(f"{name}: {'share of the demand of' if has_demand else 'key for'} {whom}, {safe}", "bold"))
    screen.print()
    shown = _percent if has_demand else in_words
    possible = found.possible
    table = _table("", "", "", "how")
    table.add_row("possible", shown(possible.share), "", "bundles of disjoint paths, with extraction")
    table.add_row("certificate", shown(possible.certificate), "", "no use of such bundles delivers more")
    table.add_row("threshold plans", shown(found.threshold), _of(found.threshold, possible), "time-shared at best")
    table.add_row("plans today", shown(found.plans), _of(found.plans, possible), "each pair by its own plan alone")
    screen.print(table)
    if not found.pairs:
        _print_unprotected(found)
        return
    screen.print()
    if alone:
        screen.print(f"no protocol exceeds {in_words(found.pairs[0].any_protocol_bps)} for this pair")
        screen.print()
    for line in _narrow(found, has_demand=has_demand):
        screen.print(line)
    _print_unprotected(found)


def _print_unprotected(found: KeyRates) -> None:
    """Print which pairs get nothing, why, and which links would change that."""
    screen = console()
    if found.unprotected:
        screen.print()
    for without in found.unprotected[:SHOWN]:
        pair = without.pair
        mended = ", ".join(f"{a} - {b}" for a, b in without.mended_by)
        would = f"; a link {mended.replace(', ', ' or ')} would do" if mended else ""
        screen.print(f"{pair.source} to {pair.target} gets nothing: {_why(found, without)}{would}", soft_wrap=True)
    if len(found.unprotected) > SHOWN:
        screen.print(Text(f"... and {len(found.unprotected) - SHOWN} more such pairs (--json has all)", "dim"))


def print_further(found: KeyRates, further: Sequence[FurtherLink], *, has_demand: bool) -> None:
    """Print what absent links would add, best first."""
    screen, shown = console(), _percent if has_demand else in_words
    if not further:
        return
    screen.print()
    rate = in_words(further[0].rate_bps)
    screen.print(Text(f"links that are not there, each of {rate} in each direction; what would be possible", "dim"))
    table = _table("link", "possible", "more")
    for each in further[:SHOWN]:
        gain = _gain(found, each)
        more = "" if gain is None else f"{100 * gain:+.1f} %"
        table.add_row(f"{each.link[0]} - {each.link[1]}", shown(each.share), more)
    screen.print(table)
    if len(further) > SHOWN:
        screen.print(Text(f"... and {len(further) - SHOWN} more (--json has all)", "dim"))


def drawn(network: Topology, found: KeyRates, *, has_demand: bool) -> str:
    """Return the picture of a network at its optimum, as SVG."""
    possible, pairs = found.possible, len(found.pairs)
    each = f"{_percent(possible.share)} of the demand" if has_demand else f"{in_words(possible.share)} of key"
    whom = (
        f"{pairs} pairs at once, each"
        if pairs != 1
        else f"{found.pairs[0].pair.source} to {found.pairs[0].pair.target}"
    )
    safe = counted(found.compromised, "compromised KME")
    return draw_rates(
        network,
        {link: used / found.rates[link] for link, used in possible.used.items()},
        possible.prices,
        f"{network.name}: what its links are used for, and worth, at the optimum",
        f"{whom} {each} with {safe} between; no use of disjoint paths delivers more"
        if pairs
        else "nothing is protected",
        is_share=has_demand,
    )


def _narrow(found: KeyRates, *, has_demand: bool) -> Iterator[Table | Text]:
    """Yield the links that hold all others up, dearest first."""
    least = 1e-9 * max(found.possible.prices.values(), default=0.0)
    dear = sorted(
        ((price, link) for link, price in found.possible.prices.items() if price > least), key=lambda p: (-p[0], p[1])
    )
    table = _table("link", "rate", "used", "price")
    for price, (a, b) in dear[:SHOWN]:
        rate = found.rates[a, b]
        used = f"{100 * found.possible.used[a, b] / rate:.0f} %"
        table.add_row(f"{a}>{b}", in_words(rate), used, _percent(1e3 * price) if has_demand else f"{price:.3g}")
    more = "kbit/s more there would add to the share" if has_demand else "bit/s more there would add"
    yield Text(f"links that are narrow; the price is what a {more}", "dim")
    yield table
    if len(dear) > SHOWN:
        yield Text(f"... and {len(dear) - SHOWN} more (--json has all)", "dim")


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="", show_header=bool(names[0]))
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place and name != "how" else "left")
    return table


def _of(share: float, possible: Optimum) -> str:
    return f"{100 * share / possible.share:.0f} %" if possible.share else ""


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def in_words(bps: float, digits: int = 4) -> str:
    """Return a rate as people read it; infinite where nothing bounds it."""
    if math.isinf(bps):
        return "any"
    size, unit = next((size, unit) for size, unit in _UNITS if bps >= size or size == 1.0)
    return f"{bps / size:.{digits}g} {unit}"
