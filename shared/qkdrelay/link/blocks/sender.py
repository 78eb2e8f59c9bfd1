"""Blocks of one direction of a QKD link at its sending end: in memory only, so that no copy of a store brings one back.

Nothing is sealed under a block before its receiver has proved that it holds it. What is taken of a block is never given
back, also if the commit of what was sealed with it fails. A block is dropped, with all that is left of it, rather than
used in doubt: when the connection on which messages leave is another one (of two copies of a running machine one loses
it), and when its receiver began anew and does not hold it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from qkdrelay.link.blocks.content import KeyBlock, pad_bytes
from qkdrelay.messages.blocks import BLOCK_ID_BYTES, PIECES_MAX, Announce, BlocksHeld, Facts, Piece, Run, SlotName
from qkdrelay.network.names import Link
from qkdrelay.randomness import epoch_after

ANNOUNCED_S: Final = 60.0
"""Seconds after which a block that nobody holds is dropped."""
SURPLUS_MAX: Final = 64
"""Blocks without pad that are kept for their slots: messages came to be longer since."""
AHEAD_MAX_S: Final = 10 * 365 * 86_400.0
"""How far ahead of its clock a sender believes that its receiver has held one of its blocks: ten years."""


@dataclass(frozen=True, slots=True)
class SenderBlock:
    """A block that the sender announces, or seals under."""

    block: KeyBlock
    since: float
    """Seconds of when it was announced."""
    run: Run | None
    """Of its receiver, as it was heard last before that. It never changes: a proof may be of an earlier run."""
    turn: bytes = b""
    """In which it was drawn, if in one."""
    is_granted: bool = False
    """Whether its receiver has proved that it holds it."""
    next_slot: int = 0
    next_pad: int = 0

    def drawn_to(self, next_slot: int, next_pad: int) -> SenderBlock:
        """Return it after everything before these was taken."""
        # Not by `replace`, which takes three times as long.
        return SenderBlock(self.block, self.since, self.run, self.turn, self.is_granted, next_slot, next_pad)

    @property
    def slots_left(self) -> int:
        """Slots that were not taken."""
        return self.block.facts.slots - self.next_slot

    @property
    def pad_left(self) -> int:
        """Bytes of pad that were not taken."""
        return pad_bytes(self.block.facts) - self.next_pad


@dataclass(frozen=True, slots=True)
class SealingKey:
    """Key for one message, and where it is."""

    slot_name: SlotName
    pieces: tuple[Piece, ...]
    slot: bytes = field(repr=False)
    pad: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sender:
    """What a sender knows of one direction. Each step returns what it knows then."""

    link: Link
    """Sender and receiver."""
    run: Run | None = None
    """Of the receiver, as it was heard last."""
    last: bytes = bytes(BLOCK_ID_BYTES)
    """The newest block, here or at the receiver, that it knows of."""
    blocks: tuple[SenderBlock, ...] = ()
    """From the oldest to the newest, at most the newest of which is not granted."""

    @property
    def may_announce(self) -> bool:
        """Whether a block may be announced now."""
        return all(each.is_granted for each in self.blocks)

    @property
    def announces(self) -> Announce | None:
        """What to say, again and again, until the receiver holds it."""
        return next((each.block.announce(each.turn) for each in self.blocks if not each.is_granted), None)

    def with_block(
        self,
        key: bytes | Callable[[bytes], bytes],
        key_ids: Sequence[str],
        slots: int,
        now: float,
        random: _Random,
        *,
        turn: bytes = b"",
    ) -> Sender:
        """Announce a block of key that nobody has had before; a link that is computed computes it from its id.

        ``now`` is in seconds since 1970. Raises MalformedMessageError if the key is too short for so many slots.
        """
        block_id = epoch_after(self.last, now, random)
        key = key if isinstance(key, bytes) else key(block_id)
        floor = self.blocks[0].block.facts.block if self.blocks else block_id
        facts = Facts(
            link=self.link,
            block=block_id,
            floor=floor,
            length=len(key),
            slots=slots,
            key_ids=tuple(key_ids),
        )
        begun = SenderBlock(KeyBlock(facts, key), now, self.run, turn)
        return replace(self, last=block_id, blocks=(*self.blocks, begun))

    def heard(self, held: BlocksHeld, now: float) -> Sender:
        """Take note of what the receiver says, which whoever has the broker may have made, held back or said before.

        Only a tag says that a block is held. That one that was granted is not there is believed of a receiver that
        began anew since it was announced; of one that did not it may be old.
        """
        tags = {each.block: each.tag for each in held.held}
        refused = {each.block for each in held.refused}
        kept = []
        for each in self.blocks:
            name = each.block.facts.block
            if name in tags and each.block.is_held_with(tags[name]):
                kept.append(replace(each, is_granted=True))
            elif each.run == held.run if each.is_granted else name not in refused and name > held.newest:
                # One that is not granted and not the newest will never be: the clock here went back.
                kept.append(each)
        ahead = epoch_after(b"", now + AHEAD_MAX_S, bytes)
        last = max(self.last, held.newest) if held.newest <= ahead else self.last
        return replace(self, run=held.run, last=last, blocks=tuple(kept))

    def at(self, now: float) -> Sender:
        """Drop what has been announced for too long."""
        kept = tuple(each for each in self.blocks if each.is_granted or abs(now - each.since) < ANNOUNCED_S)
        return self if len(kept) == len(self.blocks) else replace(self, blocks=kept)

    def reconnected(self) -> Sender:
        """Drop all: messages leave on another connection."""
        return replace(self, blocks=())

    def without_oldest(self) -> Sender:
        """Drop the oldest block."""
        return replace(self, blocks=self.blocks[1:])

    def draw(self, length: int) -> tuple[Sender, SealingKey] | None:
        """Take a slot and ``length`` bytes of pad; or None if there is not so much, in so few pieces."""
        slot_name, slot, pieces, pad, blocks = None, b"", list[Piece](), list[bytes](), list[SenderBlock]()
        has_ended = False
        for each in self.blocks:
            if not each.is_granted or (slot_name is not None and not length):
                blocks.append(each)
                continue
            facts = each.block.facts
            block_id, next_slot, next_pad, pad_end = facts.block, each.next_slot, each.next_pad, pad_bytes(facts)
            if slot_name is None and next_slot < facts.slots:
                slot_name, slot = SlotName(block_id, next_slot), each.block.slot(next_slot)
                next_slot += 1
            if length and (taken := min(length, pad_end - next_pad)):
                pieces.append(Piece(block_id, next_pad, taken))
                pad.append(each.block.pad_at(next_pad, taken))
                next_pad += taken
                length -= taken
            blocks.append(each.drawn_to(next_slot, next_pad))
            has_ended = has_ended or next_slot == facts.slots or next_pad == pad_end
        if slot_name is None or length or len(pieces) > PIECES_MAX:
            return None
        drawn = SealingKey(slot_name, tuple(pieces), slot, b"".join(pad))
        kept = _worth_keeping(blocks) if has_ended else tuple(blocks)
        return Sender(self.link, self.run, self.last, kept), drawn


def _worth_keeping(blocks: Sequence[SenderBlock]) -> tuple[SenderBlock, ...]:
    """Leave out what is spent; and of too many that have slots only the oldest."""
    kept = [each for each in blocks if each.slots_left or each.pad_left]
    surplus = [each for each in kept if pad_bytes(each.block.facts) and not each.pad_left]
    for each in surplus[:-SURPLUS_MAX]:
        kept.remove(each)
    return tuple(kept)


_Random = Callable[[int], bytes]
