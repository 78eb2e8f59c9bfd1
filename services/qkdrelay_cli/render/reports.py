"""Reports of KMEs, each a line or an object."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.text import Text

from qkdrelay.escaping import escaped
from qkdrelay.messages.reports import Report
from qkdrelay.network.names import route_name
from qkdrelay.service.events import event_name, log_fields, log_level
from qkdrelay.terminal.wording import moment

VALUE_MAX = 500
"""Characters of one value in a line for people; --json has all."""


def report_as_data(kme: str, report: Report, at: float) -> dict[str, Any]:
    """Return a report for programs; ``at`` is when it was seen, in seconds since the epoch."""
    fields: dict[str, Any] = msgspec.to_builtins(log_fields(report))
    return {"at": round(at, 3), "kme": kme, "event": event_name(report), **fields}


def report_in_words(kme: str, report: Report, at: float) -> Text:
    """Return a report for people: time, event, KME, the relay's first digits, and what else there is."""
    style = {"warning": "yellow", "error": "bold red"}.get(log_level(report), "")
    fields = log_fields(report)
    relay = str(fields.pop("relay_id", None) or "")[:8]
    route = fields.pop("route", None)
    if route:
        fields.pop("link", None)  # the last two of the route
    rest = [route_name(route)] if isinstance(route, tuple) else []
    rest += [f"{name}={escaped(_short(value), VALUE_MAX)}" for name, value in fields.items() if value not in ("", ())]
    return Text.assemble(
        (f"{moment(at)}  ", "dim"),
        (escaped(event_name(report)).ljust(16), style),
        f"  {kme.ljust(8)}  {relay.ljust(8)}  ",
        "  ".join(rest),
    )


def _short(value: object) -> str:
    if isinstance(value, tuple) and all(isinstance(route, tuple) for route in value):
        return ",".join(map(route_name, value))
    return str(value)
