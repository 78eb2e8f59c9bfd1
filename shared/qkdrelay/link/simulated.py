"""The simulated QKD link: the only simulated thing in the system.

Per direction of a link there are two disjoint key streams (protocol, section 4): **slots** of 32
bytes, one per message number, and the **pad**, addressed by byte offset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from qkdrelay.errors import SettingsError
from qkdrelay.network.key_cost import SLOT_BYTES
from qkdrelay.network.names import link_name

LINK_SECRET_BYTES = 32
_SLOT_STREAM, _PAD_STREAM = 0, 1
_CIPHER_BLOCK_BYTES = 16
_PAGE_BYTES, _PAGES_KEPT = 1024, 4
"""Short messages lie next to each other in the streams: what they need is expanded a page at a time."""
_STREAMS_KEPT, _STREAM_KEY_BYTES, _MARK_BYTES = 16, 32, 16


class SimulatedLinkKey:
    """One direction of a simulated QKD link: the only simulated thing in the system.

    Each stream is the key stream of AES-256 in counter mode, the counter from 0, under a key of its own:
    SHAKE-256 over (link secret, direction, epoch, stream), each field of fixed length; so both ends get
    the bytes from one provisioned secret. This has **no forward secrecy**:
    who has the link secret has all its key. Key appears at ``rate_bps`` into a buffer of
    ``buffer_bytes``, full at start; only the sending end's level counts.
    """

    def __init__(
        self,
        secret: bytes,
        sender: str,
        receiver: str,
        *,
        rate_bps: int,
        buffer_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        """``clock`` returns seconds and never steps back (a monotonic one)."""
        if len(secret) != LINK_SECRET_BYTES:
            raise SettingsError(f"the secret of link {sender}-{receiver} is not {LINK_SECRET_BYTES} bytes long")
        # Names are hashed to a fixed length, so that no two directions can ever share an input.
        direction = hashlib.sha256(link_name(sender, receiver).encode()).digest()
        self._seed = hashlib.shake_256(secret + direction)
        self._rate, self._buffer, self._clock = rate_bps / 8, buffer_bytes, clock
        self._level, self._at = float(buffer_bytes), clock()
        self._cipher = lru_cache(maxsize=_STREAMS_KEPT)(self._stream_cipher)
        self._page = lru_cache(maxsize=_PAGES_KEPT)(self._expand_page)

    def slot(self, epoch: bytes, number: int) -> bytes:
        """Return the 32 bytes of slot ``number``."""
        return self._bytes(epoch, _SLOT_STREAM, number * SLOT_BYTES, SLOT_BYTES)

    def pad(self, epoch: bytes, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of the pad from ``offset``."""
        return self._bytes(epoch, _PAD_STREAM, offset, length)

    def mark(self) -> bytes:
        """Return what tells this key from another: no epoch and stream are so short."""
        seed = self._seed.copy()
        seed.update(b"mark")
        return seed.digest(_MARK_BYTES)

    def _bytes(self, epoch: bytes, stream: int, offset: int, length: int) -> bytes:
        page, start = divmod(offset, _PAGE_BYTES)
        if start + length <= _PAGE_BYTES:
            return self._page(epoch, stream, page)[start : start + length]
        block, start = divmod(offset, _CIPHER_BLOCK_BYTES)
        return self._expand(epoch, stream, block, start + length)[start:]

    def _expand_page(self, epoch: bytes, stream: int, page: int) -> bytes:
        return self._expand(epoch, stream, page * _PAGE_BYTES // _CIPHER_BLOCK_BYTES, _PAGE_BYTES)

    def _expand(self, epoch: bytes, stream: int, block: int, length: int) -> bytes:
        algorithm = self._cipher(epoch, stream)
        counter = CTR(block.to_bytes(_CIPHER_BLOCK_BYTES, "big"))
        return Cipher(algorithm, counter).encryptor().update(bytes(length))

    def _stream_cipher(self, epoch: bytes, stream: int) -> AES:
        seed = self._seed.copy()
        seed.update(epoch + stream.to_bytes(1, "big"))
        return AES(seed.digest(_STREAM_KEY_BYTES))

    def available(self) -> int:
        """Return how many bytes the sending end can draw now."""
        now = self._clock()
        self._level = min(self._buffer, self._level + (now - self._at) * self._rate)
        self._at = now
        return int(self._level)

    def capacity(self) -> int:
        """Return the size of the buffer."""
        return int(self._buffer)

    def rate_bps(self) -> int:
        """Return the rate at which the buffer fills."""
        return round(self._rate * 8)

    def draw(self, length: int) -> None:
        """Take ``length`` bytes off the buffer."""
        self._level -= length
