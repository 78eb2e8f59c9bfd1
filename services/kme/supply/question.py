"""A question of the interface for applications: asked in its threads, answered by the loop's, after the commit."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from kme.applications import ApplicationError, Caller


class Question:
    """A question, and who waits for the answer (a `kme.supply.waiters.Requester`)."""

    def __init__(self, caller: Caller, other: str) -> None:
        """``other`` is the SAE at the other end."""
        self.caller, self.other = caller, other
        self.answer: Future[Any] = Future()
        self._has_begun = False

    def is_gone(self) -> bool:
        """Whether nobody waits any more."""
        return not self._has_begun and self.answer.cancelled()

    def begin(self) -> bool:
        """Return whether somebody still waits; who asked cannot give up from then on. Only in the loop's thread."""
        # A batch that is undone does not take this back, and need not: the question is answered all the same.
        if not self._has_begun and not self.answer.cancelled():
            self._has_begun = self.answer.set_running_or_notify_cancel()
        return self._has_begun

    def tell(self, result: object) -> None:
        """Answer it, if it has no answer yet: with an `ApplicationError`, or what was asked for."""
        if not self.begin() or self.answer.done():
            return
        if isinstance(result, ApplicationError):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)
