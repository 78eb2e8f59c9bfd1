"""The proof of a relay's target that it has the keys (protocol, section 5).

The payload of a relay is ``keys || pairs of tag keys || c_T``; pairs of tag keys are there in supply only, and c_T is a
fresh one-time Poly1305 key. A one-time tag under a key that nobody else has reveals nothing about what it covers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from qkdrelay.link.envelope import one_time_tag, one_time_tag_is_valid
from qkdrelay.messages import codec
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.fields import Message
from qkdrelay.network.key_cost import CONFIRMATION_KEY_BYTES, TAG_PAIR_BYTES, payload_bytes


class Context(Message, frozen=True):
    """The context that the confirmation tag covers beside the payload; source and target are the plan's."""

    relay_id: UUID
    plan: bytes
    """Canonical (`plans.encode_plan`)."""
    key_count: int
    key_size_bits: int
    withstand: FixedDemand
    supply: Supply | None

    @property
    def tag_pairs(self) -> int:
        """Pairs of tag keys in a payload under these terms."""
        return 0 if self.supply is None else self.supply.tag_pairs

    @property
    def payload_length(self) -> int:
        """Bytes of a payload under these terms."""
        return payload_bytes(self.key_count, self.key_size_bits, self.tag_pairs)


@dataclass(frozen=True, slots=True)
class Payload:
    """The payload of a relay: its keys, the tag keys of assignments, and the confirmation key."""

    keys: bytes = field(repr=False)
    tag_keys: bytes = field(repr=False)
    """All pairs, in order of their numbers."""
    confirmation_key: bytes = field(repr=False)
    """c_T: the target proves with it."""

    @classmethod
    def parse(cls, data: bytes, context: Context) -> Payload:
        """Return the payload that these bytes are under these terms."""
        end = len(data) - CONFIRMATION_KEY_BYTES
        pairs = end - context.tag_pairs * TAG_PAIR_BYTES
        return cls(data[:pairs], data[pairs:end], data[end:])

    def to_bytes(self) -> bytes:
        """Return its bytes."""
        return self.keys + self.tag_keys + self.confirmation_key

    def tag_pair(self, number: int) -> bytes:
        """Return a pair of tag keys (`qkdrelay.link.assignment`), by its number from 0."""
        return self.tag_keys[number * TAG_PAIR_BYTES : (number + 1) * TAG_PAIR_BYTES]

    def proof(self, context: Context) -> bytes:
        """Return the confirmation tag, 16 bytes."""
        return one_time_tag(self.confirmation_key, codec.encode(context), self.keys + self.tag_keys)

    def proof_is_valid(self, context: Context, proof: bytes) -> bool:
        """Whether the target, as proven by ``proof``, has these keys under these terms."""
        return one_time_tag_is_valid(self.confirmation_key, codec.encode(context), self.keys + self.tag_keys, proof)
