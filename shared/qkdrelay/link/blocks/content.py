"""The key of one block: where its slots and its pad are, and the tags that it gives about itself.

    announcing key (32) | holding key (32) | slots of 32 | pad

Whoever knows what a message says knows its pad. Could a piece of pad ever be taken for a slot, a message could be
forged with it; so a block has one shape, which its own first key authenticates, for ever.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from qkdrelay.errors import MalformedMessageError
from qkdrelay.link.envelope import one_time_tag, one_time_tag_is_valid
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Announce, Facts
from qkdrelay.network.key_cost import SLOT_BYTES

_OWN_KEYS: Final = 2 * SLOT_BYTES
_ANNOUNCE, _HOLD = b"announce", b"hold"


def pad_bytes(facts: Facts) -> int:
    """Return how many bytes of pad a block has; negative if it is too short for its slots."""
    return facts.length - _OWN_KEYS - SLOT_BYTES * facts.slots


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """A block, whole."""

    facts: Facts
    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Raise MalformedMessageError if the key does not fit the facts."""
        if len(self.key) != self.facts.length or pad_bytes(self.facts) < 0:
            raise MalformedMessageError(
                f"a block of {len(self.key)} bytes is not one of {self.facts.length} with {self.facts.slots} slots"
            )

    def announce(self, turn: bytes = b"") -> Announce:
        """Return its announcement: the same bytes however often. It was drawn in this turn, if in one."""
        tag = one_time_tag(self.key[:SLOT_BYTES], _ANNOUNCE + codec.encode(self.facts), self.key[_OWN_KEYS:])
        return Announce(facts=self.facts, tag=tag, turn=turn)

    def is_announced_by(self, announce: Announce) -> bool:
        """Whether somebody who has this key made ``announce``, of these facts."""
        context = _ANNOUNCE + codec.encode(announce.facts)
        first = self.key[:SLOT_BYTES]
        return announce.facts == self.facts and one_time_tag_is_valid(
            first, context, self.key[_OWN_KEYS:], announce.tag
        )

    def held_tag(self) -> bytes:
        """Return the proof that somebody holds it: the same bytes however often."""
        return one_time_tag(self.key[SLOT_BYTES:_OWN_KEYS], _HOLD, facts_hash(self.facts))

    def is_held_with(self, tag: bytes) -> bool:
        """Whether ``tag`` is that proof."""
        return one_time_tag_is_valid(self.key[SLOT_BYTES:_OWN_KEYS], _HOLD, facts_hash(self.facts), tag)

    def slot(self, index: int) -> bytes:
        """Return one of its slots."""
        start = _OWN_KEYS + SLOT_BYTES * index
        return self.key[start : start + SLOT_BYTES]

    def pad_at(self, offset: int, length: int) -> bytes:
        """Return a piece of its pad."""
        start = _OWN_KEYS + SLOT_BYTES * self.facts.slots + offset
        return self.key[start : start + length]

    @property
    def slots(self) -> bytes:
        """Its slots, one behind the other."""
        return self.key[_OWN_KEYS : _OWN_KEYS + SLOT_BYTES * self.facts.slots]

    @property
    def pad(self) -> bytes:
        """Its pad."""
        return self.key[_OWN_KEYS + SLOT_BYTES * self.facts.slots :]


def facts_hash(facts: Facts) -> bytes:
    """Return 32 bytes that tell these facts from others."""
    return hashlib.sha256(codec.encode(facts)).digest()
