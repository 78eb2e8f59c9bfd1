"""The receiving end of one direction of a QKD link: fetches what is announced, holds it, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kme.blocks.source import FetchedKey, KeySource
from kme.blocks.timer import Timer
from kme.blocks.turn_taking import TurnTaking
from kme.store.held_keys import HeldKeys
from qkdrelay.link.blocks import receiver
from qkdrelay.link.blocks.sender import AHEAD_MAX_S
from qkdrelay.messages.blocks import Announce, BlocksHeld, Facts, HeldBlock, Piece, RefusedBlock, Run, SlotName
from qkdrelay.network.names import Link
from qkdrelay.randomness import epoch_after
from qkdrelay.service.batch import Batch

HELD_EVERY_S, HELD_AGAIN_S = 30.0, 1.0
"""Seconds after which it says what it holds, unasked; and before which it does not say so again when asked."""
_AHEAD_MAX_S: Final = AHEAD_MAX_S / 2
"""How far ahead of the clock here a block may be that is held: its sender must believe that it was."""
_WRONG_S, _WRONG_MAX_S = 0.02, 2.0
"""Seconds without a fetch after an announcement that was nobody's: twice as long each time."""
_REFUSED_MAX: Final = 16
_WHY_MAX: Final = 200


class Holding:
    """What one end of a link has of the other's key. Times are in seconds since 1970."""

    def __init__(
        self, link: Link, source: KeySource, held: HeldKeys, turns: TurnTaking, *, batch: Batch, run: Run
    ) -> None:
        """``link`` is the peer and this end; ``run`` is chance, drawn at this start."""
        self._link, self._peer, self._source, self._held, self._turns = link, link[0], source, held, turns
        self._run = run
        self._telling = Timer()
        self._refused: dict[bytes, str] = {}
        self._fetching: Announce | None = None
        self._newly_held: list[Facts] = batch.scratch([])
        self._wrong = Timer()
        """How long nothing is fetched after what nobody announced who had the key: to tell costs as much as to hold."""
        held.compute_with(self._peer, source.computed)

    @property
    def is_fetching(self) -> bool:
        """Whether the key of a block that was announced is being fetched."""
        return self._fetching is not None

    def announced(self, announce: Announce, now: float) -> None:
        """Take an announcement. Raises MalformedMessageError."""
        held, peer, latest = self._held, self._peer, epoch_after(b"", now + _AHEAD_MAX_S, bytes)
        key_ids = held.key_ids(peer)
        answer = receiver.answer_to(announce, self._link, held.newest(peer), latest, held.of(peer), key_ids=key_ids)
        if answer == "fetch":
            is_free = self._fetching is None and self._wrong.is_due(now)
            if is_free and self._source.fetch(announce.facts):
                self._fetching = announce
        elif answer == "tell":
            self._telling.shorten(HELD_AGAIN_S)
        elif answer != "ignore":
            self._refuse(announce.facts.block, answer)

    def slot(self, name: SlotName, tag: bytes) -> bytes | None:
        """As of `receiver.slot_of`."""
        blocks = self._held.of(self._peer)
        return receiver.slot_of(name, tag, blocks, lambda name: self._held.opened(self._peer, name))

    def pad(self, name: SlotName, pieces: Sequence[Piece], length: int) -> bytes:
        """As of `receiver.pad_of`."""
        return receiver.pad_of(name, pieces, length, self._held.of(self._peer))

    def opened(self, name: SlotName, tag: bytes, pieces: Sequence[Piece]) -> None:
        """Wipe what has opened a message, in the transaction that handles it."""
        self._held.use(self._peer, name, tag, receiver.wiped(name, pieces, self._held.of(self._peer)))

    def tell_at_once(self) -> None:
        """Say what is held with the next tick."""
        self._telling.shorten(0.0)

    def tick(self, now: float) -> list[BlocksHeld]:
        """Hold what was fetched, and return what is to be said."""
        if (fetched := self._source.fetched()) is not None:
            self._hold(fetched, now)
        if not self._telling.is_due(now) and not self._turns.has_news:
            return []
        self._telling.begin(now, HELD_EVERY_S)
        held = tuple(HeldBlock(each.facts.block, each.tag) for each in self._held.latest(self._peer))
        refused = tuple(RefusedBlock(name, why) for name, why in self._refused.items())
        self._refused.clear()
        newest, (asks, gives) = self._held.newest(self._peer), self._turns.says()
        return [BlocksHeld(self._link, self._run, newest, held, refused, asks, gives)]

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is to be said."""
        return 0.0 if self._turns.has_news else self._telling.wait_s(now)

    def _hold(self, fetched: FetchedKey, now: float) -> None:
        announce, self._fetching = self._fetching, None
        if announce is None or announce.facts != fetched.facts:
            return
        held = None if fetched.key is None else receiver.held(announce, fetched.key)
        if held is None:
            if fetched.key is not None:
                self._wrong.begin(now, min(_WRONG_MAX_S, max(_WRONG_S, 2 * self._wrong.pause_s)))
            self._refuse(announce.facts.block, fetched.why or "its key does not fit the announcement")
            return
        self._wrong = Timer()
        self._held.hold(self._peer, held, now)
        self._newly_held.append(announce.facts)
        self._turns.collected(announce.turn)
        self.tell_at_once()

    def _refuse(self, name: bytes, why: str) -> None:
        self._refused[name] = why[:_WHY_MAX]
        while len(self._refused) > _REFUSED_MAX:
            del self._refused[next(iter(self._refused))]
        self._telling.shorten(HELD_AGAIN_S)

    def committed(self) -> None:
        """Have the source forget what this batch has held."""
        for facts in self._newly_held:
            self._source.held(facts)
