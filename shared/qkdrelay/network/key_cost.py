"""How much link key a relay over a plan draws, link by link, without unfolding the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from qkdrelay.network.names import Link
from qkdrelay.network.plan import Plan
from qkdrelay.sharing import amd

CONFIRMATION_BYTES = 64
"""What a relay's payload has besides its keys: the two confirmation keys (protocol, section 5)."""
SLOT_BYTES = 32
"""Link key each message takes besides its pad (protocol, section 4)."""


def payload_bytes(key_count: int, key_size_bits: int) -> int:
    """Return the length of the payload that carries these keys."""
    return key_count * key_size_bits // 8 + CONFIRMATION_BYTES


def link_key_bytes(plan: Plan, payload_length: int, suite: Callable[[Link], str]) -> dict[Link, int]:
    """Return for each link of the plan (sender, receiver) the bytes of link key one relay draws from it.

    ``suite`` says how a link seals: ``otp`` takes as much pad as the share is long, ``aes-256-gcm`` none.
    """
    # For each KME: how many shares reach it, by the number of times they were encoded on the way.
    arriving: dict[str, Counter[int]] = {kme: Counter() for kme in plan.order}
    arriving[plan.source][0] = 1
    drawn: dict[Link, int] = {}
    for kme in plan.order:
        encodes = int(kme == plan.source or plan.is_split(kme))
        leaving = {times + encodes: count for times, count in arriving[kme].items()}
        for successor in plan.successors(kme):
            link = (kme, successor)
            arriving[successor].update(leaving)
            drawn[link] = SLOT_BYTES * sum(leaving.values())
            if suite(link) == "otp":
                drawn[link] += sum(n * amd.encoded_length(payload_length, times) for times, n in leaving.items())
    return drawn
