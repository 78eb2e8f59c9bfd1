"""Signed messages to and from the coordinator (protocol, section 7).

The broker carries them and is not trusted with them: each is under HMAC-SHA-256 with a key that the coordinator
shares with that KME, or with its command line (`qkdrelay.messages.dialogue`), says from whom to whom it is, and is
numbered.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import msgspec

from qkdrelay.errors import ForgedMessageError, MalformedMessageError
from qkdrelay.messages import codec
from qkdrelay.messages.answers import Reply
from qkdrelay.messages.control import Commands, SignedMessage
from qkdrelay.messages.reports import Reports
from qkdrelay.messages.requests import Request

_UNSIGNED = bytes(32)


def sign(
    key: bytes,
    sender: str,
    recipient: str,
    *,
    epoch: bytes,
    number: int,
    body: Commands | Reports | Request | Reply,
) -> bytes:
    """Return the bytes of a signed message; ``number`` is the sender's next in its ``epoch``."""
    message = SignedMessage(
        sender=sender, recipient=recipient, epoch=epoch, number=number, body=codec.encode(body), mac=_UNSIGNED
    )
    return codec.encode(msgspec.structs.replace(message, mac=_mac(key, message)))


def sign_all(
    key: bytes, sender: str, recipient: str, *, epoch: bytes, number: Callable[[], int], body: Commands | Reports
) -> list[bytes]:
    """Return ``body`` as one signed message or, where that would be too long, as several; ``number`` gives the next."""
    try:
        return [sign(key, sender, recipient, epoch=epoch, number=number(), body=body)]
    except MalformedMessageError:
        middle = len(body.items) // 2
        if middle == 0:
            raise
        halves = (msgspec.structs.replace(body, items=part) for part in (body.items[:middle], body.items[middle:]))
        return [
            signed
            for half in halves
            for signed in sign_all(key, sender, recipient, epoch=epoch, number=number, body=half)
        ]


def verify(key: bytes, sender: str, recipient: str, message: SignedMessage) -> None:
    """Raise ForgedMessageError unless ``message`` is from ``sender`` to ``recipient`` under ``key``."""
    if (message.sender, message.recipient) != (sender, recipient):
        raise ForgedMessageError(f"the message is not from {sender} to {recipient}")
    if not hmac.compare_digest(message.mac, _mac(key, message)):
        raise ForgedMessageError("the signature does not verify")


def mark(key: bytes) -> bytes:
    """Return what tells this key from another, and says nothing else of it: no message is so short."""
    return hmac.new(key, b"mark", hashlib.sha256).digest()


def _mac(key: bytes, message: SignedMessage) -> bytes:
    """Return the HMAC over the message's own canonical bytes with the field ``mac`` zeroed."""
    unsigned = codec.encode(msgspec.structs.replace(message, mac=_UNSIGNED))
    return hmac.new(key, unsigned, hashlib.sha256).digest()
