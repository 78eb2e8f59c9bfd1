"""What a sender may give up: so often in an hour, and after failures ever more rarely.

Who has the broker can have granted key given up, by cutting the connection or in the name of the other end. It costs
the link a pause then, and not all its key.
"""

from __future__ import annotations

import struct
from typing import Final

from qkdrelay.service.batch import Batch, Cell
from qkdrelay.service.meta import Meta

RATION, RATION_S = 128, 3_720.0
"""So often in so many seconds granted key may be given up; starts count."""
PAUSE_S, PAUSE_MAX_S = 1.0, 60.0
"""Seconds until the next block after one that nobody held: twice as long each time."""
_TIME: Final = struct.Struct("<d")


class Ration:
    """When key was given up on the link to one peer; times are in seconds since 1970, and kept in the store."""

    def __init__(self, batch: Batch, meta: Meta, peer: str) -> None:
        self._meta, self._key = meta, f"given up on {peer}"
        self._times = Cell[tuple[float, ...] | None](batch, None)
        self._pause = Cell(batch, (0.0, 0.0))
        """How long the next block waits, and since when."""

    def _recent(self, now: float) -> tuple[float, ...]:
        times = self._times.value
        if times is None:
            stored = self._meta.get(self._key) or b""
            times = tuple(time for (time,) in _TIME.iter_unpack(stored[: len(stored) // _TIME.size * _TIME.size]))
            self._times.value = times
        # Distances: the clock may be stepped back.
        recent = tuple(time for time in times if abs(now - time) < RATION_S)
        if len(recent) < len(times):  # asked for at each tick, and hardly ever another
            self._times.value = recent
        return recent

    def note(self, now: float) -> None:
        """Note that granted key was given up."""
        times = (*self._recent(now), now)[-RATION:]
        self._times.value = times
        self._meta.set(self._key, b"".join(map(_TIME.pack, times)))

    def note_refused(self, now: float) -> None:
        """Note that nobody held a block that was announced."""
        pause_s, _ = self._pause.value
        self._pause.value = min(PAUSE_MAX_S, max(PAUSE_S, 2 * pause_s)), now

    def note_granted(self) -> None:
        """Note that one was held."""
        self._pause.value = 0.0, 0.0

    def wait_s(self, now: float) -> float:
        """Return in how many seconds another block may be announced."""
        pause_s, since = self._pause.value
        times = self._recent(now)
        spent_s = RATION_S - abs(now - times[0]) if len(times) >= RATION else 0.0
        return max(0.0, pause_s - abs(now - since), spent_s)
