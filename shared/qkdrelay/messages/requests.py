"""Requests of the command line, and of the page, to the coordinator."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from msgspec import Meta

from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.fields import KmeCount, Message, Number, Seconds, Text
from qkdrelay.messages.limits import LETTERS_SHOWN_MAX, RELAYS_SHOWN_MAX, REQUEUED_MAX
from qkdrelay.messages.states import LabMode
from qkdrelay.network.demand import Demand
from qkdrelay.network.names import CLIENT_QUEUE
from qkdrelay.network.plan import KMES_MAX


class OpenDemand(Message, frozen=True):
    """A `Demand` that may leave the number of failed KMEs to the network."""

    compromised: KmeCount
    failed: KmeCount | None
    """None: one if the network allows it."""
    tampering: KmeCount

    def to_demand(self) -> Demand:
        """Return it as the planner takes it."""
        return Demand(self.compromised, self.failed, self.tampering)


class RelayRequest(Message, frozen=True, tag="relay", tag_field="type"):
    """Start a relay, or follow it if it is known; its id is the asker's choice."""

    relay_id: UUID
    source: Text
    target: Text
    key_count: int
    key_size_bits: int
    timeout_s: float
    policy: Text | None
    """None: the coordinator's default."""
    withstand: OpenDemand | None
    """None: the default `Demand`."""
    allow_unprotected: bool
    follow: bool
    """Show the relay now and whenever it changes; otherwise say once, in a line, how it ended."""

    @property
    def demand(self) -> Demand:
        """The demand on its plan."""
        return Demand() if self.withstand is None else self.withstand.to_demand()


class RelaysRequest(Message, frozen=True, tag="relays", tag_field="type"):
    """List the latest relays."""

    limit: Annotated[int, Meta(ge=1, le=RELAYS_SHOWN_MAX)]
    supply: bool
    """Those of supply, too."""


class ShowRequest(Message, frozen=True, tag="show", tag_field="type"):
    """Show one relay, named by its id or by the beginning of it."""

    relay: Text
    follow: bool
    """Send the relay again whenever it changes, until it is complete."""


class NetworkRequest(Message, frozen=True, tag="network", tag_field="type"):
    """Show the network as it is now."""


class SuppliesRequest(Message, frozen=True, tag="supplies", tag_field="type"):
    """Show what there is of keys for applications, and what is in the way."""


class AttentionRequest(Message, frozen=True, tag="attention", tag_field="type"):
    """Show what asks for somebody: the latest alarms, failed relays and dead letters."""


class LinkRequest(Message, frozen=True, tag="link", tag_field="type"):
    """Make the QKD link between ``a`` and ``b`` stop or resume carrying."""

    a: Text
    b: Text
    up: bool


class LabRequest(Message, frozen=True, tag="lab", tag_field="type"):
    """Compromise a KME, or restore it."""

    kme: Text
    mode: LabMode | None


class AttackRequest(Message, frozen=True, tag="attack", tag_field="type"):
    """Let the adversary try to rebuild a relay's secret from all it has seen."""

    relay: Text
    kmes: Annotated[tuple[Text, ...], Meta(max_length=KMES_MAX)]
    """Use only what these KMEs leaked; empty for all."""


class DeadLettersRequest(Message, frozen=True, tag="dead-letters", tag_field="type"):
    """List the latest messages that nobody accepted."""

    limit: Annotated[int, Meta(ge=1, le=LETTERS_SHOWN_MAX)]


class DeadLetterRequest(Message, frozen=True, tag="dead-letter", tag_field="type"):
    """Show one of them."""

    letter: Number


class RequeueRequest(Message, frozen=True, tag="requeue", tag_field="type"):
    """Put dead letters back into the queues they came from: all of these or none."""

    letters: Annotated[tuple[Number, ...], Meta(min_length=1, max_length=REQUEUED_MAX)]


class DropRequest(Message, frozen=True, tag="drop", tag_field="type"):
    """Delete dead letters: all of these or none; None: whatever there is."""

    letters: Annotated[tuple[Number, ...], Meta(min_length=1, max_length=LETTERS_SHOWN_MAX)] | None


RequestBody = (
    RelayRequest
    | RelaysRequest
    | ShowRequest
    | NetworkRequest
    | SuppliesRequest
    | AttentionRequest
    | LinkRequest
    | LabRequest
    | AttackRequest
    | DeadLettersRequest
    | DeadLetterRequest
    | RequeueRequest
    | DropRequest
)


class Request(Message, frozen=True):
    """The body of a `SignedMessage` from a client: one request; the answer goes to its queue."""

    request_id: UUID
    """Random: what is answered, also where a request is sent once more."""
    reply_to: Annotated[str, Meta(pattern=rf"^{CLIENT_QUEUE.pattern}\Z")]
    at: Seconds
    """Time it was sent, in seconds since the epoch."""
    body: RequestBody


def unlike(
    wanted: RelayRequest, *, ends: tuple[str, str], key_count: int, key_size_bits: int, withstand: FixedDemand
) -> str | None:
    """Return in what a relay (from ``ends[0]`` to ``ends[1]``) is not the one that is asked for, or None."""
    demand = wanted.demand
    pairs: list[tuple[str, object, object]] = [
        ("from", ends[0], wanted.source),
        ("to", ends[1], wanted.target),
        ("keys", key_count, wanted.key_count),
        ("bits a key", key_size_bits, wanted.key_size_bits),
    ]
    if not wanted.allow_unprotected:  # the best there is, then
        pairs += [
            ("compromised", withstand.compromised, demand.compromised),
            ("failed", withstand.failed, withstand.failed if demand.failed is None else demand.failed),
            ("tampering", withstand.tampering, demand.tampering),
        ]
    return next((f"{what} {has}, not {asked}" for what, has, asked in pairs if has != asked), None)
