"""When an end of a link may have its device draw: always, or in turns where both ends cannot draw at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from qkdrelay.link.blocks.turns import ASK_S, NONCE_BYTES, USE_S, TurnAsker, TurnGiver

_Clock = Callable[[], float]


class TurnTaking(Protocol):
    """What an exchange of blocks asks before it has its device draw."""

    turn: bytes
    """In which it drew last; empty if in none."""
    has_news: bool
    """Whether what it `says` is to be said at once."""

    def may_draw(self) -> bool:
        """Whether to draw now; where somebody has to be asked for that, they are."""
        ...

    def drew(self) -> None:
        """Note that it draws now."""
        ...

    def heard(self, asks: bytes, gives: bytes, *, is_busy: bool) -> None:
        """Take what the other end asks and gives; ``is_busy`` while this one draws, announces or fetches."""
        ...

    def collected(self, turn: bytes) -> None:
        """Note that a block which the other end drew in this turn is held here."""
        ...

    def says(self) -> tuple[bytes, bytes]:
        """Return what this end asks and gives."""
        ...


class AnyTime:
    """Both ends draw whenever they like."""

    turn, has_news = b"", False

    def may_draw(self) -> bool:
        """As of `TurnTaking`."""
        return True

    def drew(self) -> None:
        """As of `TurnTaking`."""

    def heard(self, asks: bytes, gives: bytes, *, is_busy: bool) -> None:
        """As of `TurnTaking`."""

    def collected(self, turn: bytes) -> None:
        """As of `TurnTaking`."""

    def says(self) -> tuple[bytes, bytes]:
        """As of `TurnTaking`."""
        return b"", b""


class GivesTurns:
    """The end that gives turns: of the two the one whose name sorts first."""

    turn = b""

    def __init__(self, clock: _Clock) -> None:
        """``clock`` returns seconds and never steps back."""
        self._clock, self._giver, self._asked_at = clock, TurnGiver(clock()), -1e12
        self.has_news = False

    def may_draw(self) -> bool:
        """As of `TurnTaking`."""
        now = self._clock()
        return self._giver.may_draw(now, is_asked=now - self._asked_at < 2 * ASK_S)

    def drew(self) -> None:
        """As of `TurnTaking`."""
        self._giver = self._giver.drew()

    def heard(self, asks: bytes, gives: bytes, *, is_busy: bool) -> None:  # noqa: ARG002 - nobody gives it turns
        """As of `TurnTaking`."""
        if not asks:
            return
        self._asked_at = self._clock()
        after = self._giver.asked(asks, self._asked_at, is_busy=is_busy)
        self.has_news = self.has_news or after != self._giver
        self._giver = after

    def collected(self, turn: bytes) -> None:
        """As of `TurnTaking`; whoever was given a turn asks no more."""
        if turn and turn == self._giver.given:
            self._giver, self._asked_at = self._giver.collected(turn), -1e12

    def says(self) -> tuple[bytes, bytes]:
        """As of `TurnTaking`."""
        self.has_news = False
        return b"", self._giver.given or b""


class AsksForTurns:
    """The end that asks for turns."""

    def __init__(self, clock: _Clock, random: Callable[[int], bytes]) -> None:
        """``clock`` returns seconds and never steps back."""
        self._clock, self._random, self._asker = clock, random, TurnAsker()
        self._use_until = -1e12
        self.turn, self.has_news = b"", False

    def may_draw(self) -> bool:
        """As of `TurnTaking`."""
        now = self._clock()
        if now < self._use_until:
            return True
        after = self._asker.ask(self._random(NONCE_BYTES), now)
        self.has_news = self.has_news or after != self._asker
        self._asker = after
        return False

    def drew(self) -> None:
        """As of `TurnTaking`: a turn is for one draw."""
        self._use_until = -1e12

    def heard(self, asks: bytes, gives: bytes, *, is_busy: bool) -> None:  # noqa: ARG002 - nobody asks it
        """As of `TurnTaking`."""
        until = self._asker.asked_at + USE_S
        self._asker, draws = self._asker.turn(gives, self._clock())
        if draws:
            self._use_until, self.turn = until, gives

    def collected(self, turn: bytes) -> None:
        """As of `TurnTaking`."""

    def says(self) -> tuple[bytes, bytes]:
        """As of `TurnTaking`."""
        self.has_news = False
        return self._asker.question or b"", b""
