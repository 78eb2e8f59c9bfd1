"""Proofs of the two ends of a relay that they have the same keys (protocol, section 5).

The payload of a relay is ``keys || c_S || c_T``, with two fresh one-time Poly1305 keys. A one-time
tag under a key that nobody else has reveals nothing about what it covers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from qkdrelay.link.envelope import one_time_tag, one_time_tag_is_valid
from qkdrelay.messages import codec
from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.fields import Message
from qkdrelay.network.key_cost import CONFIRMATION_BYTES, CONFIRMATION_KEY_BYTES, payload_bytes


class Context(Message, frozen=True):
    """The context that a confirmation tag covers beside the keys; source and target are the plan's."""

    relay_id: UUID
    plan: bytes
    """Canonical (`plans.encode_plan`)."""
    key_count: int
    key_size_bits: int
    withstand: FixedDemand

    @property
    def payload_length(self) -> int:
        """Bytes of a payload under these terms."""
        return payload_bytes(self.key_count, self.key_size_bits)


@dataclass(frozen=True, slots=True)
class Payload:
    """The payload of a relay: its keys and the two confirmation keys."""

    keys: bytes = field(repr=False)
    source_key: bytes = field(repr=False)
    """c_S: the source proves with it."""
    target_key: bytes = field(repr=False)
    """c_T: the target proves with it."""

    @classmethod
    def parse(cls, data: bytes) -> Payload:
        """Return the payload that these bytes are."""
        keys, confirmation = data[:-CONFIRMATION_BYTES], data[-CONFIRMATION_BYTES:]
        return cls(keys, confirmation[:CONFIRMATION_KEY_BYTES], confirmation[CONFIRMATION_KEY_BYTES:])

    def to_bytes(self) -> bytes:
        """Return its bytes."""
        return self.keys + self.source_key + self.target_key

    def source_proof(self, context: Context) -> bytes:
        """Return the source's confirmation tag, 16 bytes."""
        return one_time_tag(self.source_key, codec.encode(context), self.keys)

    def target_proof(self, context: Context) -> bytes:
        """Return the target's confirmation tag, 16 bytes."""
        return one_time_tag(self.target_key, codec.encode(context), self.keys)

    def source_proof_is_valid(self, context: Context, proof: bytes) -> bool:
        """Whether the source, as proven by ``proof``, has these keys."""
        return one_time_tag_is_valid(self.source_key, codec.encode(context), self.keys, proof)

    def target_proof_is_valid(self, context: Context, proof: bytes) -> bool:
        """Whether the target has these keys."""
        return one_time_tag_is_valid(self.target_key, codec.encode(context), self.keys, proof)
