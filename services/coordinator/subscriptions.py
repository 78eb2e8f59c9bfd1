"""Subscriptions of command lines to answers that come later: to changes of a relay, and to what KMEs carry out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from coordinator.clients import Clients
from coordinator.lifecycle import Relay
from coordinator.store import CoordinatorStore
from coordinator.views import summary, view
from qkdrelay.broker.names import REPLIES_EXCHANGE
from qkdrelay.errors import MalformedMessageError
from qkdrelay.messages.answers import Acknowledged, Refusal, RelayView, ReplyBody
from qkdrelay.messages.reports import Done
from qkdrelay.messages.requests import Request
from qkdrelay.messages.states import TERMINAL
from qkdrelay.service.batch import BatchDict

COMMAND_WAIT_S = 5.0
"""The time a KME has to carry out a command before the caller is told that it did not."""
FOLLOWERS_MAX = 10_000
FOLLOW_MAX_S = 60.0
"""The time after which a follower is gone: who hears nothing asks again long before."""
_SHOW_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class _Caller:
    """Waits for KMEs to carry a command out."""

    request: Request
    text: str
    asked_at: float
    kmes: Mapping[UUID, str]
    """The KMEs that have not answered, by command."""
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Follower:
    """Wants to see a relay change."""

    request: Request
    relay_id: UUID
    asked_at: float
    until_decided: bool
    """Is told once, how it ended."""
    shown_at: float = 0.0


class Subscriptions:
    """Everybody who waits, in memory only: after a restart, people ask again."""

    def __init__(self, store: CoordinatorStore, clients: Clients) -> None:
        """``store`` is where relays are read from and answers are published through; ``clients`` have them signed."""
        self._store, self._clients = store, clients
        batch = self._batch = store.journal.batch
        self._callers: dict[UUID, _Caller] = BatchDict(batch)
        """By request."""
        self._awaited: dict[UUID, UUID] = BatchDict(batch)
        """The request that waits for a command, by the command's id."""
        self._followers: dict[UUID, _Follower] = BatchDict(batch)
        """By request, those who asked last at the end."""
        self._following: dict[UUID, dict[UUID, None]] = BatchDict(batch)
        """The requests of those who follow a relay."""
        self._changed: dict[UUID, None] = BatchDict(batch)
        """Relays that somebody is still to be shown."""

    def wait_s(self, now: float) -> float:
        """Return in how many seconds somebody is to be answered."""
        waits = [COMMAND_WAIT_S - abs(now - caller.asked_at) for caller in self._callers.values()]
        waits += [_SHOW_EVERY_S - abs(now - follower.shown_at) for follower in self._to_show()]
        return max(0.0, min(waits, default=math.inf))

    def _to_show(self) -> Iterator[_Follower]:
        """Yield those who wait to be shown a change, because they were shown one a moment ago."""
        for relay_id in self._changed:
            for follower in map(self._followers.__getitem__, self._following.get(relay_id, ())):
                if not follower.until_decided:
                    yield follower

    def reply(self, request: Request, body: ReplyBody) -> None:
        """Answer a request, at most once: its asker may be gone."""
        answerer = self._clients.answerer(request.reply_to)
        try:
            signed = answerer.answer(request, body)
        except MalformedMessageError:
            refusal = Refusal(text="the answer is too long to be sent", hint="ask for less at once", unanswered=False)
            signed = answerer.answer(request, refusal)
        self._store.journal.outbox.publish_once(REPLIES_EXCHANGE, request.reply_to, signed)

    def await_done(self, request: Request, text: str, commands: dict[UUID, str], now: float) -> None:
        """Answer ``request`` with ``text`` once the KMEs have carried out ``commands`` (id -> KME)."""
        self._callers[request.request_id] = _Caller(request, text, now, commands)
        self._awaited |= dict.fromkeys(commands, request.request_id)

    def done(self, kme: str, report: Done) -> None:
        """Take note that a KME has carried out a command, or why not."""
        command_id = report.command.command_id
        if command_id not in self._awaited:
            return
        caller = self._callers[self._awaited[command_id]]
        if caller.kmes[command_id] == kme:
            del self._awaited[command_id]
            left = {other: name for other, name in caller.kmes.items() if other != command_id}
            errors = (*caller.errors, report.error) if report.error else caller.errors
            self._callers[caller.request.request_id] = replace(caller, kmes=left, errors=errors)

    def follow(self, request: Request, relay_id: UUID, now: float, *, until_decided: bool = False) -> None:
        """Show the relay to the asker now and whenever it changes, until it is final; once, however often it asks.

        With ``until_decided`` only say how it ended.
        """
        self._unfollow(request.request_id)
        if len(self._followers) >= FOLLOWERS_MAX:
            self._unfollow(next(iter(self._followers)))
        self._followers[request.request_id] = _Follower(request, relay_id, now, until_decided)
        if relay_id not in self._following:
            self._following[relay_id] = BatchDict(self._batch)
        self._following[relay_id][request.request_id] = None
        self._changed[relay_id] = None

    def _unfollow(self, request_id: UUID) -> None:
        follower = self._followers.pop(request_id, None)
        if follower is not None:
            others = self._following[follower.relay_id]
            del others[request_id]
            if not others:
                del self._following[follower.relay_id]

    def followers_count(self) -> int:
        """Return how many follow a relay."""
        return len(self._followers)

    def changed(self, relay_id: UUID) -> None:
        """Take note that a relay changed."""
        if relay_id in self._following:
            self._changed[relay_id] = None

    def tick(self, now: float) -> None:
        """Answer those who can be answered."""
        # Distances, not differences: the clock may be stepped back.
        for request_id, caller in tuple(self._callers.items()):
            if not caller.kmes:
                failed = "; ".join(caller.errors)
                refusal = Refusal(text=failed, hint=None, unanswered=False)
                self.reply(caller.request, refusal if failed else Acknowledged(text=caller.text))
            elif abs(now - caller.asked_at) >= COMMAND_WAIT_S:
                late = " and ".join(sorted(caller.kmes.values()))
                text = f"{late} did not answer within {COMMAND_WAIT_S:.0f} s"
                hint = "it will carry the command out when it is back"
                self.reply(caller.request, Refusal(text=text, hint=hint, unanswered=True))
            else:
                continue
            del self._callers[request_id]
            for command_id in caller.kmes:
                del self._awaited[command_id]
        self._show(now)

    def _show(self, now: float) -> None:
        """Show followers what changed, each not too often; a relay that ended at once."""
        changed, later = tuple(self._changed), dict[UUID, None]()
        for relay_id in changed:
            if relay_id not in self._following:
                continue
            relay = self._store.relays.get(relay_id)
            if relay is None:
                continue
            due = []
            for follower in map(self._followers.__getitem__, self._following[relay_id]):
                rested = abs(now - follower.shown_at) >= _SHOW_EVERY_S
                if relay.state in TERMINAL or (not follower.until_decided and rested):
                    due.append(follower)
                elif not follower.until_decided:
                    later[relay_id] = None
            self._show_to(due, relay, now)
        if changed:
            self._changed.clear()
            self._changed |= later
        while self._followers:
            request_id, follower = next(iter(self._followers.items()))
            if abs(now - follower.asked_at) < FOLLOW_MAX_S:
                break  # those after it asked later
            self._unfollow(request_id)

    def _show_to(self, followers: list[_Follower], relay: Relay, now: float) -> None:
        shown: RelayView | None = None
        for follower in followers:
            if follower.until_decided:
                self.reply(follower.request, summary(relay, now))
                self._unfollow(follower.request.request_id)
                continue
            self._followers[follower.request.request_id] = replace(follower, shown_at=now)
            shown = shown or view(relay, self._store.flow.of(relay.relay_id), now)
            self.reply(follower.request, shown)
            if shown.final:
                self._unfollow(follower.request.request_id)
