"""Both directions of one QKD link: announces blocks to send with, holds those of the peer, and says so.

What it returns to be sent may be lost, doubled or late; nothing is retried but by time. Of a sender nothing is stored;
what is held is in the store, and told only in the commit that holds it or after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from kme.blocks.source import FetchedKey, KeySource
from kme.blocks.turn_taking import AnyTime, TurnTaking
from kme.store.held_keys import HeldKeys
from qkdrelay.link.blocks import receiver
from qkdrelay.link.blocks.sender import SealingKey, Sender
from qkdrelay.messages.blocks import (
    BLOCK_BYTES_MAX,
    BLOCK_BYTES_MIN,
    Announce,
    BlocksHeld,
    Facts,
    HeldBlock,
    Piece,
    RefusedBlock,
    Run,
    SlotName,
)
from qkdrelay.network.key_cost import SLOT_BYTES, Suite
from qkdrelay.network.names import Link
from qkdrelay.service.batch import Batch

ANNOUNCE_AGAIN_S: Final = (2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds until a block is announced again, that time and the next ones."""
HELD_EVERY_S, HELD_AGAIN_S = 30.0, 1.0
"""Seconds after which a receiver says what it holds, unasked; and before which it does not say so again when asked."""
_PAD_AT_FIRST: Final = 128.0
"""Bytes of pad of a message, before there was one."""
_REFUSED_MAX, _WHY_MAX = 16, 200


@dataclass
class _Timer:
    """When something is said again. Distances, since clocks are stepped back."""

    pause_s: float
    said_at: float = -1e12

    def is_due(self, now: float) -> bool:
        return abs(now - self.said_at) >= self.pause_s


@dataclass(frozen=True, slots=True)
class Granted:
    """Key to send with."""

    slots: int
    pad: int
    """Bytes."""


class BlockExchange:
    """What one end of a link knows of the blocks of both directions. Times are in seconds since 1970."""

    def __init__(
        self,
        link: Link,
        suite: Suite,
        source: KeySource,
        held: HeldKeys,
        *,
        batch: Batch,
        run: Run,
        random: Callable[[int], bytes],
        turns: TurnTaking | None = None,
    ) -> None:
        """``link`` is this end and the peer; ``run`` is chance, drawn at this start.

        ``turns`` say when to have the device draw; at any time, unless told.
        """
        (self._me, self._peer), self._suite, self._source, self._held = link, suite, source, held
        self._run, self._random = run, random
        self._sender = Sender(link)
        self._announcing, self._telling = _Timer(0.0), _Timer(0.0)
        self._times_announced = 0
        self._refused: dict[bytes, str] = {}
        self._fetching: Announce | None = None
        self._pad_mean = _PAD_AT_FIRST
        self._newly_held: list[Facts] = batch.scratch([])
        self._turns = turns or AnyTime()

    # --- sending ---------------------------------------------------------------------------------

    def draw(self, length: int) -> SealingKey | None:
        """Take key for a message with ``length`` bytes of pad, for good; None if there is too little granted now."""
        drawn = self._sender.draw(length)
        if drawn is None:
            return None
        self._sender, key = drawn
        self._pad_mean += (length - self._pad_mean) / 16
        return key

    def granted(self) -> Granted:
        """Return how much key is granted and was not taken."""
        blocks = [each for each in self._sender.blocks if each.is_granted]
        return Granted(sum(each.slots_left for each in blocks), sum(each.pad_left for each in blocks))

    def reconnected(self) -> None:
        """Drop what is granted: messages leave on another connection, and a copy of this machine may have the other."""
        self._sender = self._sender.reconnected()

    def _announce(self, wanted: Granted, now: float) -> list[Announce]:
        """Return the announcement that is due, of a new block if more key is wanted than is granted."""
        self._sender = self._sender.at(now)
        if self._sender.may_announce:
            there = self.granted()
            if there.slots < wanted.slots or there.pad < wanted.pad:
                self._ask()
            raw = self._source.drawn()
            if raw is not None and raw.length >= BLOCK_BYTES_MIN:
                slots, turn = self._slots(raw.length), self._turns.turn
                self._sender = self._sender.with_block(raw.of, raw.key_ids, slots, now, self._random, turn=turn)
                self._announcing, self._times_announced = _Timer(0.0), 0
        announce, timer = self._sender.announces, self._announcing
        if announce is None or not timer.is_due(now):
            return []
        timer.pause_s = ANNOUNCE_AGAIN_S[min(self._times_announced, len(ANNOUNCE_AGAIN_S) - 1)]
        timer.said_at, self._times_announced = now, self._times_announced + 1
        return [announce]

    def _ask(self) -> None:
        """Have key drawn, if it is this end's turn."""
        if not self._source.is_drawing() and self._turns.may_draw() and self._source.ask(BLOCK_BYTES_MAX):
            self._turns.drew()

    def _slots(self, length: int) -> int:
        """Return how many slots a block has, so that with what is left of others slots and pad end together."""
        room = length - 2 * SLOT_BYTES
        if self._suite != "otp":
            return room // SLOT_BYTES
        there = self.granted()
        slots = round((room + there.pad - there.slots * self._pad_mean) / (SLOT_BYTES + self._pad_mean))
        return max(1, min(room // SLOT_BYTES, slots))

    def on_held(self, held: BlocksHeld, now: float) -> None:
        """Take what the peer says that it holds."""
        if held.link != (self._me, self._peer):
            return
        self._sender = self._sender.heard(held, now)
        is_busy = self._source.is_drawing() or not self._sender.may_announce or self._fetching is not None
        self._turns.heard(held.asks, held.gives, is_busy=is_busy)

    # --- receiving -------------------------------------------------------------------------------

    def on_announce(self, announce: Announce) -> None:
        """Take an announcement. Raises MalformedMessageError."""
        link, blocks = (self._peer, self._me), self._held.of(self._peer)
        answer = receiver.answer_to(announce, link, self._held.newest(self._peer), blocks)
        name = announce.facts.block
        if answer == "fetch":
            if self._fetching is None and self._source.fetch(announce.facts):
                self._fetching = announce
        elif answer == "tell":
            self._tell_soon()
        elif answer != "ignore":
            self._refuse(name, answer)

    def slot(self, name: SlotName, tag: bytes) -> bytes | None:
        """As of `receiver.slot_of`."""
        return receiver.slot_of(name, tag, self._held.of(self._peer))

    def pad(self, pieces: Sequence[Piece], length: int) -> bytes:
        """As of `receiver.pad_of`."""
        return receiver.pad_of(pieces, length, self._held.of(self._peer))

    def opened(self, name: SlotName, tag: bytes, pieces: Sequence[Piece]) -> None:
        """Wipe what has opened a message, in the transaction that handles it."""
        self._held.use(self._peer, receiver.wiped(name, tag, pieces, self._held.of(self._peer)))

    def _hold(self, fetched: FetchedKey, now: float) -> None:
        announce, self._fetching = self._fetching, None
        if announce is None or announce.facts != fetched.facts:
            return
        held = None if fetched.key is None else receiver.held(announce, fetched.key)
        if held is None:
            self._refuse(announce.facts.block, fetched.why or "its key does not fit the announcement")
            return
        self._held.hold(self._peer, held, now)
        self._newly_held.append(announce.facts)
        self._turns.collected(announce.turn)
        self._tell_soon(at_once=True)

    def _refuse(self, name: bytes, why: str) -> None:
        self._refused[name] = why[:_WHY_MAX]
        while len(self._refused) > _REFUSED_MAX:
            del self._refused[next(iter(self._refused))]
        self._tell_soon()

    def _tell_soon(self, *, at_once: bool = False) -> None:
        self._telling.pause_s = min(self._telling.pause_s, 0.0 if at_once else HELD_AGAIN_S)

    def _tell(self, now: float) -> list[BlocksHeld]:
        if not self._telling.is_due(now) and not self._turns.has_news:
            return []
        self._telling.pause_s, self._telling.said_at = HELD_EVERY_S, now
        held = tuple(HeldBlock(each.facts.block, each.tag) for each in self._held.latest(self._peer))
        refused = tuple(RefusedBlock(name, why) for name, why in self._refused.items())
        self._refused.clear()
        newest, (asks, gives) = self._held.newest(self._peer), self._turns.says()
        return [BlocksHeld((self._peer, self._me), self._run, newest, held, refused, asks, gives)]

    # --- both ------------------------------------------------------------------------------------

    def tick(self, wanted: Granted, now: float) -> list[Announce | BlocksHeld]:
        """Return what is to be said now; ``wanted`` is how much key is to be granted ahead."""
        if (fetched := self._source.fetched()) is not None:
            self._hold(fetched, now)
        return [*self._announce(wanted, now), *self._tell(now)]

    def committed(self) -> None:
        """Have the source forget what this batch has held."""
        for facts in self._newly_held:
            self._source.held(facts)
