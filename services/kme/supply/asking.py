"""Assignments that are not settled: sent again, byte for byte, at growing intervals, and given up at last."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from kme.supply.model import Block, Pair, Want
from qkdrelay.service.batch import Batch, BatchDict

AGAIN_S: Final = 2.0
"""Seconds until an assignment is sent again for the first time; then twice as many each time."""
TIMES_MAX: Final = 10
"""Times that it is sent; given up half an hour after the first."""

FRESH_TIMES: Final = 2
FRESH_S: Final = 4.0
"""Up to so often sent, and for so many seconds then, an answer is expected soon."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An assignment that is not settled."""

    block: Block
    sent_at: float
    """Seconds since the epoch."""
    times: int
    is_confirmed: bool
    """Whether its relay is confirmed; then the answer makes its keys ready, and before that it does not."""
    is_answered: bool = False
    """Whether the target has answered, and the confirmation of the relay is missing."""
    is_due: bool = False
    """Whether it is to be sent as soon as may be."""

    def is_fresh(self, now: float) -> bool:
        """Whether an answer can be expected soon; if not, others are asked for instead."""
        # A distance, not a difference: the clock may be stepped back.
        return self.is_due or (self.times <= FRESH_TIMES and abs(now - self.sent_at) < FRESH_S)

    def wait_s(self, now: float) -> float:
        """Return in how many seconds it is to be sent again, or given up; not above zero if that is now."""
        if self.is_due:
            return 0.0
        # A distance, not a difference: the clock may be stepped back.
        return AGAIN_S * (1 << max(0, self.times - 1)) - abs(now - self.sent_at)


class Asking:
    """The assignments of one KME that are not settled."""

    def __init__(self, batch: Batch) -> None:
        self._asked: dict[UUID, Asked] = BatchDict(batch)
        self._of: dict[Pair, tuple[UUID, ...]] = BatchDict(batch)

    def __len__(self) -> int:
        return len(self._asked)

    def all(self) -> Iterator[Asked]:
        """Yield them."""
        return iter(self._asked.values())

    def get(self, assign_id: UUID) -> Asked | None:
        """Return one of them."""
        return self._asked.get(assign_id)

    def of(self, pair: Pair) -> Iterator[Asked]:
        """Yield those of one pair of SAEs."""
        return (self._asked[assign_id] for assign_id in self._of.get(pair, ()))

    def count(self, want: Want, now: float) -> int:
        """Return how many keys are asked for that will do for what is wanted, and can be expected soon."""
        asked_for = (asked for asked in self.of(want.pair) if asked.block.serves(want))
        return sum(asked.block.count for asked in asked_for if asked.is_fresh(now))

    def keep(self, asked: Asked) -> None:
        """Keep one as it is now."""
        assign_id = asked.block.assign.assignment.assign_id
        if assign_id not in self._asked:
            self._of[asked.block.pair] = (*self._of.get(asked.block.pair, ()), assign_id)
        self._asked[assign_id] = asked

    def remove(self, asked: Asked) -> None:
        """Expect no answer any more."""
        pair, assign_id = asked.block.pair, asked.block.assign.assignment.assign_id
        if self._asked.pop(assign_id, None) is None:
            return
        if left := tuple(each for each in self._of[pair] if each != assign_id):
            self._of[pair] = left
        else:
            del self._of[pair]

    def due(self, now: float) -> list[Asked]:
        """Return those whose time has come."""
        return [asked for asked in self._asked.values() if not asked.is_answered and asked.wait_s(now) <= 0]

    def sent_again(self, asked: Asked, now: float) -> None:
        """Take note that one leaves once more."""
        self.keep(replace(asked, sent_at=now, times=min(asked.times + 1, TIMES_MAX), is_due=False))

    def wait_s(self, now: float) -> float:
        """Return in how many seconds the first of them is due."""
        waiting = (asked.wait_s(now) for asked in self._asked.values() if not asked.is_answered)
        return max(0.0, min(waiting, default=math.inf))
