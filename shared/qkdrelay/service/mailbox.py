"""Work that other threads hand to a service's own: done in its next batch, answered after the commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

from qkdrelay.errors import QkdRelayError

POSTS_MAX = 1_000
"""Pieces of work that wait."""

T = TypeVar("T")


class MailboxFullError(QkdRelayError):
    """Too much work waits for the service already."""


@dataclass(eq=False, slots=True)
class Post(Generic[T]):
    """One piece of work, and who waits for what comes of it."""

    work: Callable[[float], T]
    """Gets the time, in seconds since the epoch; runs in the transaction, and again if somebody else fails that."""
    answer: Future[T]
    result: T | None = None

    def do(self, now: float) -> None:
        """Do the work; nobody hears of it before `tell`."""
        self.result = self.work(now)

    def tell(self) -> None:
        """Answer: what was done is committed."""
        self.answer.set_result(self.result)  # type: ignore[arg-type]

    def fail(self, error: BaseException) -> None:
        """Say why it could not be done."""
        self.answer.set_exception(error)

    def give_up(self) -> None:
        """Have who waits see it cancelled."""
        if not self.answer.cancel():  # it was taken
            self.fail(CancelledError())


class Mailbox:
    """The work that waits for one service; any thread may post, the service's takes."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """``wake`` ends the wait of the service's thread, if it waits."""
        self._posts: deque[Post[Any]] = deque()
        self._posting = Lock()
        self._closed = False
        self._wake = wake

    def post(self, work: Callable[[float], T]) -> Future[T]:
        """Have ``work`` done, with the time, in the service's thread and transaction; return its answer to come.

        Who gives up waiting cancels the answer; once the service ends it comes cancelled. Raises MailboxFullError.
        """
        answer: Future[T] = Future()
        with self._posting:
            if len(self._posts) >= POSTS_MAX:
                raise MailboxFullError(f"{POSTS_MAX} pieces of work wait already", hint="try again later")
            self._posts.append(Post(work, answer))
            if self._closed:
                self._posts.pop().give_up()
        self._wake()
        return answer

    def take(self, limit: int) -> list[Post[Any]]:
        """Return what waits and was not cancelled, at most ``limit``, oldest first."""
        taken: list[Post[Any]] = []
        while self._posts and len(taken) < limit:
            post = self._posts.popleft()
            if post.answer.set_running_or_notify_cancel():
                taken.append(post)
        return taken

    def close(self) -> None:
        """Cancel what waits, and all that is posted from now on: nobody does it any more."""
        with self._posting:
            self._closed = True
            while self._posts:
                self._posts.popleft().give_up()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._posts
