"""The relays to rebuild at a target: at once, or a little later, and what takes long a little in each turn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import islice
from uuid import UUID

from kme.effects import Effect
from kme.rebuilding import Rebuilder
from kme.store import KmeStore
from qkdrelay.errors import StoreError
from qkdrelay.service.batch import BatchDict, Cell
from qkdrelay.service.loop import BATCH_MAX
from qkdrelay.sharing.work import Budget

TURN_WORK, SLICE_WORK = 1 << 25, 1 << 24
"""Work in one turn, some 30 ms, and for one relay of it: nothing else is handled meanwhile."""
_CALM, _CALM_BYTES = 16, 1 << 18
"""Messages in a batch, and their bytes, from which on there is load."""
_LATER_S, _LATER_MAX, _LATER_AT_ONCE = 0.5, 1_000, BATCH_MAX
"""Seconds, and relays, after which those put off are tried; how many in one turn: at least what one batch adds."""


class RebuildQueue:
    """The relays to rebuild. What a batch asked for is forgotten with it; what is due is no more once it was tried."""

    def __init__(self, rebuilder: Rebuilder, store: KmeStore) -> None:
        self._rebuilder, self._store, self._batch = rebuilder, store, store.journal.batch
        self._asked: dict[UUID, None] = self._batch.scratch({})
        self._due: dict[UUID, None] = BatchDict(self._batch)
        """In the next turns, as many as one allows."""
        self.later: dict[UUID, None] = BatchDict(self._batch)
        """When there is time: rebuilt, with shares that came since."""
        self._long: dict[UUID, None] = BatchDict(self._batch)
        """Those that take more than their part of a turn: the first one gets it in each."""
        self._later_since = Cell(self._batch, 0.0)

    def start(self) -> None:
        """Look at all that was collected before this start, when there is time."""
        self.later.update(dict.fromkeys(self._store.shares.relays_with(_LATER_MAX)))

    def wait_s(self, now: float) -> float:
        """Return in how many seconds it wants its next turn."""
        if self.unfinished:
            return 0.0
        return max(0.0, _LATER_S - abs(now - self._later_since.value)) if self.later else math.inf

    def ask(self, relay_id: UUID) -> None:
        """Have this relay tried in the next turn, for a share of it has come."""
        self._asked[relay_id] = None

    @property
    def unfinished(self) -> bool:
        """Whether there is more to do in the next turn."""
        return bool(self._due or self._long)

    def turn(self, now: float, *, messages: int, size: int) -> Iterator[list[Effect]]:
        """Try what is due, after a batch of so many messages and bytes; yield what follows for each relay.

        Rebuild what has all its shares; the rest at once if little is going on, or else a little later. Under load
        the missing shares are in the next batch, and to rebuild once is half the work.
        """
        calm = messages < _CALM and size < _CALM_BYTES
        for relay_id in self._asked:
            urgent = self._rebuilder.is_urgent(relay_id, self._store, calm=calm)
            (self._due if urgent else self.later)[relay_id] = None
        self._asked.clear()
        # A distance, not a difference: the clock may be stepped back.
        overdue = abs(now - self._later_since.value) >= _LATER_S or len(self.later) > _LATER_MAX
        if messages == 0 or overdue:
            if len(self.later) <= _LATER_AT_ONCE:
                self._later_since.value = now
            self._due.update(dict.fromkeys(islice(self.later, _LATER_AT_ONCE)))
        left = TURN_WORK
        for relay_id in dict.fromkeys([*islice(self._long, 1), *self._due]):
            if left <= 0:
                break
            part = Budget(SLICE_WORK)
            first = next(iter(self._long), relay_id) == relay_id
            try:
                effects = self._rebuilder.try_rebuild(relay_id, self._store, part, keep=first)
            except StoreError:
                raise
            except Exception:
                # Every batch would fail with it.
                self._batch.if_undone(partial(self._drop, relay_id))
                raise
            left -= SLICE_WORK - part.left
            if effects is not None:
                self._drop(relay_id)
                yield effects
            else:
                self._long[relay_id] = None
                self._due.pop(relay_id, None)
                self.later.pop(relay_id, None)

    def _drop(self, relay_id: UUID) -> None:
        for waiting in (self._due, self.later, self._long):
            waiting.pop(relay_id, None)
