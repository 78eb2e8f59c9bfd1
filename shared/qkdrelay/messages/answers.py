"""Answers of the coordinator to its clients."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta

from qkdrelay.messages.assignments import PAIRS_SHOWN_MAX, OutgoingSupply, SaePair
from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.fields import (
    Message,
    Name,
    Number,
    PlanBytes,
    QueueName,
    Routes,
    Seconds,
    Text,
    WireRoute,
)
from qkdrelay.messages.network_answers import NetworkView
from qkdrelay.messages.reports import Dispute
from qkdrelay.messages.states import RelayState

SUPPLIES_SHOWN_MAX: Final = 1_000
"""Supplies in one answer."""


class ShortSplit(Message, frozen=True):
    """A split that has fewer shares than it needs."""

    split: WireRoute
    present: Number
    needed: Number


class Stuck(Message, frozen=True):
    """A share that has not come over the last link of ``route``."""

    route: WireRoute
    reason: Text
    """The reason why it waits (``link.down`` and the like), or ``dropped: `` and ``refused: `` with what was wrong."""


class RelayView(Message, frozen=True, tag="relay", tag_field="type"):
    """A relay as the coordinator knows it."""

    relay_id: UUID
    source: Name
    target: Name
    state: RelayState
    reason: str
    policy: Text
    withstand: FixedDemand
    """The terms' demand on the plan, which both ends check."""
    protected: bool
    relies_on: tuple[Name, ...]
    plan: PlanBytes
    key_count: Number
    key_size_bits: Number
    created_at: Seconds
    deadline: Seconds
    elapsed_s: Seconds
    """Time from the request to the end, or to now."""
    planned_share_messages: Number
    split: Routes
    """Shares, by the route to their holder, that were split there."""
    forwarded: Routes
    collected: Routes
    """Shares that reached the target."""
    missing: Routes
    """Planned routes whose share has not reached the target."""
    stuck: tuple[Stuck, ...]
    short_splits: tuple[ShortSplit, ...]
    false_shares: Routes
    disputed: tuple[Dispute, ...]
    equivocating: Routes
    released_at: tuple[Name, ...]
    """The ends that have said that they released the keys."""
    final: bool
    """Nothing about this relay is expected to change any more."""


class RelaySummary(Message, frozen=True, tag="summary", tag_field="type"):
    """One line of a list of relays, or how one ended."""

    relay_id: UUID
    source: Name
    target: Name
    state: RelayState
    key_count: Number
    key_size_bits: Number
    supply: bool
    """Whether it is one of supply, which keys for applications are cut from."""
    created_at: Seconds
    elapsed_s: Seconds
    reason: str


class RelaysView(Message, frozen=True, tag="relays", tag_field="type"):
    """The latest relays, newest first."""

    relays: tuple[RelaySummary, ...]
    total: Number


class SupplyView(Message, frozen=True):
    """Supply from one KME for another, of one level, as the source said last."""

    source: Name
    said_s_ago: Seconds
    supply: OutgoingSupply
    refills: Number
    """Relays of supply that are under way for it."""
    served: Text
    """Why it is refilled now, or needs no refill, as the coordinator sees it; empty if something is in the way."""
    why: Text
    """What is in the way; empty for nothing."""


class SaePairView(Message, frozen=True):
    """A pair of SAEs, as the master's KME said last."""

    kme: Name
    said_s_ago: Seconds
    pair: SaePair


class SuppliesView(Message, frozen=True, tag="supplies", tag_field="type"):
    """Keys for applications as the coordinator knows of them."""

    kmes: tuple[Name, ...]
    """The KMEs that have applications."""
    supplies: Annotated[tuple[SupplyView, ...], Meta(max_length=SUPPLIES_SHOWN_MAX)]
    pairs: Annotated[tuple[SaePairView, ...], Meta(max_length=PAIRS_SHOWN_MAX)]
    left_out: Number
    """Supplies and pairs that there are besides."""


class AttackView(Message, frozen=True, tag="attack", tag_field="type"):
    """The outcome of an attack with all that compromised KMEs have leaked; never the secret itself."""

    relay_id: UUID
    kmes: tuple[Name, ...]
    """The KMEs whose leaks were used."""
    shares_held: Number
    learned: bool
    short_splits: tuple[ShortSplit, ...]


class DeadLetterSummary(Message, frozen=True):
    """One line of a list of dead letters."""

    letter: Number
    at: Seconds
    age_s: Seconds
    queue: QueueName
    """The queue it came from, as far as who gave it up tells."""
    sender: Text
    """The only one who may write that queue; empty if the queue does not tell."""
    given_up_by: Text
    size: Number
    whole: bool
    """False: it was longer, and was cut."""
    reason: Text


class DeadLettersView(Message, frozen=True, tag="dead-letters", tag_field="type"):
    """The latest dead letters, newest first."""

    letters: tuple[DeadLetterSummary, ...]
    total: Number


class DeadLetterView(Message, frozen=True, tag="dead-letter", tag_field="type"):
    """One dead letter; its bytes are sealed, signed, or anything at all."""

    letter: DeadLetterSummary
    body: bytes


class AlarmView(Message, frozen=True):
    """Something that happened and asks for somebody, as the coordinator logged it."""

    at: Seconds
    event: Text
    about: Text
    """The KME, link or queue."""
    text: Text


class AttentionView(Message, frozen=True, tag="attention", tag_field="type"):
    """What asks for somebody, each newest first."""

    alarms: tuple[AlarmView, ...]
    """Since the coordinator's start, a few of each kind about each."""
    failed: tuple[RelaySummary, ...]
    """The latest relays that failed."""
    letters: tuple[DeadLetterSummary, ...]
    letters_total: Number


class Acknowledged(Message, frozen=True, tag="acknowledged", tag_field="type"):
    """The request was carried out."""

    text: Text


class Refusal(Message, frozen=True, tag="refusal", tag_field="type"):
    """The request cannot be carried out: one line, and what would be right."""

    text: str
    hint: str | None
    unanswered: bool
    """Whether it was passed on and a KME has not answered: then nobody has refused it."""


class Late(Message, frozen=True, tag="late", tag_field="type"):
    """The request is older, or newer, than the coordinator takes: send it again, by its clock."""

    clock: Seconds


ReplyBody = (
    RelayView
    | RelaySummary
    | RelaysView
    | NetworkView
    | SuppliesView
    | AttackView
    | DeadLettersView
    | DeadLetterView
    | AttentionView
    | Acknowledged
    | Refusal
    | Late
)


class Reply(Message, frozen=True):
    """The body of a `SignedMessage` from the coordinator: an answer to one request; some have more than one."""

    request_id: UUID
    body: ReplyBody
