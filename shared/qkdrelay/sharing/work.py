"""Work, counted: what a rebuild does is bounded by it, and done in parts.

The unit is one byte multiplied by a constant, about a nanosecond. What costs more than its bytes is charged in
that currency: each operation on a share as `CALL` bytes, each AMD code word as `CODE`, and each share of a subset that
is chosen anew as `CHOICE`. Functions that may take
long are generators, which yield the work they have done since they last did.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

CALL, CODE, CHOICE = 512, 30_000, 3_000

T = TypeVar("T")

Steps = Generator[int, None, T]
"""Yields work done; returns what came of it."""


@dataclass(slots=True)
class Budget:
    """Work that may still be done."""

    left: int


def combining(shares: int, size: int) -> int:
    """Return the work of interpolating that many shares of ``size`` bytes at one point."""
    return shares * (CALL + size)


def attempt(shares: int, size: int) -> int:
    """Return the work of seeing whether so many shares of ``size`` bytes, chosen anew, give a code word."""
    return combining(shares, size) + CHOICE * shares + CODE + size


def finished(steps: Steps[T]) -> T:
    """Do all of it, and return what came of it."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def run_within(steps: Steps[T], budget: Budget) -> tuple[T] | None:
    """Go on until it is finished or the budget is used up; return what came of it, in a tuple, or None."""
    while budget.left > 0:
        try:
            budget.left -= next(steps)
        except StopIteration as end:
            return (end.value,)
    return None
