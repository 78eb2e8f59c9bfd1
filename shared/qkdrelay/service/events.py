"""Log events of a KME's reports, for its log and for those who watch: a constant name each, level and fields."""

from __future__ import annotations

import msgspec

from qkdrelay.messages.assignments import Assign, Assigned, AssignRefused, Supplies
from qkdrelay.messages.control import SetLab, SetLink
from qkdrelay.messages.reports import (
    Alarm,
    Collected,
    Confirmed,
    Done,
    Expected,
    Findings,
    Forwarded,
    Hello,
    Rebuilt,
    Recalled,
    Refused,
    Rejected,
    Report,
    Split,
    Started,
    Waiting,
)
from qkdrelay.network.names import link_name
from qkdrelay.service.logs import LogLevel

_EVENTS: dict[type, str] = {
    Assign: "assignment.asked",
    Assigned: "assignment.kept",
    AssignRefused: "assignment.refused",
    Collected: "share.collected",
    Confirmed: "relay.confirmed",
    Done: "command.done",
    Expected: "relay.expected",
    Findings: "relay.findings",
    Forwarded: "share.forwarded",
    Hello: "kme.hello",
    Rebuilt: "relay.rebuilt",
    Recalled: "relay.recalled",
    Refused: "relay.refused",
    Rejected: "share.rejected",
    Split: "share.split",
    Started: "relay.started",
    Supplies: "kme.supplies",
    Waiting: "share.waiting",
}
_WARNINGS = (AssignRefused, Refused, Rejected, Waiting, Findings)


def event_name(report: Report) -> str:
    """Return the report's log event."""
    if isinstance(report, Alarm):
        return report.event
    if isinstance(report, Waiting) and not report.reason:
        return "share.resumed"
    return _EVENTS[type(report)]


def log_level(report: Report) -> LogLevel:
    """Return the level of the log line."""
    if isinstance(report, Alarm):
        return "error"
    if isinstance(report, Hello | Supplies):
        return "debug"
    if isinstance(report, Waiting) and not report.reason:
        return "info"
    refused = isinstance(report, Done) and report.error
    return "warning" if refused or isinstance(report, _WARNINGS) else "info"


def log_fields(report: Report) -> dict[str, object]:
    """Return the log line's fields: ids, routes and reasons; a share's route also gives its link."""
    fields: dict[str, object]
    if isinstance(report, Done):
        outcome = "refused" if report.error else "done"
        fields = {**_named(report.command), "outcome": outcome, "error": report.error}
        return {**fields, "command_id": report.command.command_id}
    said = report.assignment if isinstance(report, Assign) else report
    if isinstance(report, Recalled):
        return {"relay_id": report.terms.relay_id}
    fields = {k: v for k, v in msgspec.structs.asdict(said).items() if k not in ("proof", "tag", "event", "heard")}
    route = fields.get("route")
    if isinstance(route, tuple) and len(route) > 1:
        fields["link"] = link_name(*route[-2:])
    elif isinstance(report, Rejected):
        fields["link"] = link_name(*report.link)
    if isinstance(report, Waiting) and not report.reason:
        del fields["reason"]
    if isinstance(report, Supplies):
        return {k: len(v) for k, v in fields.items() if isinstance(v, tuple)}
    if isinstance(report, Findings):
        fields["disputed"] = len(report.disputed)
    return fields


def _named(command: SetLink | SetLab) -> dict[str, object]:
    """Name a command as the command line does."""
    if isinstance(command, SetLink):
        return {"command": f"link {'up' if command.up else 'down'}", "peer": command.peer}
    return {"command": "lab compromise", "mode": command.mode} if command.mode else {"command": "lab restore"}
