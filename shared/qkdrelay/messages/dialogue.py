"""The talk between a client and the coordinator, signed both ways; each request is taken once.

The broker carries it and is not trusted with it: it can read, delay and drop. Requests and answers are signed under a
key that only these two have, never the password, which the broker gets to see. Each says from whom to whom it is, so
that neither passes for the other. Clients (the command line, the page) have a key each.

A request is taken if it was sent within the last minute by the coordinator's clock, after this start of the
coordinator, and not taken before. So little is to be remembered, and nothing that a lost or restored store could
forget. Whose clock is off, or who sent it before the start, is told the time (`Late`) and sends it again.

An answer names its request by a random id, and is numbered: one that does not come after all before it is old.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Container
from itertools import count
from typing import Literal
from uuid import UUID, uuid4

from qkdrelay.errors import ForgedMessageError, MalformedMessageError
from qkdrelay.messages import codec, signing
from qkdrelay.messages.answers import Late, Reply, ReplyBody
from qkdrelay.messages.control import SignedMessage
from qkdrelay.messages.fields import EPOCH_BYTES
from qkdrelay.messages.requests import Request, RequestBody
from qkdrelay.network.names import CLI, COORDINATOR, client_queue_prefix, parse_client_queue

REQUEST_AGE_MAX_S = 60.0
TAKEN_MAX = 100_000
"""Requests that are remembered; beyond that, old ones are late sooner."""
Standing = Literal["new", "repeated", "late"]


class Asker:
    """One session of a client: signs what it asks, and tells the coordinator's answers from all others."""

    def __init__(self, key: bytes, address: str, clock: Callable[[], float] = time.time) -> None:
        """``address`` is the session's queue, which says whose it is; ``clock`` returns seconds since the epoch."""
        self.client, self.site = parse_client_queue(address)
        """Who asks: one of `CLIENTS`, and its site if that is not the coordinator's."""
        self._key, self._address, self._clock = key, address, clock
        self._ahead_s = 0.0
        """Seconds that the coordinator's clock is ahead, as far as it has told."""
        self._epoch, self._numbers = secrets.token_bytes(EPOCH_BYTES), count()
        self._latest: tuple[bytes, int] = (b"", -1)
        """Epoch and number of the latest answer."""

    def request(self, body: RequestBody, request_id: UUID | None = None) -> tuple[Request, bytes]:
        """Return a request, anew or once more under its id, and the bytes to send."""
        at = self._clock() + self._ahead_s
        request = Request(request_id=request_id or uuid4(), reply_to=self._address, at=at, body=body)
        number = next(self._numbers)
        signed = signing.sign(self._key, self.client, COORDINATOR, epoch=self._epoch, number=number, body=request)
        return request, signed

    def answer(self, data: bytes, asked: Container[UUID]) -> Reply | None:
        """Return the answer in ``data`` if it is to one of the requests ``asked`` (their ids) and not an old one.

        After `Late` that request is to be sent again. Raises ForgedMessageError for what the coordinator has not
        signed, MalformedMessageError for what it has, but in another version's words.
        """
        try:
            message = codec.decode(data, SignedMessage)
        except MalformedMessageError as error:
            raise ForgedMessageError(f"it is not signed: {error}") from None
        signing.verify(self._key, COORDINATOR, self.client, message)
        reply = codec.decode(message.body, Reply)
        place = (message.epoch, message.number)
        if reply.request_id not in asked or place <= self._latest:
            return None
        self._latest = place
        if isinstance(reply.body, Late):
            self._ahead_s = reply.body.clock - self._clock()
        return reply


class Answerer:
    """The coordinator's side: takes each request that one client signed once, and signs the answers."""

    def __init__(
        self,
        key: bytes,
        epoch: Callable[[], bytes],
        since: float = 0.0,
        taken: dict[bytes, float] | None = None,
        *,
        client: str = CLI,
        site: str = "",
    ) -> None:
        """``epoch`` returns one that sorts after all of earlier starts; ``since`` is the `latest` of the one before.

        ``taken`` is where requests taken are remembered: whoever undoes that has them taken again. ``client`` asks, at
        the coordinator's site or at another ``site``.
        """
        self._key, self._epoch, self._numbers, self._client, self._site = key, epoch, count(), client, site
        self._since: float | None = None
        """No request that was sent before is taken; never set back. None before the start."""
        self.latest = since
        """No request that was taken was sent later, in seconds since the epoch: to be kept over a restart."""
        self._taken = {} if taken is None else taken
        """Signatures of requests taken, in their order, and the latest time each may have been sent at."""

    def open(self, now: float) -> None:
        """Take requests from now on, if they are not taken yet."""
        if self._since is None:
            self._since = max(now, _after(self.latest))

    def take(self, data: bytes, now: float) -> tuple[Request, Standing]:
        """Return a request, and whether it is to be carried out; raise what is wrong with one that nobody signed."""
        message = codec.decode(data, SignedMessage)
        try:
            signing.verify(self._key, self._client, COORDINATOR, message)
        except ForgedMessageError as error:
            where = f"at site {self._site}" if self._site else "there"
            what = f"{key_setting(self._client)} is another {where}, or somebody forges"
            raise ForgedMessageError(f"{error}: {what}") from None
        request = codec.decode(message.body, Request)
        if not request.reply_to.startswith(client_queue_prefix(self._client, self._site)):
            raise MalformedMessageError(f"{request.reply_to} is no queue of the {self._client}'s")
        self.open(now)
        since, until = self._window(now)
        if message.mac in self._taken:
            return request, "repeated"
        if not since <= request.at <= until:
            return request, "late"
        self._taken[message.mac] = until
        self.latest = max(self.latest, until)
        return request, "new"

    def _window(self, now: float) -> tuple[float, float]:
        """Return from when to when a request must have been sent. A clock that was set back opens no old window."""
        oldest = max(self._since or 0.0, now - REQUEST_AGE_MAX_S)
        while self._taken:
            signature, until = next(iter(self._taken.items()))
            if until >= oldest:
                if len(self._taken) < TAKEN_MAX:
                    break
                oldest = _after(until)
            del self._taken[signature]
        self._since = oldest
        return oldest, now if now >= oldest else oldest + REQUEST_AGE_MAX_S

    def late(self, now: float) -> Late:
        """Return what a late request is answered with."""
        return Late(clock=max(now, self._since or 0.0))

    def answer(self, request: Request, body: ReplyBody) -> bytes:
        """Return the bytes of an answer; raises MalformedMessageError if it is too long."""
        reply, number = Reply(request_id=request.request_id, body=body), next(self._numbers)
        return signing.sign(self._key, COORDINATOR, self._client, epoch=self._epoch(), number=number, body=reply)


def key_setting(client: str) -> str:
    """Name the setting that has a client's key."""
    return f"QKDRELAY_{client.upper()}_KEY"


def _after(at: float) -> float:
    """Return the next moment there is."""
    return math.nextafter(at, math.inf)
