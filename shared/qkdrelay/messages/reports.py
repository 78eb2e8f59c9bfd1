"""Reports of a KME to the coordinator, and the messages it gives up (protocol, section 6)."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from uuid import UUID

from msgspec import Meta

from qkdrelay.messages.assignments import Assign, Assigned, AssignRefused, Supplies
from qkdrelay.messages.control import SetLab, SetLink, Terms
from qkdrelay.messages.fields import (
    ROUTES_MAX,
    Epoch,
    Message,
    Name,
    Number,
    QueueName,
    Routes,
    Seconds,
    Tag,
    Text,
    WireRoute,
)
from qkdrelay.messages.states import LabMode
from qkdrelay.network.plan import KMES_MAX, SUCCESSORS_MAX
from qkdrelay.network.topology import BUFFER_BYTES_MAX, SourceKind

SILENT_S: Final = 30.0
"""A KME that has not said hello for so long has a problem: it says so every 10 s."""
SKEW_MAX_S: Final = 5.0
"""A KME whose clock differs by more raises an alarm: deadlines are in absolute time."""
REPORTS_MAX = 2_000
"""Reports in one message: it is taken in as a whole, and the answer to the first waits for the last."""


class LinkKeyReport(Message, frozen=True):
    """Where the key of one direction of a link comes from, and what became of it, since its KME's start."""

    source: SourceKind
    blocks_granted: Number
    """Blocks of key that the receiver has said it holds."""
    blocks_given_up: Number
    """Times that key was given up before it was used."""
    why_given_up: Text
    """The last time."""
    why_dry: Text
    """Why there is no key to be had now; empty if there is."""


class LinkReport(Message, frozen=True):
    """One outgoing direction of a QKD link as its KME sees it."""

    peer: Name
    up: bool
    available_bytes: Number
    buffer_bytes: Annotated[int, Meta(ge=1, le=BUFFER_BYTES_MAX)]
    rate_bps: Number
    """Bits of key a second that come to the sender."""
    waiting: Number
    key: LinkKeyReport


class Hello(Message, frozen=True, tag="hello", tag_field="type"):
    """Sent on connecting to the broker and every few seconds."""

    clock: Seconds
    version: Text
    """Of the program."""
    lab: bool
    lab_mode: LabMode | None
    links: Annotated[tuple[LinkReport, ...], Meta(max_length=KMES_MAX - 1)]
    pending: Number
    """Relays that start or end here and are undecided."""
    away: Annotated[tuple[Name, ...], Meta(max_length=KMES_MAX)] = ()
    """The other sites at whose brokers it can read nothing now."""
    heard: Epoch | None = None
    """The latest epoch of the coordinator's orders; older ones are not carried out."""


class Recalled(Message, frozen=True, tag="recalled", tag_field="type"):
    """The terms of a relay that is under way at this end, for a coordinator that may not know it (`Recall`)."""

    terms: Terms


class Expected(Message, frozen=True, tag="expected", tag_field="type"):
    """The target has stored the terms."""

    relay_id: UUID


class Started(Message, frozen=True, tag="started", tag_field="type"):
    """The source has drawn keys and stored the first shares."""

    relay_id: UUID


class Refused(Message, frozen=True, tag="refused", tag_field="type"):
    """An end does not take part in this relay."""

    relay_id: UUID
    reason: Text


class Split(Message, frozen=True, tag="split", tag_field="type"):
    """A KME split the share on ``route`` into so many; ``threshold`` of them rebuild it."""

    relay_id: UUID
    route: WireRoute
    shares: Annotated[int, Meta(ge=1, le=SUCCESSORS_MAX)]
    threshold: Annotated[int, Meta(ge=1, le=SUCCESSORS_MAX)]


class Forwarded(Message, frozen=True, tag="forwarded", tag_field="type"):
    """A KME forwarded the share on ``route``."""

    relay_id: UUID
    route: WireRoute


class Waiting(Message, frozen=True, tag="waiting", tag_field="type"):
    """The share for ``route`` waits at its sender: the link is down or has no key. Without a reason: not any more."""

    relay_id: UUID
    route: WireRoute
    reason: Text


class Collected(Message, frozen=True, tag="collected", tag_field="type"):
    """The share on ``route`` has reached the target."""

    relay_id: UUID
    route: WireRoute


class Rejected(Message, frozen=True, tag="rejected", tag_field="type"):
    """A KME did not accept a message that came over ``link``."""

    relay_id: UUID | None
    route: WireRoute | None
    """Both as the message had them, if its seal was good."""
    link: tuple[Name, Name]
    reason: Text


class Rebuilt(Message, frozen=True, tag="rebuilt", tag_field="type"):
    """The target has rebuilt the keys and released them; with its confirmation tag."""

    relay_id: UUID
    proof: Tag


class Dispute(Message, frozen=True):
    """Shares of the split at the end of ``split`` that do not fit together; each set agrees within itself."""

    split: WireRoute
    sets: Annotated[tuple[Routes, ...], Meta(max_length=ROUTES_MAX)]


class Findings(Message, frozen=True, tag="findings", tag_field="type"):
    """Findings of the target about those on the way, from its shares; the latest ones count."""

    relay_id: UUID
    false: Routes
    disputed: Annotated[tuple[Dispute, ...], Meta(max_length=ROUTES_MAX)]
    equivocating: Routes
    unclear: Literal["", "ambiguous", "exhausted", "cut"]
    """Several secrets decode; there may be more to find; there is more, and it did not fit."""


class Confirmed(Message, frozen=True, tag="confirmed", tag_field="type"):
    """The source found the target's confirmation tag valid, and has released the keys."""

    relay_id: UUID


class Done(Message, frozen=True, tag="done", tag_field="type"):
    """The outcome of a command; ``error`` is empty when it was carried out."""

    command: SetLink | SetLab
    error: Text


class Alarm(Message, frozen=True, tag="alarm", tag_field="type"):
    """Something an operator should look at."""

    event: Text
    text: Text


AboutSupply = Assign | Assigned | AssignRefused | Supplies
"""What the coordinator carries from KME to KME, and is told, about keys for applications."""
Report = (
    Hello
    | Recalled
    | Expected
    | Started
    | Refused
    | Split
    | Forwarded
    | Waiting
    | Collected
    | Rejected
    | Rebuilt
    | Findings
    | Confirmed
    | Done
    | Alarm
    | AboutSupply
)
URGENT = Recalled | Refused | Rebuilt | Done | Assign | Assigned | AssignRefused
"""The reports that something waits for; the others tell what became of shares."""


class Reports(Message, frozen=True):
    """The body of a `SignedMessage` from a KME."""

    items: Annotated[tuple[Report, ...], Meta(max_length=REPORTS_MAX)]


class DeadLetter(Message, frozen=True):
    """A message its receiver did not accept, and why; ``body`` is still sealed or signed."""

    kme: Name
    queue: QueueName
    reason: Text
    at: Seconds
    body: bytes
    """As it came; cut to `DEAD_LETTER_BODY_MAX`."""


DEAD_LETTER_BODY_MAX = 65_536
