"""Which keys are cut from supply: first for requests that wait, then ahead for pairs in use, shared out among them."""

from __future__ import annotations

import math

from kme.supply.asking import Asked
from kme.supply.demand import SUPPLY_MIN, shared_out
from kme.supply.model import Want
from kme.supply.source_memory import SourceMemory
from qkdrelay.messages.assignments import SUPPLY_BYTES_PER_TAG_PAIR, Assign
from qkdrelay.service.allowance import Allowance
from qkdrelay.service.batch import Batch, BatchDict, Cell


class Cutting:
    """Cuts keys from the supply of one KME, and has the targets asked to keep them."""

    def __init__(self, batch: Batch, memory: SourceMemory) -> None:
        self._memory = memory
        self.allowance = Allowance(batch, memory.limits.assigns_per_s)
        self._low: dict[Want, None] = BatchDict(batch)
        """What may have too few keys ready; what was cut for longest ago stands first."""
        self._is_worth_it = Cell(batch, value=False)
        """Whether something has changed since there was nothing to cut, or nothing to cut from."""
        self._is_held_up = Cell(batch, value=False)
        """Whether more would have been sent, but for the allowance."""
        self._lacks = Cell[dict[tuple[str, int], int]](batch, {})
        self._cuts: list[Assign] = batch.scratch([])

    @property
    def lacks(self) -> dict[tuple[str, int], int]:
        """Bytes that supply lacks by target and level: for requests that wait, or to cut ahead."""
        return self._lacks.value

    def look(self, want: Want, now: float) -> None:
        """Look whether to cut ahead for what is wanted, once keys of it are gone."""
        if want not in self._low and self._deficit(want, now) > 0:
            self._low[want] = None
            self._is_worth_it.value = True

    def retry(self) -> None:
        """Look again: there is supply, or room, that was not there before."""
        self._is_worth_it.value = bool(self._low)

    def forget(self, want: Want) -> None:
        """Cut nothing more for it."""
        self._low.pop(want, None)

    def wait_s(self, now: float) -> float:
        """Return in how many seconds more may be sent, if that is what is in the way."""
        return self.allowance.wait_s(now) if self._is_held_up.value else math.inf

    def run(self, now: float) -> list[Assign]:
        """Cut what can be; return the assignments to send."""
        if not self._is_worth_it.value and not len(self._memory.waiters):
            if self._lacks.value and not self._low:
                self._lacks.value = {}
            return []
        self._lacks.value = {}
        self._is_held_up.value = False
        self._for_waiters(now)
        self._ahead(now)
        self._is_worth_it.value = self._is_held_up.value
        cuts = self._cuts.copy()
        self._cuts.clear()
        return cuts

    def _for_waiters(self, now: float) -> None:
        memory = self._memory
        for want, number in memory.waiters.wants().items():
            target = self._target(want, now)
            lacking = number - memory.ready.count(want, now) - memory.asking.count(want, now)
            if target is None or lacking <= 0:
                continue
            # One assignment for this and for what is asked next, where there is enough for others.
            for is_confirmed in (True, False):
                left = memory.supply.left(target, want.level, now, confirmed=is_confirmed)
                least = -(-SUPPLY_BYTES_PER_TAG_PAIR // want.key_bytes)
                ahead = self._deficit(want, now) if left >= SUPPLY_MIN // 2 else least
                ahead = max(0, min(ahead, self._deficit(want, now)))
                if lacking > 0:
                    lacking -= self._cut(want, target, max(lacking, ahead), now, confirmed=is_confirmed)
            if lacking > 0:
                self._lack(target, want, lacking)

    def _ahead(self, now: float) -> None:
        """Share out what is left among those that have too little, in pieces that are worth their tag keys."""
        memory, waited_for = self._memory, self._memory.waiters.wants()
        by_target: dict[str, list[Want]] = {}
        for want in self._low:
            target = self._target(want, now)
            if target is not None:
                by_target.setdefault(target, []).append(want)
        for target, wants in by_target.items():
            available = memory.supply.left(target, min(want.level for want in wants), now, confirmed=True)
            deficits = {want: max(0, self._deficit(want, now)) for want in wants}
            wanted = [
                (number * want.key_bytes, memory.directory.settings(*want.pair).weight)
                for want, number in deficits.items()
            ]
            enough = sum(amount for amount, _ in wanted) <= available
            few = len(wanted) if enough else max(1, available // SUPPLY_BYTES_PER_TAG_PAIR)
            given = shared_out(wanted[:few], available)
            for want, amount in zip(deficits, given, strict=False):
                number = amount // want.key_bytes
                deficits[want] -= self._cut(want, target, number, now, confirmed=True) if number else 0
                if number:
                    # The last in the row from now on.
                    del self._low[want]
                    self._low[want] = None
            for want, lacking in deficits.items():
                if lacking <= 0:
                    del self._low[want]
                elif want not in waited_for:
                    self._lack(target, want, lacking)

    def _deficit(self, want: Want, now: float) -> int:
        """Return how many keys to cut ahead; not above zero if there are enough."""
        memory = self._memory
        low, full = memory.demand.marks(want, memory.directory.settings(*want.pair).stock, now)
        there = memory.ready.count(want, now) + memory.asking.count(want, now)
        return full - there if there < low else 0

    def _target(self, want: Want, now: float) -> str | None:
        """Return the slave's KME; None if nothing is to be assigned there now."""
        memory = self._memory
        target = memory.directory.kme_of(want.pair.slave)
        resting = target is None or memory.rests.why(target, now) or memory.rests.why(want.pair, now)
        return None if resting else target

    def _lack(self, target: str, want: Want, keys: int) -> None:
        place = target, want.level
        self._lacks.value = {**self.lacks, place: self.lacks.get(place, 0) + keys * want.key_bytes}

    def _cut(self, want: Want, target: str, count: int, now: float, *, confirmed: bool) -> int:
        """Cut up to ``count`` keys; return how many."""
        memory, master, done = self._memory, want.pair.master, 0
        while done < count and len(memory.asking) < memory.limits.pending:
            number = min(count - done, memory.holdings.room(master) // want.key_bytes)
            if self.allowance.wait_s(now) > 0:
                self._is_held_up.value = True
                break
            if number == 0:
                break
            block = memory.supply.cut(target, want, number, now, confirmed=confirmed)
            if block is None:
                break
            self.allowance.take(now)
            memory.asking.keep(Asked(block, now, 1, is_confirmed=confirmed))
            memory.holdings.add(master, block.bytes_left)
            memory.demand.assigned(target, want.level, block.bytes_left, now)
            self._cuts.append(block.assign)
            done += block.count
        return done
