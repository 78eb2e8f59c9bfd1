"""The findings of a rebuild: what a target reports and logs of false shares, and of the splits that were rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar
from uuid import UUID

import msgspec

from kme.effects import LogEvent
from kme.model import EndpointRelay
from qkdrelay.messages.reports import Dispute, Findings
from qkdrelay.network.names import Route
from qkdrelay.schemes.recursive import RebuildResult

KMES_REPORTED_MAX = 24_000
"""In the routes of one relay's findings, so that they fit a message whatever the KMEs are called."""
T = TypeVar("T")


def no_findings(relay_id: UUID) -> Findings:
    """Return the findings of a relay with nothing wrong."""
    return Findings(relay_id=relay_id, false=(), disputed=(), equivocating=(), unclear="")


def findings_of(relay: EndpointRelay, result: RebuildResult) -> Findings:
    """Return what to report; cut to what fits a message, and then said to be incomplete."""
    false, left = _fitting(result.false, KMES_REPORTED_MAX, len)
    disputed, left = _fitting(result.disputed, left, lambda d: sum(len(route) for part in d.sets for route in part))
    equivocating, _ = _fitting(relay.equivocating, left, len)
    whole = (false, disputed, equivocating) == (result.false, result.disputed, relay.equivocating)
    return msgspec.structs.replace(
        no_findings(relay.relay_id),
        false=false,
        disputed=tuple(Dispute(split=dispute.route, sets=dispute.sets) for dispute in disputed),
        equivocating=equivocating,
        unclear="ambiguous" if result.ambiguous else "exhausted" if result.exhausted else "" if whole else "cut",
    )


def rebuilt_splits(relay: EndpointRelay, shares: Collection[Route], result: RebuildResult) -> Iterator[LogEvent]:
    """Yield the log event of each split that was rebuilt, innermost first."""
    unsound = {status.route for status in result.splits} | {dispute.route for dispute in result.disputed}
    holders = {route[:n] for route in shares for n in range(1, len(route))}
    for route in sorted(holders - unsound, key=len, reverse=True):
        if relay.plan.is_split(route[-1]) and not any(route[: len(f)] == f for f in result.false):
            fields: dict[str, object] = {
                "relay_id": relay.relay_id,
                "route": route,
                "threshold": relay.plan.threshold(route[-1]),
            }
            yield LogEvent("split.rebuilt", "info", fields)


def _fitting(items: tuple[T, ...], room: int, length: Callable[[T], int]) -> tuple[tuple[T, ...], int]:
    """Return the first of ``items`` that fit into ``room`` together, and how much room is left."""
    for number, item in enumerate(items):
        if length(item) > room:
            return items[:number], room
        room -= length(item)
    return items, room
