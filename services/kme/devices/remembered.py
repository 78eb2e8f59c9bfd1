"""Ids of keys that devices gave, remembered to tell when one comes twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

IDS_MAX: Final = 16_384


class RememberedIds:
    """The last ids of keys, however they are written."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, key_ids: Iterable[str]) -> None:
        """Remember these, too."""
        self._ids.update((key_id.lower(), None) for key_id in key_ids)
        while len(self._ids) > IDS_MAX:
            self._ids.popitem(last=False)

    def has_any(self, key_ids: Iterable[str]) -> bool:
        """Whether one of these is remembered."""
        return any(key_id.lower() in self._ids for key_id in key_ids)
