"""What a KME knows: of itself, and of a relay that starts or ends at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from qkdrelay.link.confirmation import Context, Payload
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.reports import Findings
from qkdrelay.network.names import Route
from qkdrelay.network.plan import Plan

LATE_S = 60.0
"""How many seconds after its deadline a share is still looked at."""
Role = Literal["source", "target"]
UNDECIDED_S = 3_600.0
"""How many seconds after its deadline an end gives up a relay that it knows nothing of."""
SUPPLY_LATE_S = 7_200.0
"""How many seconds after its time supply is still kept at the target: assignments may be late, and clocks off."""
EndpointState = Literal["expecting", "pending", "held", "delivered", "failed", "forgotten"]
"""State of a relay at one of its ends, as stores and `kme keys` call it.

Expecting: the target has the terms. Pending: the source has drawn the keys. Held: the target has the keys and has
*released* them. Delivered: the source knows that, and has released them, too. Forgotten: released, and no more in this
store; the id is kept for as long as it could be taken for a new one.
"""


@dataclass(frozen=True)
class NodeSettings:
    """Settings that a KME keeps to, whatever the coordinator says."""

    name: str
    links: frozenset[str]
    """The KMEs it shares a QKD link with."""
    withstand_compromised: int = 1
    """A plan must keep the secret from every coalition of this many KMEs."""
    lab: bool = False
    has_applications: bool = False
    """Whether it takes supply, which becomes keys of SAEs: nobody could use it elsewhere."""
    pending_max: int = 10_000
    """Undecided relays that start or end here, at most."""
    key_bytes_max: int = 1 << 28
    """Bytes of keys kept, at most."""


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
    """Keys, tag keys and confirmation key; None before the rebuild and once destroyed."""
    supply: Supply | None = None
    """What makes it supply."""
    proof: bytes | None = None
    """The confirmation tag c_T that the target made as it released the keys; None before, and at the source."""
    findings: Findings | None = None
    """What was reported last."""
    equivocating: tuple[Route, ...] = ()

    @property
    def peer(self) -> str:
        """The other end."""
        return self.plan.target if self.role == "source" else self.plan.source

    @property
    def is_undecided(self) -> bool:
        """Whether the keys are neither released nor destroyed yet."""
        return self.state in ("expecting", "pending")

    @property
    def is_released(self) -> bool:
        """Whether the keys were released, also if they are deleted since."""
        return self.state in ("held", "delivered", "forgotten")

    @property
    def has_keys(self) -> bool:
        """Whether its keys are kept here."""
        return self.state in ("pending", "held", "delivered")

    @property
    def key_bytes(self) -> int:
        """Bytes of keys that are kept of it; supply at its target is kept apart (`kme.store.applications`)."""
        is_apart = self.supply is not None and self.role == "target"
        return self.key_count * self.key_size_bits // 8 if self.has_keys and not is_apart else 0

    @property
    def ends_at(self) -> float | None:
        """When this end ends it whoever says nothing, in seconds since the epoch; None: not by itself."""
        if self.is_undecided:
            return self.deadline + UNDECIDED_S
        return self.supply.until + SUPPLY_LATE_S if self.supply is not None and self.has_keys else None

    @property
    def context(self) -> Context:
        """What both ends must agree on."""
        plan = encode_plan(self.plan)
        return Context(self.relay_id, plan, self.key_count, self.key_size_bits, self.withstand, self.supply)

    @property
    def checked(self) -> FixedDemand:
        """What the plan was checked here to withstand: what the terms demand and what this end does."""
        demand = self.withstand
        compromised = max(demand.to_demand().readers, self.withstand_here)
        return FixedDemand(compromised=compromised, failed=demand.failed, tampering=demand.tampering)

    @property
    def payload_length(self) -> int:
        """Bytes of its payload."""
        return self.context.payload_length
