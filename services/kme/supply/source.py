"""The masters' side of keys for applications at one KME: from supply to keys that are handed out.

The one rule: what is handed out here, the target holds. Its confirmation tag shows that for a relay's bytes, and its
answer's tag for an assignment; no word of the coordinator's is taken for either.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from kme.applications import ApplicationError, TryLaterError
from kme.effects import LogEvent
from kme.supply.burning import Burning
from kme.supply.cutting import Cutting
from kme.supply.model import Pair, SupplyLimits, SupplyRelay
from kme.supply.serving import Serving
from kme.supply.settling import Settling
from kme.supply.source_memory import SourceMemory
from kme.supply.waiters import Waiter
from qkdrelay.messages.assignments import Assign, Assigned, AssignRefused, NoSupply, PeerStarted
from qkdrelay.network.directory import Directory
from qkdrelay.service.batch import Batch, Cell

_KEEP_HOUSE_S = 5.0


class SourceSide:
    """Decides on everything that happens to supply, assignments and requests; what follows are effects, and answers."""

    def __init__(self, name: str, batch: Batch, random: Callable[[int], bytes], limits: SupplyLimits) -> None:
        """``name`` is the KME's; ``random`` draws assign_ids."""
        self.memory = SourceMemory(name, batch, random, limits)
        self.cutting = Cutting(batch, self.memory)
        self.burning = Burning(batch, self.memory, self.cutting)
        self.serving = Serving(batch, self.memory, self.cutting)
        self._settling = Settling(batch, self.memory, self.cutting, self.burning)
        self._kept_house_at = Cell(batch, 0.0)
        self._is_connected = Cell(batch, value=False)

    def started(self, relay: SupplyRelay) -> None:
        """Take in a relay that begins here: once, and never again under its id.

        What waits is cut from it before it is confirmed; nothing of it is handed out before that.
        """
        self.memory.supply.add(relay)
        self.cutting.retry()

    def confirmed(self, relay_id: UUID, now: float) -> None:
        """Have a relay's bytes handed out from now on: the target's confirmation tag has shown that it holds them."""
        self._settling.confirmed(relay_id, now)

    def failed(self, relay_id: UUID, now: float) -> None:
        """Burn all that there is of a relay that will not be confirmed."""
        self._settling.failed(relay_id, now)

    def on_command(self, command: Assigned | AssignRefused | PeerStarted | NoSupply, now: float) -> None:
        """Carry out what the coordinator passes on, or says."""
        match command:
            case Assigned():
                self._settling.on_assigned(command, now)
            case AssignRefused():
                self._settling.on_refused(command, now)
            case PeerStarted():
                self._settling.on_peer_started(command, now)
            case NoSupply():
                self.serving.on_no_supply(command, now)

    def adopt(self, directory: Directory, is_over: Callable[[Pair], bool], now: float) -> None:
        """Go by another directory; burn what there is for pairs to which, by it, that must not be given."""
        memory = self.memory
        memory.directory = directory
        self.burning.ready([block for block in memory.ready.all() if is_over(block.pair)], "directory", now)
        for asked in tuple(memory.asking.all()):
            if is_over(asked.block.pair):
                self.burning.asked(asked, "directory", now)
        over = [want for want in memory.demand.uses if is_over(want.pair)]
        memory.demand.drop(over)
        for want in over:
            self.cutting.forget(want)

        def refusal(waiter: Waiter) -> ApplicationError | None:
            return TryLaterError("the directory of SAEs has changed") if is_over(waiter.want.pair) else None

        self.serving.refuse_where(refusal)

    def tick(self, now: float, *, connected: bool) -> list[Assign | LogEvent]:
        """Serve who waits, cut, and ask; return what is to be sent to targets, and logged."""
        self._is_connected.value = connected
        self.serving.tick(now)
        # A distance, not a difference: the clock may be stepped back.
        if abs(now - self._kept_house_at.value) >= _KEEP_HOUSE_S:
            self._kept_house_at.value = now
            self._settling.expire(now)
            self.serving.forget(now)
            self.memory.demand.cool(now)
            if self.memory.rests.end(now):
                self.cutting.retry()
        said: list[Assign | LogEvent] = []
        if connected:
            self.memory.waiters.drop_gone()
            said += self._settling.ask_again(now)
            said += self.cutting.run(now)
        said += self.burning.events
        self.burning.events.clear()
        return said

    def wanted(self, target: str, level: int, now: float) -> int:
        """Return how many bytes of supply more there should be for a target at a level: 0 unless it is low, or dry."""
        memory = self.memory
        mark, lack = memory.demand.supply_mark(target, level, now), self.cutting.lacks.get((target, level), 0)
        there = sum(memory.supply.left(target, level, now, confirmed=is_confirmed) for is_confirmed in (True, False))
        if not lack and there >= mark // 2:
            return 0
        return max(0, min(mark + lack - there, memory.supply.room(target)))

    def low(self, now: float) -> list[tuple[str, int]]:
        """Return the targets and levels of which there should be more supply, or for which something is in the way."""
        places = {*self.memory.demand.supplies, *self.cutting.lacks}
        return sorted(place for place in places if self.wanted(place[0], place[1], now) > 0)

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is due."""
        waiting_s = self.memory.waiters.wait_s(now)
        if not self._is_connected.value:
            return waiting_s
        asking_s = max(self.memory.asking.wait_s(now), self.cutting.allowance.wait_s(now))
        return min(waiting_s, asking_s, self.cutting.wait_s(now))
