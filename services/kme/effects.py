"""Effects: what a KME has decided, as plain data; the service carries them out in the batch's transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from kme.model import EndpointRelay
from qkdrelay.messages.reports import Report
from qkdrelay.network.names import Route
from qkdrelay.network.plan import Plan
from qkdrelay.service.logs import LogLevel


@dataclass(frozen=True, slots=True)
class SendShare:
    """Seal ``payload`` for the last KME of ``route`` and send it, as soon as the link has key."""

    relay_id: UUID
    route: Route
    plan: Plan
    """The part below the receiver."""
    deadline: float
    payload: bytes = field(repr=False)
    index: int
    """The share's x, from 1; 1 for a forwarded share."""
    threshold: int


@dataclass(frozen=True, slots=True)
class KeepShare:
    """Keep a share that reached the target."""

    relay_id: UUID
    route: Route
    payload: bytes = field(repr=False)
    deadline: float


@dataclass(frozen=True, slots=True)
class DropShares:
    """Delete what was collected for a relay, and what still waits for a link."""

    relay_id: UUID


@dataclass(frozen=True, slots=True)
class KeepRelay:
    """Keep this end's relay as it is now."""

    relay: EndpointRelay


@dataclass(frozen=True, slots=True)
class TryRebuild:
    """At the end of the batch: see what the collected shares give."""

    relay_id: UUID


@dataclass(frozen=True, slots=True)
class SendReport:
    """Report to the coordinator, and log the same."""

    report: Report


@dataclass(frozen=True, slots=True)
class LogEvent:
    """Log only."""

    event: str
    level: LogLevel
    fields: dict[str, object]


@dataclass(frozen=True, slots=True)
class SayHello:
    """Tell the coordinator at once how things are now: something that a hello tells has changed."""


@dataclass(frozen=True, slots=True)
class SupplyChanged:
    """A relay of supply is in a new state here.

    At its source: pending; delivered, and from now on nobody else has its payload here; failed. At its target:
    expecting; held; failed or forgotten.
    """

    relay: EndpointRelay


@dataclass(frozen=True, slots=True)
class WipeDeleted:
    """Wipe, after the commit, what deleted keys have left behind on disk."""


Effect = (
    SendShare
    | KeepShare
    | DropShares
    | KeepRelay
    | TryRebuild
    | SendReport
    | LogEvent
    | SayHello
    | SupplyChanged
    | WipeDeleted
)
