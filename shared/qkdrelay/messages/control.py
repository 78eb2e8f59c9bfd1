"""Signed messages, the terms of a relay, and the coordinator's commands (protocol, sections 6 and 7)."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from msgspec import Meta

from qkdrelay.messages.assignments import Assign, Assigned, AssignRefused, NoSupply, PeerStarted, Supply
from qkdrelay.messages.fields import Epoch, KmeCount, Mac, Message, Name, Number, PlanBytes, Seconds, Tag
from qkdrelay.messages.keys import KEY_COUNT_MAX, KEY_SIZE_BITS_MAX, KEY_SIZE_BITS_MIN
from qkdrelay.messages.states import LabMode
from qkdrelay.network.demand import Demand

COMMANDS_MAX = 32
"""Commands in one message: it is taken in as a whole, and the answer to the first waits for the last."""


class SignedMessage(Message, frozen=True):
    """A list of commands or reports, a request or an answer, under HMAC-SHA-256, with a number against replay."""

    sender: Name
    recipient: Name
    epoch: Epoch
    number: Number
    body: bytes
    mac: Mac


class FixedDemand(Message, frozen=True):
    """A `Demand` with all its numbers: what both ends of a relay check its plan against."""

    compromised: KmeCount
    failed: KmeCount
    tampering: KmeCount

    def to_demand(self) -> Demand:
        """Return it as the planner takes it."""
        return Demand(self.compromised, self.failed, self.tampering)


class Terms(Message, frozen=True):
    """The terms of a relay, on which both ends must agree; the confirmation tag covers all but the deadline."""

    relay_id: UUID
    plan: PlanBytes
    key_count: Annotated[int, Meta(ge=1, le=KEY_COUNT_MAX)]
    key_size_bits: Annotated[int, Meta(ge=KEY_SIZE_BITS_MIN, le=KEY_SIZE_BITS_MAX, multiple_of=8)]
    withstand: FixedDemand
    """The demand on the plan; neither end takes a plan that does not withstand it."""
    supply: Supply | None
    """What makes it a relay of supply; None: its keys are a person's."""
    deadline: Seconds


class Expect(Message, frozen=True, tag="expect", tag_field="type"):
    """To the target: store this relay's terms and say so; sent together with the source's `Start`."""

    terms: Terms


class Start(Message, frozen=True, tag="start", tag_field="type"):
    """To the source: draw keys and send the first shares."""

    terms: Terms


class Confirm(Message, frozen=True, tag="confirm", tag_field="type"):
    """To the source: the target's confirmation tag; if it is valid, the target has the keys: use them, and say so."""

    relay_id: UUID
    proof: Tag


class Cancel(Message, frozen=True, tag="cancel", tag_field="type"):
    """To both ends, once, when a relay has failed: whoever may, gives it up. Not answered, and nothing rests on it."""

    relay_id: UUID


class Deliver(Message, frozen=True, tag="deliver", tag_field="type"):
    """To the target, once: the source has confirmed. For people who list keys; nothing rests on it."""

    relay_id: UUID


class SetLink(Message, frozen=True, tag="set-link", tag_field="type"):
    """The QKD link to ``peer`` stops or resumes carrying."""

    command_id: UUID
    peer: Name
    up: bool


class SetLab(Message, frozen=True, tag="set-lab", tag_field="type"):
    """Behave as a compromised KME, or honestly again; obeyed only by a KME whose own lab is on."""

    command_id: UUID
    mode: LabMode | None


class Recall(Message, frozen=True, tag="recall", tag_field="type"):
    """Another coordinator leads now, and knows nothing of what is under way: say it once more."""


ToAnEnd = Expect | Start | Confirm | Cancel | Deliver
"""The commands about a relay, to its ends."""
AboutSupply = Assign | Assigned | AssignRefused | PeerStarted | NoSupply
"""What the coordinator carries from KME to KME, and says, about keys for applications."""
Command = ToAnEnd | SetLink | SetLab | Recall | AboutSupply


class Commands(Message, frozen=True):
    """The body of a `SignedMessage` from the coordinator."""

    items: Annotated[tuple[Command, ...], Meta(max_length=COMMANDS_MAX)]
