"""The port to whatever makes key for a QKD link, at one of its ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from qkdrelay.messages.blocks import Facts
from qkdrelay.network.topology import SourceKind


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

    kind: SourceKind
    draws_ahead: bool
    """Whether more may be drawn before the other end has what was drawn."""

    def ask(self, length: int, least: int) -> bool:
        """Ask for up to ``length`` bytes to send with, and for ``least`` at least, if it can ever have so many.

        Returns False if there are not so many now, or some were asked for.
        """
        ...

    def is_drawing(self) -> bool:
        """Whether key that was asked for is being drawn, or was and nobody had it yet."""
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

    def computed(self, facts: Facts) -> bytes | None:
        """Return the key of a block that is computed; None for any other."""
        ...

    def available(self) -> int:
        """Return how many bytes there are to be drawn now, as far as that is known."""
        ...

    def capacity(self) -> int:
        """Return how many bytes an end can have at once: a message that needs more can never be sealed."""
        ...

    def rate_bps(self) -> int:
        """Return how many bits of key a second come to the sending end."""
        ...

    def drawn_bps(self) -> int:
        """Return how many bits of key a second it has given: of what is granted ahead, the seconds are reckoned so."""
        ...

    def why_dry(self) -> str:
        """Return why it gives no key now, in its own words; empty if it gives some."""
        ...
