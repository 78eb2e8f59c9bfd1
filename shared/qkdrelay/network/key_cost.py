"""Link key that a message draws, and a whole relay over a plan: link by link, without unfolding the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

from qkdrelay.network.names import Link
from qkdrelay.network.plan import Plan
from qkdrelay.sharing import amd

Suite = Literal["otp", "aes-256-gcm"]
"""The way a link seals: ``otp`` takes as much pad as what it seals is long, ``aes-256-gcm`` none."""
DEFAULT_SUITE: Final[Suite] = "otp"
SLOT_BYTES: Final = 32
"""Link key each message takes besides its pad (protocol, section 4)."""
CONFIRMATION_KEY_BYTES: Final = 32
"""Bytes of a relay's payload besides its keys: the confirmation key (protocol, section 5)."""
LONG_PAYLOAD: Final = 1 << 24
"""Bytes of a payload beside which what a message takes besides does not count."""
TAG_KEY_BYTES: Final = 32
TAG_PAIR_BYTES: Final = 2 * TAG_KEY_BYTES
"""Bytes of a payload for each pair of tag keys that it carries as supply."""


def payload_bytes(key_count: int, key_size_bits: int, tag_pairs: int = 0) -> int:
    """Return the length of the payload that carries these keys, and so many pairs of tag keys."""
    return key_count * key_size_bits // 8 + tag_pairs * TAG_PAIR_BYTES + CONFIRMATION_KEY_BYTES


def pad_needed(suite: Suite, body_length: int) -> int:
    """Return the bytes of the pad stream that a message with a body of ``body_length`` bytes draws."""
    return body_length if suite == "otp" else 0


def key_needed(suite: Suite, body_length: int) -> int:
    """Return the bytes of link key that it draws, its slot included."""
    return SLOT_BYTES + pad_needed(suite, body_length)


def link_key_bytes(plan: Plan, payload_length: int, suite: Callable[[Link], Suite]) -> dict[Link, int]:
    """Return for each link of the plan (sender, receiver) the bytes of link key one relay draws from it.

    ``suite`` says how a link seals.
    """
    # For each KME: how many shares reach it, by the number of times they were encoded on the way.
    arriving: dict[str, Counter[int]] = {kme: Counter() for kme in plan.order}
    arriving[plan.source][0] = 1
    drawn: dict[Link, int] = {}
    for kme in plan.order:
        encodes = int(kme == plan.source or plan.is_split(kme))
        leaving = {times + encodes: count for times, count in arriving[kme].items()}
        for link in ((kme, successor) for successor in plan.successors(kme)):
            arriving[link[1]].update(leaving)
            how = suite(link)
            drawn[link] = sum(
                count * key_needed(how, amd.encoded_length(payload_length, times)) for times, count in leaving.items()
            )
    return drawn
