"""An analysis, in words for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from rich.text import Text

from qkdrelay.as_data.analysis import Analysis
from qkdrelay.network.minimal_sets import MinimalSets
from qkdrelay.network.probability import Probability
from qkdrelay.network.threshold_circuit import Element
from qkdrelay.terminal.wording import counted
from qkdrelay_cli.arguments import link_argument
from qkdrelay_cli.render import LABEL_WIDTH, TERMINAL_WIDTH


def analysis_in_words(found: Analysis, title: str) -> Iterator[Text]:
    """Yield an analysis line by line."""
    yield Text(f"{title}: {counted(found.plan.share_messages, 'share message')}", "bold")
    yield from _case(found)
    yield from _sets("learn it", found.learning, "KME", "no KMEs on the way, even all together, learn the keys")
    yield from _sets("block it", found.blocking, "KME", "no KME's failure blocks the keys")
    yield from _sets("cut it off", found.cuts, "link", "no links' failure blocks the keys")
    if found.leak is not None:
        yield from _lines("leak", [_chance(found.leak)])
    if found.loss is not None:
        yield from _lines("loss", [_chance(found.loss)])


def _case(found: Analysis) -> Iterator[Text]:
    given = found.situation
    if not (given.compromised or given.failed or given.cut):
        return
    parts = [
        f"{what} {', '.join(names)}"
        for what, names in (
            ("compromised:", given.compromised),
            ("failed:", given.failed),
            ("cut:", tuple(map(_name, given.cut))),
        )
        if names
    ]
    yield from _lines("case", ["; ".join(parts)])
    yield _headline("delivered", found.case.delivered, good=True)
    ends = [kme for kme in (found.plan.source, found.plan.target) if kme in given.failed]
    yield from _lines("", [f"{kme}, an end of the relay, is down" for kme in ends])
    yield from _lines(
        "",
        (
            f"{s.kme}: {len(s.present)} of the {s.needed} it takes arrive; lost: {', '.join(s.missing)}"
            for s in found.case.short
        ),
    )
    yield _headline("learned", found.case.learned, good=False)
    yield from _lines(
        "",
        (
            f"{h.kme}: held, {'compromised' if h.member else 'with the shares of ' + ', '.join(h.shares)}"
            for h in found.case.held
        ),
    )


def _headline(what: str, happens: bool, *, good: bool) -> Text:
    return Text.assemble(
        (what.ljust(LABEL_WIDTH), "dim"), ("yes" if happens else "no", "bold green" if happens == good else "bold red")
    )


def _sets(label: str, found: MinimalSets[Any], what: str, never: str) -> Iterator[Text]:
    if found.smallest is None:
        yield from _lines(label, [never])
        return
    if found.counts is None:
        total = "more than are listed" if not found.complete else str(len(found.sets))
    else:
        total = ", ".join(f"{count:,} of {counted(size, what)}" for size, count in sorted(found.counts.items()))
    head = f"at least {counted(found.smallest, what)} needed; minimal sets: {total}"
    named = ["{" + ", ".join(map(_name, chosen)) + "}" for chosen in found.sets]
    yield from _lines(label, [head])
    yield from _lines("", ["  ".join(named)])
    if not found.complete:
        left = f"{sum(found.counts.values()) - len(named):,}" if found.counts is not None else "some"
        yield from _lines("", [f"... and {left} more (--limit, --json)"], "dim")


def _name(element: Element) -> str:
    return element if isinstance(element, str) else link_argument(*element)


def _chance(found: Probability) -> str:
    if found.exact:
        return f"probability {found.low:.4g}"
    return f"probability between {found.low:.4g} and {found.high:.4g}, with confidence {found.confidence:g}"


def _lines(label: str, texts: Any, style: str = "") -> Iterator[Text]:
    for text in texts:
        # A set stays on one line as long as it fits.
        glued = text.replace(", ", ",\N{NO-BREAK SPACE}") if text.startswith("{") else text
        for line in textwrap.wrap(glued, TERMINAL_WIDTH - LABEL_WIDTH, break_long_words=False, break_on_hyphens=False):
            plain = line.replace("\N{NO-BREAK SPACE}", " ")
            yield Text.assemble((label.ljust(LABEL_WIDTH), "dim"), (plain, style))
            label = ""
