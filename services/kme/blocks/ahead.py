"""How much link key an end has granted ahead, and what it asks its source for: numbers in, numbers out.

What is ahead is lost with the connection, and at a start; what is not ahead keeps messages waiting. And each block has
keys of its own, so that small ones waste key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from qkdrelay.messages.blocks import BLOCK_BYTES_MAX
from qkdrelay.network.key_cost import SLOT_BYTES, Suite

AHEAD_S: Final = 10.0
"""Seconds of a link's rate that are granted ahead."""
AHEAD_MIN, AHEAD_IDLE_MAX, AHEAD_MAX = 4 << 10, 256 << 10, 16 << 20
"""Bytes of that, where the rate is low or not known; where it is high; and where so much is used."""
OWN_BYTES: Final = 2 * SLOT_BYTES
"""Of each block, for announcing and holding it."""
_GOOD, _FAIR = 2 << 10, 1 << 10
"""Bytes of a block whose own keys do not count, and of one that will do if messages wait for it."""
_PAD_AT_FIRST: Final = 128.0
"""Bytes of pad of a message, before there was one."""
_REMEMBERED: Final = 16
"""Messages over which the mean is taken."""


@dataclass(frozen=True, slots=True)
class Granted:
    """Key that can be sealed with now."""

    slots: int
    pad: int
    """Bytes."""

    @property
    def size(self) -> int:
        """All of it, in bytes."""
        return SLOT_BYTES * self.slots + self.pad


@dataclass(frozen=True, slots=True)
class Needed:
    """Key that messages wait for."""

    messages: int = 0
    pad: int = 0
    """Bytes, of all of them."""
    first: int = 0
    """Bytes, of the one that is next."""


NOTHING_WAITS: Final = Needed()


@dataclass(frozen=True, slots=True)
class Ask:
    """What to ask a source for, in bytes."""

    length: int
    least: int
    """Less than that is not worth a block yet."""


def ahead_bytes(rate_bps: int, used_per_s: float, capacity: int) -> int:
    """Return how much is to be granted ahead, of a link with this rate that keeps so much.

    ``used_per_s`` is in bytes, of late: many messages may come at once.
    """
    by_rate = min(AHEAD_IDLE_MAX, max(AHEAD_MIN, round(AHEAD_S * rate_bps / 8)))
    return min(capacity, max(by_rate, min(AHEAD_MAX, round(AHEAD_S * used_per_s))))


class PadMean:
    """The bytes of pad of a message, as of the last ones."""

    def __init__(self, suite: Suite = "otp") -> None:
        # Where none is taken none is missed: slots alone are enough.
        self.value = _PAD_AT_FIRST if suite == "otp" else 0.0

    def note(self, length: int) -> None:
        """Take one message more into it."""
        self.value += (length - self.value) / _REMEMBERED


def found_by_messages(there: Granted, pad_mean: float) -> float:
    """Return the bytes of key that messages of this mean length find, slot and pad."""
    messages = there.slots if pad_mean < 1 else min(there.slots, there.pad / pad_mean)
    return messages * (SLOT_BYTES + pad_mean)


def ask_for(there: Granted, needed: Needed, pad_mean: float, ahead: int) -> Ask | None:
    """Return what to ask for beside what is ``there``, if anything."""
    room = ahead - round(found_by_messages(there, pad_mean))
    missing = SLOT_BYTES * max(0, needed.messages - there.slots) + max(0, needed.pad - there.pad)
    if missing:
        first = SLOT_BYTES * (not there.slots) + max(0, needed.first - there.pad)
        length, least = max(missing, room, first), max(first, min(missing, _FAIR)) + OWN_BYTES
    elif 2 * room > ahead:
        length, least = room, min(ahead // 2, _GOOD)
    else:
        return None
    return Ask(min(length + OWN_BYTES, BLOCK_BYTES_MAX), min(least, BLOCK_BYTES_MAX))


def slots_of(length: int, suite: Suite, there: Granted, needed: Needed, pad_mean: float) -> int:
    """Return how many slots a block has, so that with what is ``there`` slots and pad end together.

    And so that the message that is next finds its pad, if the block is long enough for that. Where messages are longer
    than blocks most have none: what is never used would be kept at the other end until its time is over.
    """
    room = length - OWN_BYTES
    if suite != "otp":
        return room // SLOT_BYTES
    slots = round((room + there.pad - there.slots * pad_mean) / (SLOT_BYTES + pad_mean))
    most = (room - max(0, needed.first - there.pad)) // SLOT_BYTES
    return max(0 if there.slots else 1, min(most, slots))
