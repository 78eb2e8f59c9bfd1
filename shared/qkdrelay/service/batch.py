"""Memory that a batch changes: kept once the batch is committed, undone in one place if it is not.

A batch is one transaction of a service. Whatever it changes in memory is of one of three kinds, and says so where it is
made: *scratch* is gone when the batch is over, either way; a *cache* of what is stored is emptied if the batch is
undone; everything else lasts (`BatchDict`, `Cell`) and goes back to what it was before the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class Clearable(Protocol):
    """Whatever can be emptied."""

    def clear(self) -> None:
        """Empty it."""
        ...


C = TypeVar("C", bound=Clearable)


class Batch:
    """The memory of one service, as far as its batches change it."""

    def __init__(self) -> None:
        self._scratch: list[Clearable] = []
        self._caches: list[Clearable] = []
        self._restore: list[Callable[[], None]] = []
        self._if_undone: list[Callable[[], None]] = []
        self.number = 0
        """Of the batch; counts up."""

    def scratch(self, container: C) -> C:
        """Return ``container``, to be emptied whenever a batch is over."""
        self._scratch.append(container)
        return container

    def cache(self, container: C) -> C:
        """Return ``container``, to be emptied if a batch is undone: what it has may not be in the store."""
        self._caches.append(container)
        return container

    def restore(self, step: Callable[[], None]) -> None:
        """Have ``step`` called if this batch is undone; the last one first."""
        self._restore.append(step)

    def if_undone(self, step: Callable[[], None]) -> None:
        """Have ``step`` called once this batch was undone, if it is: what it does then stays."""
        self._if_undone.append(step)

    def begin(self) -> None:
        """Begin: what was changed before stays."""
        self._restore.clear()
        self._if_undone.clear()
        self.number += 1

    def end(self) -> None:
        """Empty all scratch: what came of the batch has been told."""
        for container in self._scratch:
            if container:  # most are empty, and to ask is cheaper than to clear
                container.clear()

    def undo(self) -> None:
        """Have everything as it was before the batch."""
        then, self._if_undone = self._if_undone, []
        while self._restore:
            self._restore.pop()()
        self.end()
        for container in self._caches:
            container.clear()
        for step in then:
            step()


class Cell(Generic[T]):
    """One value that batches change."""

    __slots__ = ("_batch", "_value")

    def __init__(self, batch: Batch, value: T) -> None:
        self._batch, self._value = batch, value

    @property
    def value(self) -> T:
        """What it is now."""
        return self._value

    @value.setter
    def value(self, value: T) -> None:
        before = self._value
        if value is not before:
            self._batch.restore(lambda: self._set(before))
            self._value = value

    def _set(self, value: T) -> None:
        self._value = value


class BatchDict(dict[K, V]):
    """A dictionary that batches change: copied before the first change of each, order included."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self._batch, self._copied_in = batch, -1

    def _copy(self) -> None:
        if self._copied_in != self._batch.number:
            self._copied_in = self._batch.number
            before = dict(self)
            self._batch.restore(lambda: self._set(before))

    def _set(self, before: dict[K, V]) -> None:
        super().clear()
        super().update(before)

    def __setitem__(self, key: K, value: V) -> None:
        self._copy()
        super().__setitem__(key, value)

    def __delitem__(self, key: K) -> None:
        self._copy()
        super().__delitem__(key)

    if not TYPE_CHECKING:  # to a type checker it is the dictionary's own

        def __ior__(self, others):
            self.update(others)
            return self

    def pop(self, key: K, *default: Any) -> Any:
        """As of `dict`."""
        self._copy()
        return super().pop(key, *default)

    def popitem(self) -> tuple[K, V]:
        """As of `dict`."""
        self._copy()
        return super().popitem()

    def setdefault(self, key: K, default: V) -> V:
        """As of `dict`."""
        self._copy()
        return super().setdefault(key, default)

    def update(self, *others: Any, **named: Any) -> None:
        """As of `dict`."""
        self._copy()
        super().update(*others, **named)

    def clear(self) -> None:
        """As of `dict`."""
        self._copy()
        super().clear()
