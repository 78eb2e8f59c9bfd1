"""The port to a QKD link's key, and the simulated QKD link behind it.

Per direction of a link there are two disjoint key streams (protocol, section 4): **slots** of 32
bytes, one per message number, and the **pad**, addressed by byte offset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from qkdrelay.errors import SettingsError

SLOT_BYTES = 32
LINK_SECRET_BYTES = 32
_PAD_BLOCK_BYTES = 1024
_PAD_BLOCKS_KEPT = 4
"""Several short messages lie in one block, one after the other."""
_SLOT_STREAM, _PAD_STREAM = 0, 1


class LinkKey(Protocol):
    """The key of one direction of a QKD link; both ends get the same bytes for the same address."""

    def slot(self, epoch: bytes, number: int) -> bytes:
        """Return the 32 bytes of slot ``number``."""
        ...

    def pad(self, epoch: bytes, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of the pad from ``offset``."""
        ...

    def available(self) -> int:
        """Return how many bytes the sending end can draw now."""
        ...

    def capacity(self) -> int:
        """Return how many bytes can ever be available at once: what needs more can never be sealed."""
        ...

    def draw(self, length: int) -> None:
        """Take ``length`` bytes off what is available; the addresses are the caller's, and durable."""
        ...


class SimulatedLinkKey:
    """One direction of a simulated QKD link: the only simulated thing in the system.

    The bytes are SHAKE-256 over (link secret, direction, epoch, stream, block number), each field of
    fixed length; so both ends get them from one provisioned secret. This has **no forward secrecy**:
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
        direction = hashlib.sha256(f"{sender}>{receiver}".encode()).digest()
        self._seed = hashlib.shake_256(secret + direction)
        self._rate, self._buffer, self._clock = rate_bps / 8, buffer_bytes, clock
        self._level, self._at = float(buffer_bytes), clock()
        self._block_of_pad = lru_cache(maxsize=_PAD_BLOCKS_KEPT)(self._pad_block)

    def slot(self, epoch: bytes, number: int) -> bytes:
        """Return the 32 bytes of slot ``number``."""
        return self._block(epoch, _SLOT_STREAM, number, SLOT_BYTES)

    def pad(self, epoch: bytes, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of the pad from ``offset``."""
        first, last = offset // _PAD_BLOCK_BYTES, (offset + max(length, 1) - 1) // _PAD_BLOCK_BYTES
        blocks = b"".join([self._block_of_pad(epoch, block) for block in range(first, last + 1)])
        start = offset - first * _PAD_BLOCK_BYTES
        return blocks[start : start + length]

    def _pad_block(self, epoch: bytes, block: int) -> bytes:
        return self._block(epoch, _PAD_STREAM, block, _PAD_BLOCK_BYTES)

    def _block(self, epoch: bytes, stream: int, block: int, length: int) -> bytes:
        shake = self._seed.copy()
        shake.update(epoch + stream.to_bytes(1, "big") + block.to_bytes(8, "big"))
        return shake.digest(length)

    def available(self) -> int:
        """Return how many bytes the sending end can draw now."""
        now = self._clock()
        self._level = min(self._buffer, self._level + (now - self._at) * self._rate)
        self._at = now
        return int(self._level)

    def capacity(self) -> int:
        """Return the size of the buffer."""
        return int(self._buffer)

    def draw(self, length: int) -> None:
        """Take ``length`` bytes off the buffer."""
        self._level -= length
