"""Messages about blocks of link key, between the two ends of a QKD link (`qkdrelay.link.blocks`)."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from qkdrelay.messages.fields import Message, Name, Number, Tag, Text

BLOCK_ID_BYTES: Final = 16
"""6 of milliseconds since 1970, 10 of chance, as of epochs: nobody has the same, and they sort by time."""
BLOCK_BYTES_MIN, BLOCK_BYTES_MAX = 96, 2 << 20
"""Of one block: three keys of 256 bits at least."""
SLOTS_MAX: Final = BLOCK_BYTES_MAX // 32
KEY_IDS_MAX: Final = 2_048
"""Keys of a device in one block: one request, or sixteen where the device keeps what was not fetched."""
HELD_MAX: Final = 64
"""Blocks of one direction that a receiver lists."""
PIECES_MAX: Final = 256
"""Pieces that the pad of one message is made of."""

BlockId = Annotated[bytes, Meta(min_length=BLOCK_ID_BYTES, max_length=BLOCK_ID_BYTES)]
RUN_BYTES: Final = 16
Run = Annotated[bytes, Meta(min_length=RUN_BYTES, max_length=RUN_BYTES)]
"""Chance, drawn by a receiver at each start; never ordered."""
Nonce = Annotated[bytes, Meta(max_length=8)]
"""Of a question for a turn, where devices cannot draw at both ends at once; empty where there is none."""
KeyId = Annotated[str, Meta(min_length=1, max_length=128)]


class Facts(Message, frozen=True):
    """What a block is: what each of its bytes is for follows from this, and from no message's header."""

    link: tuple[Name, Name]
    """Sender and receiver."""
    block: BlockId
    floor: BlockId
    """Of the oldest block that the sender may still seal under."""
    length: Annotated[int, Meta(ge=BLOCK_BYTES_MIN, le=BLOCK_BYTES_MAX)]
    """Bytes of key; of a device's keys what is left over behind them is for nothing."""
    slots: Annotated[int, Meta(ge=0, le=SLOTS_MAX)]
    """None where messages are longer than blocks, and others have enough."""
    key_ids: Annotated[tuple[KeyId, ...], Meta(max_length=KEY_IDS_MAX)]
    """Of the device's keys, in their order; none for a link that is computed."""


class Announce(Message, frozen=True, tag="announce", tag_field="type"):
    """From the sender: there is a block."""

    facts: Facts
    tag: Tag
    """Authenticates the facts, and no more."""
    turn: Nonce
    """In which it was drawn."""


class HeldBlock(Message, frozen=True):
    """A block that the receiver has, and the proof of it."""

    block: BlockId
    tag: Tag


class RefusedBlock(Message, frozen=True):
    """A block that the receiver cannot have."""

    block: BlockId
    reason: Text


class BlocksHeld(Message, frozen=True, tag="held", tag_field="type"):
    """From the receiver: what it holds. Only the tags are proof of something; the rest can cost blocks and no more."""

    link: tuple[Name, Name]
    run: Run
    newest: BlockId
    """Of all blocks that were ever held, the newest; zeros if none was."""
    held: Annotated[tuple[HeldBlock, ...], Meta(max_length=HELD_MAX)]
    refused: Annotated[tuple[RefusedBlock, ...], Meta(max_length=HELD_MAX)]
    asks: Nonce
    """For a turn to draw, for the other direction."""
    gives: Nonce
    """The turn that was asked for so."""


class SlotName(Message, frozen=True, array_like=True):
    """Where the tag key of a message is. An array: every message has one."""

    block: BlockId
    index: Number


class Piece(Message, frozen=True, array_like=True):
    """A piece of pad, addressed within the pad of its block. An array, too."""

    block: BlockId
    offset: Number
    length: Annotated[int, Meta(ge=1, le=BLOCK_BYTES_MAX)]
