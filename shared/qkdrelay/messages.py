"""Every message of the protocol: typed, frozen, versioned.

A message says nothing about who sent it: that is the exchange it came through, and the seal or
signature on it. Secret bytes travel only inside the ciphertext of a `SealedMessage` (and, where an
operator switched the lab on, of a `SealedLeak`).
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID, uuid5

from msgspec import Meta, Struct

from qkdrelay.network.plan import KMES_MAX

KEY_COUNT_MAX = 16_384
KEY_SIZE_BITS_MIN, KEY_SIZE_BITS_MAX = 64, 65_536
KEY_BYTES_MAX = 512 * 1024
"""Keys of one relay, together; with its header such a share fits the broker's message limit."""
TIMEOUT_S_MIN, TIMEOUT_S_MAX = 1.0, 3_600.0
COMMANDS_MAX, REPORTS_MAX = 32, 2_000
"""Commands and reports in one message: it is taken in as a whole, and the answer to the first waits for the last."""

Name = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}\Z")]
Number = Annotated[int, Meta(ge=0, le=2**62)]
Epoch = Annotated[bytes, Meta(min_length=16, max_length=16)]
Tag = Annotated[bytes, Meta(min_length=16, max_length=16)]
Mac = Annotated[bytes, Meta(min_length=32, max_length=32)]
WireRoute = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=512)]
Seconds = Annotated[float, Meta(ge=0, le=4e9)]
PlanBytes = Annotated[bytes, Meta(max_length=65_536)]
Text = Annotated[str, Meta(max_length=500)]
ROUTES_MAX = 8_192
Routes = Annotated[tuple[WireRoute, ...], Meta(max_length=ROUTES_MAX)]
KmeCount = Annotated[int, Meta(ge=0, le=1_000)]
LabMode = Literal["leak", "tamper", "withhold"]
RelayState = Literal["planned", "started", "reconstructed", "confirmed", "failed"]
TERMINAL: frozenset[str] = frozenset({"confirmed", "failed"})


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """A message or a part of one; a field too many, missing or of another type is malformed."""


# --- on a QKD link ---------------------------------------------------------------------------------


class SealedMessage(Message, frozen=True):
    """What travels over a QKD link: immutable bytes, published again as they are or never."""

    header: Annotated[bytes, Meta(max_length=131_072)]
    ciphertext: bytes
    tag: Tag


class ShareHeader(Message, frozen=True):
    """The clear part of a sealed share, covered by the tag."""

    link: tuple[Name, Name]
    epoch: Epoch
    number: Number
    pad_offset: Number
    relay_id: UUID
    route: WireRoute
    """Ends in the receiver."""
    plan: PlanBytes
    """The part below the receiver, canonical (`codec.encode_plan`)."""
    deadline: Seconds


# --- between the coordinator and a KME -------------------------------------------------------------


class SignedMessage(Message, frozen=True):
    """A list of commands or reports, a request or an answer, under HMAC-SHA-256, with a number against replay."""

    sender: Name
    recipient: Name
    epoch: Epoch
    number: Number
    body: bytes
    mac: Mac


class Demand(Message, frozen=True):
    """How many KMEs a relay's plan must withstand at the same time: that read along, that are down, that tamper."""

    compromised: KmeCount
    failed: KmeCount
    tampering: KmeCount

    @property
    def readers(self) -> int:
        """How many KMEs together must not learn the keys: a tampering one reads along, too."""
        return max(self.compromised, self.tampering)

    @property
    def lost(self) -> int:
        """How many KMEs must not be needed: what a tampering one sends is of no use."""
        return self.failed + self.tampering


class Terms(Message, frozen=True):
    """What both ends of a relay must agree on; the confirmation tags cover it, but for the deadline."""

    relay_id: UUID
    plan: PlanBytes
    key_count: Annotated[int, Meta(ge=1, le=KEY_COUNT_MAX)]
    key_size_bits: Annotated[int, Meta(ge=KEY_SIZE_BITS_MIN, le=KEY_SIZE_BITS_MAX, multiple_of=8)]
    withstand: Demand
    """What the plan was asked to withstand; neither end takes a plan that does not."""
    deadline: Seconds


class Expect(Message, frozen=True, tag="expect", tag_field="type"):
    """To the target: store this relay's terms and say so."""

    terms: Terms


class Start(Message, frozen=True, tag="start", tag_field="type"):
    """To the source: draw keys and send the first shares."""

    terms: Terms


class Prove(Message, frozen=True, tag="prove", tag_field="type"):
    """To either end: the other end's confirmation tag; verify it and say so."""

    relay_id: UUID
    peer_proof: Tag


class Decide(Message, frozen=True, tag="decide", tag_field="type"):
    """To either end: release the keys, or destroy them."""

    relay_id: UUID
    confirmed: bool


class SetLink(Message, frozen=True, tag="set-link", tag_field="type"):
    """The QKD link to ``peer`` stops or resumes carrying."""

    command_id: UUID
    peer: Name
    up: bool


class SetLab(Message, frozen=True, tag="set-lab", tag_field="type"):
    """Behave as a compromised KME, or honestly again; obeyed only by a KME whose own lab is on."""

    command_id: UUID
    mode: LabMode | None


Command = Expect | Start | Prove | Decide | SetLink | SetLab


class Commands(Message, frozen=True):
    """The body of a `SignedMessage` from the coordinator."""

    items: Annotated[tuple[Command, ...], Meta(max_length=COMMANDS_MAX)]


class LinkReport(Message, frozen=True):
    """One outgoing direction of a QKD link as its KME sees it."""

    peer: Name
    up: bool
    available_bytes: Number
    buffer_bytes: Annotated[int, Meta(ge=1, le=1 << 34)]
    waiting: Number


class Hello(Message, frozen=True, tag="hello", tag_field="type"):
    """Sent on connecting to the broker and every few seconds."""

    clock: Seconds
    lab: bool
    lab_mode: LabMode | None
    links: Annotated[tuple[LinkReport, ...], Meta(max_length=KMES_MAX - 1)]
    pending: Number
    """Relays whose keys are here and wait for a decision."""


class Expected(Message, frozen=True, tag="expected", tag_field="type"):
    """The target has stored the terms."""

    relay_id: UUID


class Started(Message, frozen=True, tag="started", tag_field="type"):
    """The source has stored keys and first shares; with its confirmation tag."""

    relay_id: UUID
    proof: Tag


class Refused(Message, frozen=True, tag="refused", tag_field="type"):
    """An end does not take part in this relay."""

    relay_id: UUID
    reason: Text


class Split(Message, frozen=True, tag="split", tag_field="type"):
    """A KME split the share on ``route`` into so many; ``threshold`` of them rebuild it."""

    relay_id: UUID
    route: WireRoute
    shares: Annotated[int, Meta(ge=1, le=255)]
    threshold: Annotated[int, Meta(ge=1, le=255)]


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
    """The target has rebuilt the secret; with its confirmation tag."""

    relay_id: UUID
    proof: Tag


class Dispute(Message, frozen=True):
    """Shares of the split at the end of ``split`` that do not fit together; each set agrees within itself."""

    split: WireRoute
    sets: Annotated[tuple[Routes, ...], Meta(max_length=ROUTES_MAX)]


class Findings(Message, frozen=True, tag="findings", tag_field="type"):
    """What the target's shares say about those on the way; the latest one counts."""

    relay_id: UUID
    false: Routes
    disputed: Annotated[tuple[Dispute, ...], Meta(max_length=ROUTES_MAX)]
    equivocating: Routes
    unclear: Literal["", "ambiguous", "exhausted", "cut"]
    """Several secrets decode; there may be more to find; there is more, and it did not fit."""


class Verified(Message, frozen=True, tag="verified", tag_field="type"):
    """Whether the other end's confirmation tag is valid for the keys here."""

    relay_id: UUID
    valid: bool


class Decided(Message, frozen=True, tag="decided", tag_field="type"):
    """The decision is carried out."""

    relay_id: UUID
    confirmed: bool


class Done(Message, frozen=True, tag="done", tag_field="type"):
    """The outcome of a command; ``error`` is empty when it was carried out."""

    command: SetLink | SetLab
    error: Text


class Alarm(Message, frozen=True, tag="alarm", tag_field="type"):
    """Something an operator should look at."""

    event: Text
    text: Text


Report = (
    Hello
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
    | Verified
    | Decided
    | Done
    | Alarm
)


HURRIED = Expected | Started | Refused | Rebuilt | Verified | Done
"""The reports that something waits for; the others tell what became of shares."""


class Reports(Message, frozen=True):
    """The body of a `SignedMessage` from a KME."""

    items: Annotated[tuple[Report, ...], Meta(max_length=REPORTS_MAX)]


# --- beside the relay ------------------------------------------------------------------------------


BUNDLE_MAX = 64
"""Messages in one bundle."""
Bodies = Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=BUNDLE_MAX)]


class Bundle(Message, frozen=True):
    """Messages for one queue that travel in one of the broker's; each is what it would be if it had come alone."""

    bodies: Bodies


class DeadLetter(Message, frozen=True):
    """A message its receiver did not accept, and why; ``body`` is still sealed or signed."""

    kme: Name
    queue: Annotated[str, Meta(max_length=200)]
    reason: Text
    at: Seconds
    body: bytes
    """As it came; cut to `DEAD_LETTER_BODY_MAX`."""


DEAD_LETTER_BODY_MAX = 65_536


class SealedLeak(Message, frozen=True):
    """Lab only: a `Leak` on its way to the coordinator (see `qkdrelay.leaking`)."""

    salt: Annotated[bytes, Meta(min_length=32, max_length=32)]
    ciphertext: bytes
    """Ends in the tag."""


class Leak(Message, frozen=True):
    """Lab only: what a compromised KME hands to the adversary; travels in a `SealedLeak`."""

    kme: Name
    relay_id: UUID
    route: WireRoute
    payload: bytes

    def __repr__(self) -> str:
        return f"Leak(kme={self.kme!r}, relay_id={self.relay_id}, route={self.route}, {len(self.payload)} bytes)"


def key_id(relay_id: UUID, index: int) -> UUID:
    """Return the key_ID of key ``index`` (from 0) of a relay: UUIDv5(relay_id, str(index)) (protocol, section 5)."""
    return uuid5(relay_id, str(index))


def check_key_amount(key_count: int, key_size_bits: int) -> str | None:
    """Return what is wrong with an amount of keys for one relay, or None."""
    if not 1 <= key_count <= KEY_COUNT_MAX:
        return f"{key_count} keys were asked for; 1 to {KEY_COUNT_MAX} are possible"
    if key_size_bits % 8 or not KEY_SIZE_BITS_MIN <= key_size_bits <= KEY_SIZE_BITS_MAX:
        low, high = KEY_SIZE_BITS_MIN, KEY_SIZE_BITS_MAX
        return f"key size {key_size_bits} bits; it must be a multiple of 8 from {low} to {high}"
    if key_count * key_size_bits // 8 > KEY_BYTES_MAX:
        return f"{key_count} keys of {key_size_bits} bits are more than {KEY_BYTES_MAX} bytes, the most for one relay"
    return None
