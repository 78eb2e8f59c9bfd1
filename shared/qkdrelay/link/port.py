"""The port to the key of a QKD link."""

from __future__ import annotations

from typing import Protocol


class LinkKey(Protocol):
    """The key of one direction of a QKD link; both ends get the same bytes for the same address."""

    def slot(self, epoch: bytes, number: int) -> bytes:
        """Return the `SLOT_BYTES` of slot ``number``."""
        ...

    def pad(self, epoch: bytes, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of the pad from ``offset``."""
        ...

    def mark(self) -> bytes:
        """Return what tells this key from another, and says nothing else of it."""
        ...

    def available(self) -> int:
        """Return how many bytes the sending end can draw now."""
        ...

    def capacity(self) -> int:
        """Return how many bytes can ever be available at once: what needs more can never be sealed."""
        ...

    def rate_bps(self) -> int:
        """Return how many bits of key a second come to the sending end."""
        ...

    def draw(self, length: int) -> None:
        """Take ``length`` bytes off what is available; the addresses are the caller's, and durable."""
        ...
