"""What a node decides: plain data, carried out by the worker in the batch's transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from qkdrelay.link.confirmation import Context, Payload
from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.reports import Findings, Report
from qkdrelay.messages.states import LabMode
from qkdrelay.network.names import Route
from qkdrelay.network.plan import Plan
from qkdrelay.service.logs import LogLevel

Role = Literal["source", "target"]
EndpointState = Literal["expecting", "pending", "delivered", "failed", "forgotten"]
"""Forgotten: delivered, and its keys deleted since; the id is kept for as long as it could be taken for a new one."""


@dataclass(frozen=True, slots=True)
class EndpointRelay:
    """A relay at one of its two ends, as that end keeps it."""

    relay_id: UUID
    role: Role
    state: EndpointState
    plan: Plan
    key_count: int
    key_size_bits: int
    withstand: FixedDemand
    """What the terms demand of the plan."""
    withstand_here: int
    """How many compromised KMEs it must withstand by this end's own settings."""
    deadline: float
    """Seconds since the epoch."""
    payload: Payload | None = field(default=None, repr=False)
    """Keys and confirmation keys; None before the rebuild and once destroyed."""
    peer_valid: bool | None = None
    """Whether the other end's confirmation tag was valid; None before it came."""
    findings: Findings | None = None
    """What was reported last."""
    equivocating: tuple[Route, ...] = ()

    @property
    def peer(self) -> str:
        """The other end."""
        return self.plan.target if self.role == "source" else self.plan.source

    @property
    def context(self) -> Context:
        """What both ends must agree on."""
        return Context(self.relay_id, encode_plan(self.plan), self.key_count, self.key_size_bits, self.withstand)

    @property
    def checked(self) -> FixedDemand:
        """What the plan was checked here to withstand: what the terms demand and what this end does."""
        demand = self.withstand
        compromised = max(demand.to_demand().readers, self.withstand_here)
        return FixedDemand(compromised=compromised, failed=demand.failed, tampering=demand.tampering)

    @property
    def payload_length(self) -> int:
        """Bytes of keys || c_S || c_T."""
        return self.context.payload_length


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
class LeakShare:
    """Lab only: hand a received share to the adversary."""

    relay_id: UUID
    route: Route
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SwitchLink:
    """The QKD link to ``peer`` stops or resumes carrying."""

    peer: str
    up: bool


@dataclass(frozen=True, slots=True)
class SetLabMode:
    """Behave as a compromised KME from now on, or honestly again."""

    mode: LabMode | None


Effect = (
    SendShare
    | KeepShare
    | DropShares
    | KeepRelay
    | TryRebuild
    | SendReport
    | LogEvent
    | LeakShare
    | SwitchLink
    | SetLabMode
)
