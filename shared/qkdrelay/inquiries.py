"""What the command line asks the coordinator, and what it answers: typed, frozen, versioned."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from msgspec import Meta

from qkdrelay.messages import (
    Demand,
    Dispute,
    KmeCount,
    LabMode,
    LinkReport,
    Message,
    Name,
    Number,
    PlanBytes,
    RelayState,
    Routes,
    Seconds,
    Text,
    WireRoute,
)
from qkdrelay.network.topology import Trust


class Wish(Message, frozen=True):
    """How many KMEs may be compromised, fail and tamper at the same time; see `network.candidates.Withstand`."""

    compromised: KmeCount
    failed: KmeCount | None
    """None: one if the network allows it."""
    tampering: KmeCount


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
    withstand: Wish | None
    """None: one compromised KME, and one failed one if the network allows it."""
    allow_unprotected: bool
    follow: bool
    """Show the relay now and whenever it changes; otherwise say once, in a line, how it ended."""


class RelaysRequest(Message, frozen=True, tag="relays", tag_field="type"):
    """List the latest relays."""

    limit: Annotated[int, Meta(ge=1, le=1_000)]


class ShowRequest(Message, frozen=True, tag="show", tag_field="type"):
    """Show one relay, named by its id or by the beginning of it."""

    relay: Text
    follow: bool
    """Send the relay again whenever it changes, until it is complete."""


class NetworkRequest(Message, frozen=True, tag="network", tag_field="type"):
    """Show the network as it is now."""


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
    kmes: Annotated[tuple[Text, ...], Meta(max_length=512)]
    """Use only what these KMEs leaked; empty for all."""


class DeadLettersRequest(Message, frozen=True, tag="dead-letters", tag_field="type"):
    """List the latest messages that nobody accepted."""

    limit: Annotated[int, Meta(ge=1, le=1_000)]


class DeadLetterRequest(Message, frozen=True, tag="dead-letter", tag_field="type"):
    """Show one of them."""

    letter: Number


class RequeueRequest(Message, frozen=True, tag="requeue", tag_field="type"):
    """Put dead letters back into the queues they came from: all of these or none."""

    letters: Annotated[tuple[Number, ...], Meta(min_length=1, max_length=100)]


class DropRequest(Message, frozen=True, tag="drop", tag_field="type"):
    """Delete dead letters: all of these or none; None: whatever there is."""

    letters: Annotated[tuple[Number, ...], Meta(min_length=1, max_length=1_000)] | None


RequestBody = (
    RelayRequest
    | RelaysRequest
    | ShowRequest
    | NetworkRequest
    | LinkRequest
    | LabRequest
    | AttackRequest
    | DeadLettersRequest
    | DeadLetterRequest
    | RequeueRequest
    | DropRequest
)


class Request(Message, frozen=True):
    """The body of a `SignedMessage` from the command line: one request; the answer goes to its queue."""

    request_id: UUID
    """Random: what is answered, also where a request is sent once more."""
    reply_to: Annotated[str, Meta(pattern=r"^cli\.q\.[0-9a-f-]{1,64}\Z")]
    at: Seconds
    """When it was sent, in seconds since the epoch."""
    body: RequestBody


class ShortSplit(Message, frozen=True):
    """A split that has fewer shares than it needs."""

    split: WireRoute
    present: Number
    needed: Number


class Stuck(Message, frozen=True):
    """A share that has not come over the last link of ``route``."""

    route: WireRoute
    reason: Text
    """Why it waits (``link.down`` and the like), or ``dropped: `` and ``refused: `` with what was wrong."""


class RelayView(Message, frozen=True, tag="relay", tag_field="type"):
    """A relay as the coordinator knows it."""

    relay_id: UUID
    source: Name
    target: Name
    state: RelayState
    reason: str
    policy: Text
    withstand: Demand
    """What the terms demand of the plan, and both ends check."""
    protected: bool
    relies_on: tuple[Name, ...]
    plan: PlanBytes
    key_count: Number
    key_size_bits: Number
    created_at: Seconds
    deadline: Seconds
    elapsed_s: Seconds
    """From the request to the decision, or to now."""
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
    """The ends that have carried the decision out."""
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
    created_at: Seconds
    elapsed_s: Seconds
    reason: str


class RelaysView(Message, frozen=True, tag="relays", tag_field="type"):
    """The latest relays, newest first."""

    relays: tuple[RelaySummary, ...]
    total: Number


class KmeView(Message, frozen=True):
    """A KME as its last `Hello` described it."""

    name: Name
    trust: Trust | None
    """What the topology notes of it."""
    heard_s_ago: Seconds | None
    lab: bool
    lab_mode: LabMode | None
    pending: Number
    links: tuple[LinkReport, ...]


class NotedLink(Message, frozen=True):
    """What the topology says of the link between ``a`` and ``b`` (see `qkdrelay.network.topology.LinkNote`)."""

    a: Name
    b: Name
    suite: Text | None
    rate_bps: Number | None
    buffer_bytes: Number | None


class NetworkView(Message, frozen=True, tag="network", tag_field="type"):
    """The network as the coordinator knows it."""

    name: Text
    lab: bool
    kmes: tuple[KmeView, ...]
    links: tuple[tuple[Name, Name], ...]
    noted: tuple[NotedLink, ...]
    down: tuple[tuple[Name, Name], ...]


class AttackView(Message, frozen=True, tag="attack", tag_field="type"):
    """What the pooled knowledge of all compromised KMEs came to; never the secret itself."""

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
    queue: Annotated[str, Meta(max_length=200)]
    """Where it came from, as far as who gave it up tells."""
    sender: Text
    """Who may write that queue; empty if the queue does not tell."""
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


class Acknowledged(Message, frozen=True, tag="acknowledged", tag_field="type"):
    """The request was carried out."""

    text: Text


class Refusal(Message, frozen=True, tag="refusal", tag_field="type"):
    """The request cannot be carried out: one line, and what would be right."""

    text: str
    hint: str | None
    unanswered: bool
    """It was passed on, and a KME has not answered; not refused by anybody."""


class Late(Message, frozen=True, tag="late", tag_field="type"):
    """The request is older, or newer, than the coordinator takes: send it again, by its clock."""

    clock: Seconds


ReplyBody = (
    RelayView
    | RelaySummary
    | RelaysView
    | NetworkView
    | AttackView
    | DeadLettersView
    | DeadLetterView
    | Acknowledged
    | Refusal
    | Late
)


class Reply(Message, frozen=True):
    """The body of a `SignedMessage` from the coordinator: an answer to one request; some have more than one."""

    request_id: UUID
    body: ReplyBody


def unlike(
    wanted: RelayRequest, *, ends: tuple[str, str], key_count: int, key_size_bits: int, withstand: Demand
) -> str | None:
    """Return in what a relay (from ``ends[0]`` to ``ends[1]``) is not the one that is asked for, or None."""
    wish = wanted.withstand or Wish(compromised=1, failed=None, tampering=0)
    pairs: list[tuple[str, object, object]] = [
        ("from", ends[0], wanted.source),
        ("to", ends[1], wanted.target),
        ("keys", key_count, wanted.key_count),
        ("bits a key", key_size_bits, wanted.key_size_bits),
    ]
    if not wanted.allow_unprotected:  # the best there is, then
        pairs += [
            ("compromised", withstand.compromised, wish.compromised),
            ("failed", withstand.failed, withstand.failed if wish.failed is None else wish.failed),
            ("tampering", withstand.tampering, wish.tampering),
        ]
    return next((f"{what} {has}, not {asked}" for what, has, asked in pairs if has != asked), None)
