"""What was used last, kept in memory beside a store that has it all."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """At most ``most`` values by key, of at most ``most_size`` together; the one not used for longest goes first.

    A value that is larger alone is not kept.
    """

    def __init__(self, most: int, most_size: int = 0) -> None:
        self._most, self._most_size = most, most_size
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Return the value, if it is kept."""
        kept = self._values.get(key)
        if kept is None:
            return None
        self._values.move_to_end(key)
        return kept[0]

    def keep(self, key: K, value: V, size: int = 0) -> None:
        """Keep a value of that size."""
        self.drop(key)
        if size > self._most_size:
            return
        self._values[key] = value, size
        self._size += size
        while len(self._values) > self._most or self._size > self._most_size:
            _, (_, gone) = self._values.popitem(last=False)
            self._size -= gone

    def grow(self, key: K, by: int) -> None:
        """Take note that a value that is kept has grown."""
        value, size = self._values[key]
        self.keep(key, value, size + by)

    def drop(self, key: K) -> None:
        """Forget a value."""
        if key in self._values:
            self._size -= self._values.pop(key)[1]

    def clear(self) -> None:
        """Forget all."""
        self._values.clear()
        self._size = 0
