"""Events of a batch: logged and counted once it is committed, forgotten if it is undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qkdrelay.service.batch import Batch
from qkdrelay.service.logs import LogLevel, log_all
from qkdrelay.service.moderation import Line, Moderator


class BatchEvents:
    """The log of one service, as its batches write it."""

    def __init__(
        self,
        batch: Batch,
        of_others: Mapping[str, str],
        count: Callable[[str, Mapping[str, object]], None],
        **whose: str,
    ) -> None:
        """``of_others`` is as of `Moderator`; ``count`` counts an event with its fields; ``whose`` is in each line."""
        self._lines: list[Line] = batch.scratch([])
        self._moderator, self._count, self._whose = Moderator(of_others), count, whose

    def note(self, event: str, level: LogLevel, **fields: object) -> None:
        """Log an event after the commit."""
        self._lines.append((level, event, fields))

    def log(self, now: float) -> None:
        """Log and count what is committed; ``now`` in seconds since the epoch."""
        log_all(self._moderator.passed(self._lines, now), **self._whose)
        for _, event, fields in self._lines:
            self._count(event, fields)
