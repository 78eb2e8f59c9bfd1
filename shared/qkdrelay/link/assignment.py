"""Tags of assignments: one-time Poly1305, under keys that only source and target of the relay have."""

from __future__ import annotations

from qkdrelay.link.envelope import one_time_tag, one_time_tag_is_valid
from qkdrelay.messages import codec
from qkdrelay.messages.assignments import Assignment
from qkdrelay.network.key_cost import TAG_KEY_BYTES

_NOTHING = b""


def assign_tag(pair: bytes, assignment: Assignment) -> bytes:
    """Return the 16-byte tag that the source gives an assignment.

    ``pair`` is the assignment's: the key of this tag, then that of the answer's.
    """
    return one_time_tag(pair[:TAG_KEY_BYTES], codec.encode(assignment), _NOTHING)


def assign_tag_is_valid(pair: bytes, assignment: Assignment, tag: bytes) -> bool:
    """Whether the source has given this assignment this tag."""
    return one_time_tag_is_valid(pair[:TAG_KEY_BYTES], codec.encode(assignment), _NOTHING, tag)


def assigned_tag(pair: bytes, assignment: Assignment) -> bytes:
    """Return the 16-byte tag of the target's answer: it keeps these keys for the slave."""
    return one_time_tag(pair[TAG_KEY_BYTES:], codec.encode(assignment), _NOTHING)


def assigned_tag_is_valid(pair: bytes, assignment: Assignment, tag: bytes) -> bool:
    """Whether the target keeps these keys, as ``tag`` shows."""
    return one_time_tag_is_valid(pair[TAG_KEY_BYTES:], codec.encode(assignment), _NOTHING, tag)
