"""The port to whatever makes key for a QKD link, at one of its ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from qkdrelay.messages.blocks import Facts


@dataclass(frozen=True, slots=True)
class RawKey:
    """Key that was drawn: nobody has had it before, and nobody gets it again."""

    length: int
    """Bytes."""
    key_ids: tuple[str, ...]
    """By which the other end fetches it; none where it is computed of the block's id."""
    of: Callable[[bytes], bytes] = field(repr=False)
    """Returns the bytes, for the id of the block that they are for."""


@dataclass(frozen=True, slots=True)
class FetchedKey:
    """What came of a fetch."""

    facts: Facts
    key: bytes | None = field(repr=False)
    why: str = ""
    """Why there is none."""


class KeySource(Protocol):
    """Key for both directions of one link. What takes a while is asked for, and looked for later."""

    def ask(self, length: int) -> bool:
        """Ask for up to so many bytes to send with; return False if there are none now, or some were asked for."""
        ...

    def is_drawing(self) -> bool:
        """Whether key that was asked for is being drawn."""
        ...

    def drawn(self) -> RawKey | None:
        """Return key that was asked for, once."""
        ...

    def fetch(self, facts: Facts) -> bool:
        """Ask for the key of a block that was announced; return False while another is fetched."""
        ...

    def fetched(self) -> FetchedKey | None:
        """Return what came of a fetch, once."""
        ...

    def held(self, facts: Facts) -> None:
        """Note that a block is held, in a commit that succeeded: its key is not to be had here again."""
        ...

    def available(self) -> int:
        """Return how many bytes could be asked for now, as far as is known."""
        ...

    def rate_bps(self) -> int:
        """Return how many bits of key a second come."""
        ...
