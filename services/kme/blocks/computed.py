"""The simulated QKD link as a source of key: both ends compute a block from its id and the secret that they share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from kme.blocks.source import FetchedKey, RawKey
from qkdrelay.errors import SettingsError
from qkdrelay.messages.blocks import BLOCK_BYTES_MIN, Facts
from qkdrelay.network.names import Link, link_name
from qkdrelay.network.topology import SourceKind

LINK_SECRET_BYTES: Final = 32
_CIPHER_KEY_BYTES: Final = 32


class ComputedSource:
    """One end of a simulated link (a `kme.blocks.source.KeySource`): the only simulated thing in the system.

    A block is the key stream of AES-256 in counter mode, the counter from 0, under SHAKE-256 over (link secret,
    direction, block id), each of fixed length. This has **no forward secrecy**: who has the link's secret has all its
    key. Key appears at a rate into a buffer, full at the start; only the sending end's level counts.
    """

    kind: SourceKind = "simulated"
    draws_ahead = False

    def __init__(
        self,
        secret: bytes,
        me: str,
        peer: str,
        *,
        rate_bps: int,
        buffer_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        """``clock`` returns seconds and never steps back (a monotonic one)."""
        if len(secret) != LINK_SECRET_BYTES:
            raise SettingsError(f"the secret of link {link_name(me, peer)} is not {LINK_SECRET_BYTES} bytes long")
        self._key: Callable[[Link, bytes, int], bytes] = lambda link, block, length: block_key(
            secret, link, block, length
        )
        self._outgoing = me, peer
        self._rate, self._buffer, self._clock = rate_bps / 8, buffer_bytes, clock
        self._level, self._at = float(buffer_bytes), clock()
        self._drawn: RawKey | None = None
        self._fetched: FetchedKey | None = None

    def ask(self, length: int, least: int) -> bool:
        """As of `KeySource`; what there is comes at once."""
        length = min(length, self.available())
        if self._drawn is not None or length < max(BLOCK_BYTES_MIN, min(least, self.capacity())):
            return False
        self._level -= length
        self._drawn = RawKey(length, (), lambda block: self._key(self._outgoing, block, length))
        return True

    def is_drawing(self) -> bool:
        """As of `KeySource`: never, since what is asked for is there at once."""
        return False

    def drawn(self) -> RawKey | None:
        """As of `KeySource`."""
        drawn, self._drawn = self._drawn, None
        return drawn

    def fetch(self, facts: Facts) -> bool:
        """As of `KeySource`; it is there at once. A block with ids is a device's: its key cannot be computed."""
        if self._fetched is not None:
            return False
        key = self.computed(facts)
        self._fetched = FetchedKey(facts, key, "" if key else "it names keys of a device, and there is none here")
        return True

    def fetched(self) -> FetchedKey | None:
        """As of `KeySource`."""
        fetched, self._fetched = self._fetched, None
        return fetched

    def computed(self, facts: Facts) -> bytes | None:
        """As of `KeySource`."""
        return None if facts.key_ids else self._key(facts.link, facts.block, facts.length)

    def held(self, facts: Facts) -> None:
        """Nothing is kept here."""

    def available(self) -> int:
        """As of `KeySource`."""
        now = self._clock()
        self._level = min(self._buffer, self._level + (now - self._at) * self._rate)
        self._at = now
        return int(self._level)

    def capacity(self) -> int:
        """As of `KeySource`."""
        return int(self._buffer)

    def rate_bps(self) -> int:
        """As of `KeySource`."""
        return round(self._rate * 8)

    def drawn_bps(self) -> int:
        """As of `KeySource`: what it could give."""
        return self.rate_bps()

    def why_dry(self) -> str:
        """As of `KeySource`."""
        return ""


def block_key(secret: bytes, link: Link, block: bytes, length: int) -> bytes:
    """Return the first ``length`` bytes of a block; ``link`` is its sender and its receiver."""
    # Names are hashed to a fixed length, so that no two directions can ever share an input.
    direction = hashlib.sha256(link_name(*link).encode()).digest()
    key = hashlib.shake_256(secret + direction + block).digest(_CIPHER_KEY_BYTES)
    return Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(length))
