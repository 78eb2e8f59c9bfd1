"""Tags of assignments: one-time Poly1305, under keys that only source and target of the relay have."""

from __future__ import annotations

from typing import Final

from qkdrelay.link.envelope import one_time_tag, one_time_tag_is_valid
from qkdrelay.messages import codec
from qkdrelay.messages.assignments import Assignment

TAG_KEY_BYTES: Final = 32
TAG_PAIR_BYTES: Final = 2 * TAG_KEY_BYTES
"""Of a relay's payload: the key of `Assign`'s tag, then that of `Assigned`'s."""
_NOTHING: Final = b""


def assign_tag(pair: bytes, assignment: Assignment) -> bytes:
    """Return the 16-byte tag that the source gives an assignment; ``pair`` is the assignment's pair of tag keys."""
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
