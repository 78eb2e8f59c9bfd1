"""Relay ids: UUIDs that say when they were made, so that none is ever accepted twice; and how people name them.

An end that accepts only ids made lately need not remember for ever which it has accepted: a coordinator that
brought an old one again would have it give other keys under the same key_IDs.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from uuid import UUID

from qkdrelay.errors import RequestRefusedError
from qkdrelay.messages.fields import TIMEOUT_S_MAX

CLOCKS_DIFFER_S = 600.0
"""Seconds that the clock of whoever made an id may be off."""
VALID_S = TIMEOUT_S_MAX + CLOCKS_DIFFER_S
"""Seconds after it was made that an id may be new to an end."""
NAMES_SHOWN_MAX = 8


def new_relay_id(now: float | None = None) -> UUID:
    """Return a new id, made ``now`` (seconds since the epoch).

    A UUID of version 8 (RFC 9562): random, but for its last 48 bits, the milliseconds since the epoch.
    """
    at = round((time.time() if now is None else now) * 1000)
    number = int.from_bytes(secrets.token_bytes(10), "big") << 48 | at
    return UUID(int=number & ~(0xF << 76) & ~(0b11 << 62) | 8 << 76 | 0b10 << 62)


def made_at(relay_id: UUID) -> float:
    """Return when an id was made by its own account, in seconds since the epoch."""
    return relay_id.node / 1000


def check_relay_id(relay_id: UUID, now: float) -> None:
    """Raise RequestRefusedError unless the id was made lately."""
    age_s = now - made_at(relay_id)
    if not -CLOCKS_DIFFER_S <= age_s <= VALID_S:
        hint = "its last 12 digits are milliseconds since 1970"
        text = f"the relay id {relay_id} was not made lately, by its own account; are the clocks right?"
        raise RequestRefusedError(text, hint=hint)


def digits(name: str) -> str:
    """Return the first hexadecimal digits of an id, as somebody wrote them. Raises RequestRefusedError."""
    written = name.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{4,32}", written):
        raise RequestRefusedError(f"{name!r} is no relay id", hint="at least its first 4 hexadecimal digits")
    return written


def the_one(name: str, found: Sequence[UUID], hint: str) -> UUID:
    """Return the one relay whose id begins with ``name``; ``found`` are up to `NAMES_SHOWN_MAX` + 1 that do.

    Raises RequestRefusedError for none, with ``hint``, and for several, with their ids.
    """
    if not found:
        raise RequestRefusedError(f"there is no relay {name!r}", hint=hint)
    if len(found) > 1:
        shown = ", ".join(map(str, found[:NAMES_SHOWN_MAX])) + (", ..." if len(found) > NAMES_SHOWN_MAX else "")
        raise RequestRefusedError(f"the ids of several relays begin with {name!r}: {shown}", hint="give more of it")
    return found[0]
