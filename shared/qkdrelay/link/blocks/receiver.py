"""Blocks of one direction of a QKD link at its receiving end: what is kept of each, and what to do about messages.

What is held is durable, and held before the sender hears of it. Each slot and each byte of pad opens one message, and
a device's is wiped in the commit that handles it. A block that was held is never held again, whatever its device or a
cache of it still gives: so what has opened a message is gone for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, Literal

from qkdrelay.errors import ForgedMessageError, MalformedMessageError, NumberReusedError
from qkdrelay.link.blocks.content import KeyBlock, pad_bytes
from qkdrelay.link.blocks.spans import Span, overlaps, with_span
from qkdrelay.messages.blocks import Announce, BlockId, Facts, Piece, SlotName
from qkdrelay.network.key_cost import SLOT_BYTES
from qkdrelay.network.names import Link

ENDED_S: Final = 3_720.0
"""Seconds for which a block is kept that is below the floor: the longest deadline, late time and a minute."""
BLOCKS_MAX: Final = 1_024
"""Blocks of one direction that are kept."""
_NO_BLOCK: Final = "no block of key of that name is held"
_OPENED_ANOTHER: Final = "slot {} of its block has opened another message"


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A block that is held: what it has of slots and pad, with zeros where a device's key was used."""

    facts: Facts
    tag: bytes
    """The proof that it is held."""
    slots: bytes = field(repr=False)
    pad: bytes = field(repr=False)
    used_slots: tuple[Span, ...] = ()
    used_pad: tuple[Span, ...] = ()
    """What has opened a message."""

    @classmethod
    def of(cls, block: KeyBlock) -> HeldKey:
        """Return what is to be kept of a block."""
        return cls(block.facts, block.held_tag(), block.slots, block.pad)

    @property
    def is_computed(self) -> bool:
        """Whether its key is computed of its id, as a simulated link's is: whoever can do that need not keep it."""
        return not self.facts.key_ids

    @property
    def is_used_up(self) -> bool:
        """Whether it can open nothing more: slots and pad both, since its pad may go with another block's slots."""
        return _is_all(self.used_slots, self.facts.slots) and _is_all(self.used_pad, pad_bytes(self.facts))

    def without_slot(self, index: int) -> HeldKey:
        """Return it after a slot has opened a message."""
        slots = self._wiped(self.slots, SLOT_BYTES * index, SLOT_BYTES)
        used = with_span(self.used_slots, index, index + 1)
        return HeldKey(self.facts, self.tag, slots, self.pad, used, self.used_pad)

    def without_pad(self, piece: Piece) -> HeldKey:
        """Return it after a piece of its pad has opened a message."""
        used = with_span(self.used_pad, piece.offset, piece.offset + piece.length)
        pad = self._wiped(self.pad, piece.offset, piece.length)
        return HeldKey(self.facts, self.tag, self.slots, pad, self.used_slots, used)

    def _wiped(self, key: bytes, start: int, length: int) -> bytes:
        return key if self.is_computed else key[:start] + bytes(length) + key[start + length :]


def answer_to(
    announce: Announce,
    link: Link,
    newest: BlockId,
    latest: BlockId,
    blocks: Mapping[BlockId, HeldKey],
    *,
    key_ids: Set[str],
) -> Literal["tell", "ignore", "fetch"] | str:
    """Return what to do about an announcement: tell the sender what is held, or nothing, or fetch the block's key.

    Or why it cannot be had. ``newest`` is the newest block that was ever held, ``latest`` the last that may be by the
    clock; ``key_ids`` are of all ``blocks``. Raises MalformedMessageError.
    """
    facts = announce.facts
    if facts.link != link:
        raise MalformedMessageError("the announcement is for another link")
    if pad_bytes(facts) < 0:
        raise MalformedMessageError(f"a block of {facts.length} bytes has no room for {facts.slots} slots")
    if (held := blocks.get(facts.block)) is not None:
        return "tell" if held.facts == facts else "ignore"
    if facts.block <= newest:
        # Held before, and gone; or the sender's clock went back: it is told what is newest.
        return "tell"
    if facts.block > latest:
        # Whoever knew the link's secret for a while would keep its sender out for ever.
        return "by its name it is of a time to come: are the clocks right?"
    named = set(facts.key_ids)
    if len(named) < len(facts.key_ids):
        return "it names a key twice"
    if not named.isdisjoint(key_ids):
        return "one of its keys is another block's"
    if len(blocks) >= BLOCKS_MAX and oldest_ended(blocks, facts.floor) is None:
        return f"{BLOCKS_MAX} blocks are kept, and no more can be"
    return "fetch"


def oldest_ended(blocks: Mapping[BlockId, HeldKey], floor: BlockId) -> BlockId | None:
    """Return the oldest block if it is below this floor: where there are too many it makes room for a newer one."""
    oldest = min(blocks, default=floor)
    return oldest if oldest < floor else None


def held(announce: Announce, key: bytes) -> HeldKey | None:
    """Return what to keep of an announced block whose key is here; None if it was announced by nobody who has it."""
    facts = announce.facts
    if len(key) != facts.length or pad_bytes(facts) < 0:
        return None
    block = KeyBlock(facts, key)
    return HeldKey.of(block) if block.is_announced_by(announce) else None


def slot_of(
    name: SlotName, tag: bytes, blocks: Mapping[BlockId, HeldKey], opened: Callable[[SlotName], bytes | None]
) -> bytes | None:
    """Return the slot that a message names, or None if it has opened this message before.

    ``opened`` returns the tag of the message that a slot has opened, if that is still known. If it has opened another
    one, whoever has the broker may have changed this one, which must blame nobody: a slot that is still known, since
    its key is computed, is returned all the same, to verify the tag with, and `pad_of` refuses then. Raises
    ForgedMessageError if it is not known any more, or there is no such block or slot.
    """
    held, before = blocks.get(name.block), None
    if held is not None and name.index >= held.facts.slots:
        raise ForgedMessageError(f"the block has {held.facts.slots} slots, and no slot {name.index}")
    if held is None or _is_used(held, name):
        before = opened(name)
        if before == tag:
            return None
        if held is None and before is None:
            raise ForgedMessageError(_NO_BLOCK)
        if held is None or before is None or not held.is_computed:
            raise ForgedMessageError(f"slot {name.index} of its block is used up, and this is not what it opened")
    return held.slots[SLOT_BYTES * name.index : SLOT_BYTES * (name.index + 1)]


def pad_of(name: SlotName, pieces: Sequence[Piece], length: int, blocks: Mapping[BlockId, HeldKey]) -> bytes:
    """Return the pad that a message names whose tag has been verified under the slot that it names.

    Raises NumberReusedError if slot or pad have opened another message: its sender is at fault, or there are two of it.
    Raises ForgedMessageError if the pad is not ``length`` bytes of blocks that are held.
    """
    if _is_used(_block(name.block, blocks), name):
        raise NumberReusedError(_OPENED_ANOTHER.format(name.index))
    if sum(piece.length for piece in pieces) != length:
        raise ForgedMessageError("the pieces of pad are not as long as the message")
    pad, taken = list[bytes](), dict[BlockId, tuple[Span, ...]]()
    for piece in pieces:
        held, start, end = _block(piece.block, blocks), piece.offset, piece.offset + piece.length
        if end > len(held.pad):
            raise ForgedMessageError(f"the block has {len(held.pad)} bytes of pad, and none at {end}")
        used = taken.get(piece.block, held.used_pad)
        if overlaps(used, start, end):
            raise NumberReusedError("its pad was used before")
        if len(pieces) > 1:
            taken[piece.block] = with_span(used, start, end)
        pad.append(held.pad[start:end])
    return b"".join(pad)


def wiped(name: SlotName, pieces: Sequence[Piece], blocks: Mapping[BlockId, HeldKey]) -> dict[BlockId, HeldKey]:
    """Return the blocks that a message was opened with as they are then; those that are used up may be deleted."""
    after = {name.block: blocks[name.block].without_slot(name.index)}
    for piece in pieces:
        after[piece.block] = after.get(piece.block, blocks[piece.block]).without_pad(piece)
    return after


def _is_all(used: Sequence[Span], length: int) -> bool:
    return not length or tuple(used) == ((0, length),)


def _is_used(held: HeldKey, name: SlotName) -> bool:
    return overlaps(held.used_slots, name.index, name.index + 1)


def _block(name: BlockId, blocks: Mapping[BlockId, HeldKey]) -> HeldKey:
    if (held := blocks.get(name)) is None:
        raise ForgedMessageError(_NO_BLOCK)
    return held
