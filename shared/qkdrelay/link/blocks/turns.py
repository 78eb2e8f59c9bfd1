"""Turns at a pair of devices that cannot draw at both ends at once: one end gives turns, the other asks for them.

Neither trusts the other's clock, nor the broker with anything but delay: a turn is good for the one question that it
answers, for so short a time after that was asked that it is over before the giver draws itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

TURN_S: Final = 15.0
"""Seconds for which the giver draws nothing after it gave a turn, or was started: it may have given one before."""
USE_S: Final = 4.0
"""Seconds after a question in which its answer is used: with the device's 10 for a draw less than a turn."""
ASK_S: Final = 3.0
"""Seconds after which somebody who waits asks anew."""

NONCE_BYTES: Final = 8
Nonce = bytes
"""Of a question: chance."""


@dataclass(frozen=True, slots=True)
class TurnGiver:
    """The end that gives turns. Times are its own, in seconds, and never step back."""

    started_at: float
    given: Nonce | None = None
    given_at: float = 0.0
    owes: bool = False
    """Whether it drew last: then who asks comes first."""

    def may_draw(self, now: float, *, is_asked: bool) -> bool:
        """Whether it may draw; ``is_asked`` says that the other end waits for a turn."""
        if now - self.started_at < TURN_S or (self.given is not None and now - self.given_at < TURN_S):
            return False
        return not (is_asked and self.owes)

    def drew(self) -> TurnGiver:
        """Note that it draws now."""
        return replace(self, given=None, owes=True)

    def asked(self, nonce: Nonce, now: float, *, is_busy: bool) -> TurnGiver:
        """Answer a question with a turn if it may be: `given` is what to say then. Not while it draws or announces."""
        if nonce == self.given or is_busy or not self.may_draw(now, is_asked=False):
            return self
        return replace(self, given=nonce, given_at=now, owes=False)

    def collected(self, nonce: Nonce) -> TurnGiver:
        """Note that what the other end drew in this turn has been fetched: the turn is over."""
        return replace(self, given=None) if nonce == self.given else self


@dataclass(frozen=True, slots=True)
class TurnAsker:
    """The end that asks for turns. Times are its own, as above."""

    question: Nonce | None = None
    asked_at: float = 0.0

    def ask(self, nonce: Nonce, now: float) -> TurnAsker:
        """Ask, if it is time; what was asked before is not answered any more."""
        if self.question is not None and now - self.asked_at < ASK_S:
            return self
        return TurnAsker(nonce, now)

    def turn(self, nonce: Nonce, now: float) -> tuple[TurnAsker, bool]:
        """Take an answer; return whether to draw, now and once."""
        if nonce != self.question or now - self.asked_at >= USE_S:
            return self, False
        return TurnAsker(), True
