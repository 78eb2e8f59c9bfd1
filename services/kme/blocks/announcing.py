"""The sending end of one direction of a QKD link: draws key, announces blocks of it, and gives it to seal with.

Of all this nothing is stored but how often key was given up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kme.blocks.ahead import OWN_BYTES, Granted, Needed, PadMean, ahead_bytes, ask_for, found_by_messages, slots_of
from kme.blocks.ration import Ration
from kme.blocks.source import KeySource
from kme.blocks.timer import Timer
from kme.blocks.turn_taking import TurnTaking
from kme.rates import STILL
from qkdrelay.link.blocks.sender import SealingKey, Sender
from qkdrelay.messages.blocks import BLOCK_BYTES_MIN, Announce, BlocksHeld
from qkdrelay.network.key_cost import SLOT_BYTES, Suite
from qkdrelay.network.names import Link
from qkdrelay.network.whereabouts import NO_KEY, NOT_AGREED

ANNOUNCE_AGAIN_S: Final = (2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds until a block is announced again, that time and the next ones."""
_UNHEARD_BYTES: Final = 64 << 10
"""Of a block that is announced before anything was heard of its receiver."""
_AGREE_S: Final = 2.0
"""Seconds that drawing a block may take, and agreeing on it, before anybody need know."""
_LOOK_AGAIN_S: Final = 1.0
"""How often a source is looked at that has too little for a block."""
_UNLOOKED: Final = 8
"""One part in so many of what is granted may be taken before it is looked at whether there is enough: it takes time."""
Tell = Callable[[str], None]
"""Takes why key was given up."""


@dataclass
class Counts:
    """What became of the blocks that were announced."""

    granted: int = 0
    given_up: int = 0
    why: str = ""
    """Of the last that was given up."""


class Announcing:
    """The sending end of one direction. Times are in seconds since 1970."""

    def __init__(
        self,
        link: Link,
        suite: Suite,
        source: KeySource,
        turns: TurnTaking,
        *,
        ration: Ration,
        random: Callable[[int], bytes],
        tell: Tell,
    ) -> None:
        """``link`` is this end and the peer."""
        self._suite, self._source, self._turns, self._ration = suite, source, turns, ration
        self._random, self._tell = random, tell
        self._sender = Sender(link)
        self._timer, self._times_announced = Timer(), 0
        self._announced_at = self._asked_at = 0.0
        self._mean = PadMean(suite)
        self._used, self._drawn = STILL, 0
        """Bytes of key that messages take a second, and that they took since that was reckoned."""
        self._slack = -1
        """Bytes that messages may take before there can be anything to do; none, or less, if there is something."""
        self._peer_is_silent = False
        self.counts = Counts()
        self._has_begun = self._is_short = self._is_dry = False
        """Of these, the last two: whether there was too little key at the last tick, and the source gave none."""

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to do or to say, as far as no message waits for key."""
        return self._drawn <= self._slack

    @property
    def is_announcing(self) -> bool:
        """Whether a block waits to be held."""
        return not self._sender.may_announce

    def draw(self, length: int) -> SealingKey | None:
        """Take key for a message with ``length`` bytes of pad, for good; None if there is too little granted now."""
        while (drawn := self._sender.draw(length)) is None and self.granted_is_enough(length):
            # Of so many pieces no message can be made: the oldest goes.
            self._give_up(self._sender.without_oldest(), "its rest was too small to be of use")
        if drawn is None:
            return None
        self._sender, key = drawn
        self._mean.note(length)
        self._drawn += SLOT_BYTES + length
        return key

    def granted(self) -> Granted:
        """Return how much key is granted and was not taken."""
        return self._left(announced=False)

    def _left(self, *, announced: bool) -> Granted:
        """Return how much key was not taken, with what is announced or without."""
        slots = pad = 0
        for each in self._sender.blocks:
            if each.is_granted or announced:
                slots, pad = slots + each.slots_left, pad + each.pad_left
        return Granted(slots, pad)

    def granted_is_enough(self, length: int) -> bool:
        """Whether a message with ``length`` bytes of pad finds its key."""
        there = self.granted()
        return there.slots > 0 and there.pad >= length

    def available(self) -> int:
        """Return the bytes of key that messages can have, as far as that is known."""
        return min(self._source.capacity(), self._left(announced=True).size + self._source.available())

    def reconnected(self, now: float) -> None:
        """Drop what is granted: messages leave on another connection, and a copy of this machine may have the other."""
        if self._sender.blocks:
            self._ration.note(now)
            self._give_up(self._sender.reconnected(), "the connection to the broker is another one")

    def heard(self, held: BlocksHeld, now: float) -> None:
        """Take what the peer says that it holds."""
        self._peer_is_silent, self._slack = False, -1
        before = self._sender
        after = before.heard(held, now)
        granted_before = {each.block.facts.block for each in before.blocks if each.is_granted}
        newly = [each for each in after.blocks if each.is_granted and each.block.facts.block not in granted_before]
        if newly:
            self.counts.granted += len(newly)
            self._ration.note_granted()
        kept = {each.block.facts.block for each in after.blocks}
        if granted_before - kept:
            self._ration.note(now)
            self._give_up(after, "the other end has begun anew, and does not hold it")
        elif len(after.blocks) < len(before.blocks):
            self._ration.note_refused(now)
            name = before.blocks[-1].block.facts.block
            said = next((each.reason for each in held.refused if each.block == name), "it has held a newer one")
            self._give_up(after, f"the other end cannot hold it: {said}")
        else:
            self._sender = after

    def tick(self, needed: Needed, now: float) -> list[Announce]:
        """Return the announcement that is due, of a new block if there is less key than there should be."""
        if self.is_settled and not needed.messages:
            return []
        if self._drawn:
            self._used, self._drawn = self._used.plus(self._drawn, now), 0
        if not self._has_begun:
            self._has_begun = True
            self._ration.note(now)
        after = self._sender.at(now)
        if len(after.blocks) < len(self._sender.blocks):
            # A peer that is not there costs one block, not one a minute.
            self._peer_is_silent = True
            self._give_up(after, "the other end has not said in time that it holds it")
        if self._sender.may_announce:
            self._ask(needed, now)
            self._begin(needed, now)
        if self._source.draws_ahead and not self._sender.may_announce:
            self._ask(needed, now)
        self._slack = self._slack_now()
        announce, timer = self._sender.announces, self._timer
        if announce is None or not timer.is_due(now):
            return []
        timer.begin(now, ANNOUNCE_AGAIN_S[min(self._times_announced, len(ANNOUNCE_AGAIN_S) - 1)])
        self._times_announced += 1
        return [announce]

    def _slack_now(self) -> int:
        if self.is_announcing or self._is_short or self._source.is_drawing():
            return -1
        return round(found_by_messages(self.granted(), self._mean.value) / _UNLOOKED)

    def _ask(self, needed: Needed, now: float) -> None:
        """Have key drawn, if there is too little, and it is this end's turn."""
        ahead = ahead_bytes(self._source.drawn_bps(), self._used.now(now), self._source.capacity())
        ask = ask_for(self._left(announced=True), needed, self._mean.value, ahead)
        self._is_short = ask is not None
        self._is_dry = False
        if ask is None or self._has_to_wait(now) or self._source.is_drawing():
            return
        if not self._turns.may_draw():
            return
        # What is announced before the receiver was heard may be given up for any of its news.
        length = ask.length if self._sender.run is not None else max(ask.least, min(ask.length, _UNHEARD_BYTES))
        if self._source.ask(length, ask.least):
            self._turns.drew()
            self._asked_at = now
        else:
            self._is_dry = True

    def _has_to_wait(self, now: float) -> bool:
        """Whether no block is to be announced now."""
        return self._peer_is_silent or self._ration.wait_s(now) > 0

    def _begin(self, needed: Needed, now: float) -> None:
        """Announce a block of what was drawn, unless it has to wait."""
        raw = None if self._has_to_wait(now) else self._source.drawn()
        if raw is None or raw.length < BLOCK_BYTES_MIN:
            return
        slots = slots_of(raw.length, self._suite, self.granted(), needed, self._mean.value)
        # What would be pad is cut off where none is taken: a block that has some left is never used up.
        length = raw.length if self._suite == "otp" else OWN_BYTES + SLOT_BYTES * slots
        self._sender = self._sender.with_block(
            lambda block: raw.of(block)[:length], raw.key_ids, slots, now, self._random, turn=self._turns.turn
        )
        self._timer, self._times_announced = Timer(), 0
        self._announced_at = now

    def why_dry(self, now: float) -> str:
        """Return why there is no key to send with, in words; empty if there is nothing to say."""
        if self._peer_is_silent:
            return "the other end does not answer"
        return self.why_source_is_dry(now)

    def why_source_is_dry(self, now: float) -> str:
        """Return the same, whether or not the other end answers."""
        if (pause_s := self._ration.wait_s(now)) > 0:
            return f"key was given up, and the next is drawn in {pause_s:.0f} s: {self.counts.why}"
        return self._source.why_dry()

    def why_nothing_is_granted(self, now: float) -> str | None:
        """Return for what reason shares wait for key (`NO_KEY`, `NOT_AGREED`); None while it is about to be granted."""
        if self.is_announcing:
            return NOT_AGREED if now - self._announced_at > _AGREE_S else None
        if self._peer_is_silent or self._ration.wait_s(now) > _AGREE_S:
            return NOT_AGREED
        # A device may take its time to say that it has none, and is asked again and again meanwhile.
        is_late = self._source.is_drawing() and now - self._asked_at > _AGREE_S
        return NO_KEY if self._is_dry or is_late or self._source.why_dry() else None

    def wait_s(self, now: float) -> float:
        """Return in how many seconds to look again."""
        if self.is_announcing:
            return self._timer.wait_s(now)
        return _LOOK_AGAIN_S if self._is_short and not self._peer_is_silent else math.inf

    def _give_up(self, after: Sender, why: str) -> None:
        self._sender, self._slack = after, -1
        self.counts.given_up += 1
        self.counts.why = why
        self._tell(why)
