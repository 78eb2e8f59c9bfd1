"""Both directions of one QKD link: announces blocks to send with, holds those of the peer, and says so.

What it returns to be sent may be lost, doubled or late; nothing is retried but by time. What is held is in the store,
and told only in the commit that holds it or after.
"""

from __future__ import annotations

from collections.abc import Callable

from kme.blocks.ahead import Needed
from kme.blocks.announcing import Announcing, Tell
from kme.blocks.holding import Holding
from kme.blocks.ration import Ration
from kme.blocks.source import KeySource
from kme.blocks.turn_taking import AnyTime, TurnTaking
from kme.store.held_keys import HeldKeys
from qkdrelay.errors import MalformedMessageError
from qkdrelay.messages.blocks import Announce, BlocksHeld, Run
from qkdrelay.network.key_cost import Suite
from qkdrelay.network.names import Link
from qkdrelay.service.journal import Journal


def _nobody(_why: str) -> None:
    pass


class BlockExchange:
    """What one end of a link knows of the blocks of both directions. Times are in seconds since 1970."""

    def __init__(
        self,
        link: Link,
        suite: Suite,
        source: KeySource,
        held: HeldKeys,
        *,
        journal: Journal,
        random: Callable[[int], bytes],
        run: Run,
        turns: TurnTaking | None = None,
        tell: Tell = _nobody,
    ) -> None:
        """``link`` is this end and the peer; ``run`` is chance, drawn at this start.

        ``turns`` say when to have the device draw; at any time, unless told. ``tell`` hears why key was given up.
        """
        me, peer = self._link = link
        self._source, self._turns = source, turns or AnyTime()
        ration = Ration(journal.batch, journal.meta, peer)
        self.sending = Announcing(link, suite, source, self._turns, ration=ration, random=random, tell=tell)
        self.receiving = Holding((peer, me), source, held, self._turns, batch=journal.batch, run=run)

    def on_announce(self, announce: Announce, now: float) -> None:
        """Take an announcement. Raises MalformedMessageError."""
        self.receiving.announced(announce, now)

    def on_held(self, held: BlocksHeld, now: float) -> None:
        """Take what the peer says that it holds. Raises MalformedMessageError."""
        if held.link != self._link:
            raise MalformedMessageError("what is held is of another link")
        self.sending.heard(held, now)
        is_busy = self._source.is_drawing() or self.sending.is_announcing or self.receiving.is_fetching
        self._turns.heard(held.asks, held.gives, is_busy=is_busy)

    def tick(self, needed: Needed, now: float) -> list[Announce | BlocksHeld]:
        """Return what is to be said now; ``needed`` is the key that messages wait for."""
        # What is held first: that may end a turn, and then this end may draw.
        held = self.receiving.tick(now)
        return [*self.sending.tick(needed, now), *held]

    def wait_s(self, now: float) -> float:
        """Return in how many seconds a tick is due by itself."""
        return min(self.sending.wait_s(now), self.receiving.wait_s(now))

    def reconnected(self, now: float) -> None:
        """Drop what is granted, and say what is held: messages leave on another connection."""
        self.sending.reconnected(now)
        self.receiving.tell_at_once()

    def committed(self) -> None:
        """Have the source forget what this batch has held."""
        self.receiving.committed()
