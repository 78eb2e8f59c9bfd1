"""The keys of a KME as its interface for applications asks for them, from any thread (`kme.applications`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Final
from uuid import UUID

from kme.applications import ApplicationKey, ApplicationKeys, Caller, KeyRequest, PairStatus, TryLaterError
from kme.supply.question import Question
from kme.supply.room import Room
from qkdrelay.errors import StoreError
from qkdrelay.network.directory import SAES_MAX, Directory
from qkdrelay.service.mailbox import Mailbox, MailboxFullError

BURST_S: Final = 2.0
"""Seconds' worth of requests that one SAE may send at once."""


class Throttle:
    """A limit of requests a second for each SAE; any thread may ask."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` returns seconds and never steps back."""
        self._per_s, self._clock, self._lock = per_s, clock, threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}
        """Requests that each may send at once, and when that was so."""

    def allows(self, sae_id: str) -> bool:
        """Count a request; return whether it may be."""
        most = max(1.0, self._per_s * BURST_S)
        with self._lock:
            now = self._clock()
            left, at = self._left.get(sae_id, (most, now))
            left = min(most, left + (now - at) * self._per_s)
            if len(self._left) >= SAES_MAX and sae_id not in self._left:
                self._left.pop(next(iter(self._left)))
            self._left[sae_id] = max(0.0, left - 1), now
            return left >= 1


class Front(ApplicationKeys):
    """Hands what is asked to the loop's thread, and answers once it is committed."""

    def __init__(self, room: Room, mailbox: Mailbox, throttle: Throttle) -> None:
        self._room, self._mailbox, self._throttle = room, mailbox, throttle

    def directory(self) -> Directory:
        """Return the directory as it is now."""
        return self._room.directory

    def status(self, caller: Caller, slave: str) -> Future[PairStatus]:
        """Return what there is for the caller as master and ``slave``."""
        return self._ask(caller, slave, self._room.requests.status)

    def take(self, caller: Caller, request: KeyRequest) -> Future[list[ApplicationKey]]:
        """Take keys for the caller as master."""
        take = self._room.requests.take
        return self._ask(caller, request.slave, lambda question, now: take(question, request, now))

    def fetch(self, caller: Caller, master: str, key_ids: Sequence[UUID]) -> Future[list[ApplicationKey]]:
        """Fetch keys for the caller as slave."""
        fetch, key_ids = self._room.requests.fetch, tuple(key_ids)
        return self._ask(caller, master, lambda question, now: fetch(question, key_ids, now))

    def _ask(self, caller: Caller, other: str, work: Callable[[Question, float], None]) -> Future[Any]:
        question = Question(caller, other)
        if not self._throttle.allows(caller.sae_id):
            question.tell(TryLaterError(f"{caller.sae_id} asks too often"))
            return question.answer
        try:
            posted = self._mailbox.post(lambda now: work(question, now))
        except MailboxFullError:
            question.tell(TryLaterError("too many requests wait here already"))
        else:
            posted.add_done_callback(lambda post: _if_it_failed(post, question))
        return question.answer


def _if_it_failed(post: Future[None], question: Question) -> None:
    """Say so if the work was not done, or not committed; it is answered by the room else."""
    error = CancelledError() if post.cancelled() else post.exception()
    if isinstance(error, CancelledError):
        question.tell(TryLaterError("the KME is stopping"))
    elif isinstance(error, StoreError):
        question.tell(TryLaterError("the KME's store cannot be written now"))
    elif error is not None:
        question.tell(TryLaterError("the request could not be handled"))
