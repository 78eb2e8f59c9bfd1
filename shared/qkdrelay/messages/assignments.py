"""Assignments: how keys for applications are cut from what a relay has brought as supply (protocol, section 6)."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from uuid import UUID

from msgspec import Meta

from qkdrelay.messages.fields import Epoch, KmeCount, Message, Name, Number, Seconds, Tag, Text
from qkdrelay.messages.keys import KEY_BYTES_MAX, KEY_COUNT_MAX, KEY_SIZE_BITS_MAX, KEY_SIZE_BITS_MIN
from qkdrelay.network.names import SAE_ID

SaeId = Annotated[str, Meta(pattern=rf"^{SAE_ID.pattern}\Z")]
SUPPLY_BYTES_PER_TAG_PAIR: Final = 4_096
"""Bytes of supply for which there is one pair of tag keys."""
TAG_PAIRS_MAX: Final = KEY_BYTES_MAX // SUPPLY_BYTES_PER_TAG_PAIR
SUPPLIES_MAX: Final = 512
"""Supplies in one report."""
PAIRS_SHOWN_MAX: Final = 1_000
"""Pairs of SAEs in one report."""


class Supply(Message, frozen=True):
    """What makes a relay supply: part of its terms, and covered by the confirmation tag."""

    until: Seconds
    """The source assigns until then; what is unassigned two hours later is deleted at the target."""
    tag_pairs: Annotated[int, Meta(ge=1, le=TAG_PAIRS_MAX)]
    """Pairs of one-time tag keys in the payload, numbered from 0."""


class Assignment(Message, frozen=True):
    """Bytes of a relay's supply that become keys of one pair of SAEs; both tags cover all of it."""

    assign_id: UUID
    """16 random bytes; key number i, from 0, has key_ID = UUIDv5(assign_id, str(i))."""
    relay_id: UUID
    source: Name
    """The master's KME, which is the relay's source."""
    target: Name
    """The slave's KME, which is the relay's target."""
    tag_number: Annotated[int, Meta(ge=0, le=TAG_PAIRS_MAX - 1)]
    """The pair of tag keys: its first tags `Assign`, its second `Assigned`."""
    offset: Annotated[int, Meta(ge=0, le=KEY_BYTES_MAX - 1)]
    """The first byte, of the relay's key bytes."""
    master: SaeId
    slave: SaeId
    key_size_bits: Annotated[int, Meta(ge=KEY_SIZE_BITS_MIN, le=KEY_SIZE_BITS_MAX, multiple_of=8)]
    key_count: Annotated[int, Meta(ge=1, le=KEY_COUNT_MAX)]
    usable_until: Seconds

    @property
    def length(self) -> int:
        """Bytes."""
        return self.key_count * self.key_size_bits // 8

    def answered(self, tag: bytes) -> Assigned:
        """Return the answer that its keys are kept."""
        return Assigned(
            assign_id=self.assign_id, relay_id=self.relay_id, source=self.source, target=self.target, tag=tag
        )

    def refused(self, reason: AssignRefusal, first_free_byte: int, first_free_tag: int) -> AssignRefused:
        """Return the answer that nothing was kept, and from where on the relay's supply is free."""
        return AssignRefused(
            assign_id=self.assign_id,
            relay_id=self.relay_id,
            source=self.source,
            target=self.target,
            reason=reason,
            first_free_byte=first_free_byte,
            first_free_tag=first_free_tag,
        )


class Assign(Message, frozen=True, tag="assign", tag_field="type"):
    """From source to target, carried by the coordinator: these bytes are these SAEs' keys."""

    assignment: Assignment
    tag: Tag


class Assigned(Message, frozen=True, tag="assigned", tag_field="type"):
    """From target to source: the keys are kept for the slave; tagged under the pair's second key."""

    assign_id: UUID
    relay_id: UUID
    source: Name
    target: Name
    tag: Tag


AssignRefusal = Literal["unknown-relay", "range", "sae", "tag", "full", "expired", "reused"]
"""Why an assignment is refused.

No such supply here (any more); bytes or tag number assigned before, or not there; an SAE that is not in the target's
directory or not at that KME, or a pair that is not allowed; a tag that does not verify; no room; `usable_until` or the
supply's time has passed; the assign_id came with other fields.
"""


class AssignRefused(Message, frozen=True, tag="assign-refused", tag_field="type"):
    """From target to source, untagged: nothing was kept. The hint may only raise the source's cursor."""

    assign_id: UUID
    relay_id: UUID
    source: Name
    target: Name
    reason: AssignRefusal
    first_free_byte: Number
    first_free_tag: Number


class PeerStarted(Message, frozen=True, tag="peer-started", tag_field="type"):
    """From the coordinator: a KME's incarnation; if it is new, what is ready for that KME is asked for again."""

    kme: Name
    incarnation: Epoch


class NoSupply(Message, frozen=True, tag="no-supply", tag_field="type"):
    """From the coordinator to a source: there will be no relay for this supply now, and why."""

    target: Name
    level: KmeCount
    best: KmeCount | None
    """The most compromised KMEs that a plan to this target can withstand, if that is less than ``level``.

    None: there is a plan, and something else is in the way.
    """
    reason: Text


class OutgoingSupply(Message, frozen=True):
    """Supply of a source for one target and level."""

    target: Name
    level: KmeCount
    stored_bytes: Number
    """Confirmed and not assigned."""
    pending_bytes: Number
    """Of relays that are begun here and not confirmed yet."""
    wanted_bytes: Number
    """How much more it would have, now; 0 for nothing."""
    assigned_bytes_per_s: Annotated[float, Meta(ge=0, le=1e12)]
    """Assigned of late."""
    waiting: Number
    """Requests that wait for it."""
    why: Text
    """What is in the way; empty for nothing."""


class IncomingSupply(Message, frozen=True):
    """Supply at a target from one source, by level."""

    source: Name
    level: KmeCount
    stored_bytes: Number
    assigned_bytes_per_s: Annotated[float, Meta(ge=0, le=1e12)]


class SaePair(Message, frozen=True):
    """A pair of SAEs as the master's KME sees it."""

    master: SaeId
    slave: SaeId
    level: KmeCount
    ready_keys: Number
    ready_bytes: Number
    handed_out: Number
    """Keys, since the KME's start, as those burned and expired."""
    burned: Number
    """Given to nobody, for another reason than their time."""
    expired: Number
    """Not handed out in time."""
    keys_per_s: Annotated[float, Meta(ge=0, le=1e12)]
    """Handed out of late."""
    low: bool
    """Whether fewer are ready than should be."""
    waiting: Number
    why: Text


class Supplies(Message, frozen=True, tag="supplies", tag_field="type"):
    """Report of a KME that has SAEs: what it has and wants, with each hello, and at once for a supply that is dry.

    What is listed is how it is now; what is not listed is as it was said before.
    """

    incarnation: Epoch
    """Drawn at each start and each time an SAE is struck off or moved in this KME's directory; sorts by time."""
    outgoing: Annotated[tuple[OutgoingSupply, ...], Meta(max_length=SUPPLIES_MAX)]
    incoming: Annotated[tuple[IncomingSupply, ...], Meta(max_length=SUPPLIES_MAX)]
    pairs: Annotated[tuple[SaePair, ...], Meta(max_length=PAIRS_SHOWN_MAX)]
