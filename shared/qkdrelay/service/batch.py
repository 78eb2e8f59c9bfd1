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


_ABSENT: Any = object()


class BatchDict(dict[K, V]):
    """A dictionary that batches change; what is undone is undone key by key, and the order is as it was.

    To note a change costs the same however much there is.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self._batch, self._noted_in = batch, -1
        self._places: dict[K, int] = {}
        """The order of insertion."""
        self._inserted = 0
        self._before: list[tuple[K, V, int]] = []
        """What each change of this batch has replaced, with its place."""

    def _note(self, key: K) -> None:
        if self._noted_in != self._batch.number:
            self._noted_in, self._before = self._batch.number, []
            self._batch.restore(self._undo)
        self._before.append((key, super().get(key, _ABSENT), self._places.get(key, 0)))

    def _undo(self) -> None:
        is_in_order = True
        for key, value, place in reversed(self._before):
            if value is _ABSENT:
                super().__delitem__(key)
                del self._places[key]
            else:
                is_in_order &= key in self
                super().__setitem__(key, value)
                self._places[key] = place
        self._before = []
        if not is_in_order:
            items = sorted(self.items(), key=lambda item: self._places[item[0]])
            super().clear()
            super().update(items)

    def __setitem__(self, key: K, value: V) -> None:
        self._note(key)
        if key not in self:
            self._places[key] = self._inserted
            self._inserted += 1
        super().__setitem__(key, value)

    def __delitem__(self, key: K) -> None:
        if key in self:
            self._note(key)
            del self._places[key]
        super().__delitem__(key)

    if not TYPE_CHECKING:  # to a type checker it is the dictionary's own

        def __ior__(self, others):
            self.update(others)
            return self

    def pop(self, key: K, *default: Any) -> Any:
        """As of `dict`."""
        if key in self:
            self._note(key)
            del self._places[key]
        return super().pop(key, *default)

    def popitem(self) -> tuple[K, V]:
        """As of `dict`."""
        if not self:
            raise KeyError("there is nothing")
        key = next(reversed(self))
        return key, self.pop(key)

    def setdefault(self, key: K, default: V) -> V:
        """As of `dict`."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **named: Any) -> None:
        """As of `dict`."""
        for key, value in dict(*others, **named).items():
            self[key] = value

    def clear(self) -> None:
        """As of `dict`."""
        for key in tuple(self):
            del self[key]
