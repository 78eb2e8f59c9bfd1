"""Messages on a QKD link (protocol, section 4)."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from msgspec import Meta

from qkdrelay.messages.blocks import PIECES_MAX, Piece, SlotName
from qkdrelay.messages.fields import Message, Name, PlanBytes, Seconds, Tag, WireRoute


class SealedMessage(Message, frozen=True):
    """A message over a QKD link: immutable bytes, published again as they are or never."""

    header: Annotated[bytes, Meta(max_length=131_072)]
    ciphertext: bytes
    tag: Tag


class ShareHeader(Message, frozen=True):
    """The clear part of a sealed share, covered by the tag."""

    link: tuple[Name, Name]
    slot: SlotName
    """Of the key that authenticates it."""
    pad: Annotated[tuple[Piece, ...], Meta(max_length=PIECES_MAX)]
    """What its body is encrypted with, in order; none where the suite takes none."""
    relay_id: UUID
    route: WireRoute
    """Ends in the receiver."""
    plan: PlanBytes
    """The part below the receiver, canonical (`plans.encode_plan`)."""
    deadline: Seconds


BUNDLE_MAX = 64
"""Messages in one bundle."""


class Bundle(Message, frozen=True):
    """Messages for one queue that travel in one of the broker's; each is what it would be if it had come alone."""

    bodies: Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=BUNDLE_MAX)]
