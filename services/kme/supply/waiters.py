"""Requests for keys that wait until there are enough, for some seconds; few of one SAE, and bounded in all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from kme.applications import ApplicationError, ApplicationKey, PairStatus, TryLaterError
from kme.supply.model import SupplyLimits, Want
from qkdrelay.service.batch import Batch, BatchDict, Cell


class Requester(Protocol):
    """Who asks for keys, and waits for them in another thread."""

    def is_gone(self) -> bool:
        """Whether no answer is waited for any more."""
        ...

    def begin(self) -> bool:
        """Return whether an answer is still waited for; if it is, that stays so until it comes."""
        ...


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request that waits."""

    asker: Requester
    want: Want
    number: int
    is_demanded: bool
    """Whether the client demanded the level, and it is not only the pair's settings."""
    since: float
    """Seconds since the epoch."""


Result = list[ApplicationKey] | PairStatus | ApplicationError
"""What a request comes to."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody is to be told once the batch is committed: the keys that were asked for, or why there are none."""

    asker: Requester
    result: Result
    has_waited: bool = False
    """Whether that is an error after a wait in vain."""


class Waiters:
    """The requests that wait at one KME, in the order in which they came."""

    def __init__(self, batch: Batch, limits: SupplyLimits) -> None:
        self._limits = limits
        self._waiting: dict[int, Waiter] = BatchDict(batch)
        self._came = Cell(batch, 0)

    def __len__(self) -> int:
        return len(self._waiting)

    def all(self) -> Iterator[Waiter]:
        """Yield them all."""
        return iter(self._waiting.values())

    def wants(self) -> dict[Want, int]:
        """Return how many keys are waited for, by what is wanted; what was asked for first stands first."""
        numbers: dict[Want, int] = {}
        for waiter in self._waiting.values():
            numbers[waiter.want] = numbers.get(waiter.want, 0) + waiter.number
        return numbers

    def add(self, waiter: Waiter) -> None:
        """Have it wait. Raises TryLaterError if too many do."""
        master = waiter.want.pair.master
        if len(self._waiting) >= self._limits.waiters:
            raise TryLaterError(f"{self._limits.waiters} requests wait for keys here already")
        if sum(each.want.pair.master == master for each in self._waiting.values()) >= self._limits.waiters_each:
            raise TryLaterError(f"{self._limits.waiters_each} requests of {master} wait for keys already")
        self._came.value += 1
        self._waiting[self._came.value] = waiter

    def has(self, want: Want) -> bool:
        """Whether somebody waits for the same."""
        return any(waiter.want == want for waiter in self._waiting.values())

    def drop_gone(self) -> None:
        """Forget those whose clients are gone."""
        for number, waiter in tuple(self._waiting.items()):
            if waiter.asker.is_gone():
                del self._waiting[number]

    def remove(self, waiter: Waiter) -> None:
        """Have it wait no longer."""
        for number, each in self._waiting.items():
            if each is waiter:
                del self._waiting[number]
                return

    def overdue(self, now: float) -> list[Waiter]:
        """Return those that have waited long enough."""
        # A distance, not a difference: the clock may be stepped back.
        limit_s = self._limits.wait_s
        return [waiter for waiter in self._waiting.values() if abs(now - waiter.since) >= limit_s]

    def wait_s(self, now: float) -> float:
        """Return in how many seconds the first has waited long enough."""
        left = (self._limits.wait_s - abs(now - waiter.since) for waiter in self._waiting.values())
        return max(0.0, min(left, default=math.inf))
