"""Requests of masters for keys: served from ready keys, or after a wait of some seconds, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable

from kme.applications import MANDATORY_NOT_MET, ApplicationError, BadRequestError, TryLaterError
from kme.supply.cutting import Cutting
from kme.supply.model import Want
from kme.supply.source_memory import SourceMemory
from kme.supply.waiters import Answer, Requester, Waiter
from qkdrelay.messages.assignments import NoSupply
from qkdrelay.service.batch import Batch, BatchDict

NO_SUPPLY_S = 5.0
"""Seconds for which the coordinator's word that there will be no supply counts."""


class Serving:
    """Answers the requests of one KME's masters."""

    def __init__(self, batch: Batch, memory: SourceMemory, cutting: Cutting) -> None:
        self._memory, self._cutting = memory, cutting
        self.answers: list[Answer] = batch.scratch([])
        """What those who asked are to be told once the batch is committed."""
        self._no_supply: dict[tuple[str, int], tuple[float, NoSupply]] = BatchDict(batch)
        """By target and level, and when it came."""

    def take(self, asker: Requester, want: Want, number: int, now: float, *, is_demanded: bool) -> None:
        """Hand out so many keys, or have the request wait.

        The directory allows the pair, and has the slave at another KME. ``is_demanded`` says whether the client
        demanded the level, and it is not only the pair's settings.
        """
        memory, target = self._memory, self._target(want)
        if number * want.key_bytes > memory.limits.bytes_each:
            text = f"{number} keys of {want.size_bits} bits are more than {memory.limits.bytes_each} bytes"
            self._tell(asker, BadRequestError(text))
            return
        if not memory.demand.asked(want, target, now) and not memory.ready.count(want, now):
            text = f"{memory.limits.wants} pairs of SAEs and sizes of keys are in use here, the most there may be"
            self._tell(asker, TryLaterError(text))
            return
        waiter = Waiter(asker, want, number, is_demanded, now)
        if asker.is_gone() or (not memory.waiters.has(want) and self._hand_out(waiter, now)):
            return
        error = self._refusal(waiter, now)
        if error is None:
            try:
                memory.waiters.drop_gone()
                memory.waiters.add(waiter)
            except TryLaterError as too_many:
                error = too_many
        if error is not None:
            self._tell(asker, error)

    def serve(self, now: float) -> None:
        """Serve who waits and can be served; of those who want the same, in the order in which they came."""
        blocked: set[Want] = set()
        for waiter in tuple(self._memory.waiters.all()):
            if waiter.want in blocked:
                continue
            if waiter.asker.is_gone() or self._hand_out(waiter, now):
                self._memory.waiters.remove(waiter)
            else:
                blocked.add(waiter.want)

    def on_no_supply(self, message: NoSupply, now: float) -> None:
        """Take note that there will be no supply now, and tell those who wait for what no plan can give."""
        if message.target in self._memory.peers():
            self._no_supply[message.target, message.level] = now, message
            self.refuse_where(lambda waiter: self._refusal(waiter, now))

    def refuse_where(self, refusal: Callable[[Waiter], ApplicationError | None]) -> None:
        """Refuse each request that waits and for which there is a refusal."""
        for waiter in tuple(self._memory.waiters.all()):
            if (error := refusal(waiter)) is not None:
                self._memory.waiters.remove(waiter)
                self._tell(waiter.asker, error, has_waited=True)

    def tick(self, now: float) -> None:
        """Serve what can be, and refuse what has waited in vain, or need not wait any more."""
        self.serve(now)
        late = {id(waiter) for waiter in self._memory.waiters.overdue(now)}

        def refusal(waiter: Waiter) -> ApplicationError | None:
            if (error := self._refusal(waiter, now)) is not None or id(waiter) not in late:
                return error
            why = self.why(self._target(waiter.want), waiter.want.level, now)
            return TryLaterError(f"there are not enough keys now{f' ({why})' if why else ''}")

        before = len(self._memory.waiters)
        self.refuse_where(refusal)
        if len(self._memory.waiters) < before:  # who stood behind them may be served
            self.serve(now)

    def forget(self, now: float) -> None:
        """Forget what the coordinator said some time ago."""
        for place, (at, _) in tuple(self._no_supply.items()):
            if abs(now - at) >= NO_SUPPLY_S:
                del self._no_supply[place]

    def why(self, target: str, level: int, now: float) -> str:
        """Return what is in the way of supply, as far as is known; nothing for nothing."""
        message = self._told(target, level, now)
        return self._memory.rests.why(target, now) or (message.reason if message else "")

    def stored(self, want: Want, now: float) -> int:
        """Return how many keys are ready or can be cut."""
        return self._memory.ready.count(want, now) + self._memory.supply.keys_left(self._target(want), want, now)

    def _tell(self, asker: Requester, error: ApplicationError, *, has_waited: bool = False) -> None:
        if asker.begin():
            self.answers.append(Answer(asker, error, has_waited))

    def _hand_out(self, waiter: Waiter, now: float) -> bool:
        want, memory = waiter.want, self._memory
        if memory.ready.count(want, now) < waiter.number or not waiter.asker.begin():
            return False
        keys = memory.ready.take(want, waiter.number, now)
        memory.holdings.add(want.pair.master, -len(keys) * want.key_bytes)
        memory.demand.handed_out(want, len(keys), now)
        memory.tallies.handed_out(want.pair, len(keys))
        self.answers.append(Answer(waiter.asker, keys))
        self._cutting.look(want, now)
        return True

    def _refusal(self, waiter: Waiter, now: float) -> ApplicationError | None:
        """Return why there is no use in waiting for this; None if there is."""
        target, level = self._target(waiter.want), waiter.want.level
        if why := self._memory.rests.why(waiter.want.pair, now):
            return TryLaterError(why, retry_after_s=10)
        message = self._told(target, level, now)
        if message is None or message.best is None or message.best >= level:
            return None
        details: list[dict[str, object]] = [{"qkdrelay_compromised": message.best}]
        if waiter.is_demanded:
            return BadRequestError(MANDATORY_NOT_MET, details=details)
        text = f"no way to {target} withstands {level} compromised KMEs, as this pair is to have"
        return TryLaterError(text, retry_after_s=10, details=details)

    def _told(self, target: str, level: int, now: float) -> NoSupply | None:
        at, message = self._no_supply.get((target, level), (math.inf, None))
        # A distance, not a difference: the clock may be stepped back.
        return message if abs(now - at) < NO_SUPPLY_S else None

    def _target(self, want: Want) -> str:
        return self._memory.directory.kme_of(want.pair.slave) or ""
