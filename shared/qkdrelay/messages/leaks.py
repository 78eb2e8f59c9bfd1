"""Lab only: what a compromised KME leaks goes to the coordinator, and to nobody who is at the broker on the way.

Each leak is sealed with AES-256-GCM under a key of its own: HKDF-SHA-256 (RFC 5869) of the control key that this KME
and the coordinator share, with a random salt, and with the KME's name so that no other KME's leak passes for it.
"""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta

from qkdrelay.errors import ForgedMessageError
from qkdrelay.messages import codec
from qkdrelay.messages.fields import Message, Name, WireRoute
from qkdrelay.randomness import random_bytes

SALT_BYTES: Final = 32
# A key that is used for one message needs no nonce beside it.
_NONCE: Final = bytes(12)


class SealedLeak(Message, frozen=True):
    """Lab only: a `Leak` on its way to the coordinator."""

    salt: Annotated[bytes, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    ciphertext: bytes
    """Ends in the tag."""


class Leak(Message, frozen=True):
    """Lab only: what a compromised KME hands to the adversary; travels in a `SealedLeak`."""

    kme: Name
    relay_id: UUID
    route: WireRoute
    payload: bytes

    def __repr__(self) -> str:
        return f"Leak(kme={self.kme!r}, relay_id={self.relay_id}, route={self.route}, {len(self.payload)} bytes)"


def seal_leak(control_key: bytes, leak: Leak) -> bytes:
    """Return the bytes to publish; ``control_key`` is the one that ``leak.kme`` shares with the coordinator."""
    salt = random_bytes(SALT_BYTES)
    ciphertext = _cipher(control_key, leak.kme, salt).encrypt(_NONCE, codec.encode(leak), None)
    return codec.encode(SealedLeak(salt=salt, ciphertext=ciphertext))


def open_leak(control_key: bytes, kme: str, body: bytes) -> Leak:
    """Return what ``kme`` leaked; raise MalformedMessageError or ForgedMessageError if this is not of it."""
    sealed = codec.decode(body, SealedLeak)
    try:
        opened = _cipher(control_key, kme, sealed.salt).decrypt(_NONCE, sealed.ciphertext, None)
    except InvalidTag:
        raise ForgedMessageError(f"the leak was not sealed by {kme}") from None
    return codec.decode(opened, Leak)


def _cipher(control_key: bytes, kme: str, salt: bytes) -> AESGCM:
    derived = HKDF(SHA256(), length=32, salt=salt, info=f"qkdrelay leak of {kme}".encode())
    return AESGCM(derived.derive(control_key))
