"""Keys and supply that are burned: here no longer, and given to nobody."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kme.effects import LogEvent
from kme.supply.asking import Asked
from kme.supply.cutting import Cutting
from kme.supply.model import Block, SupplyRelay
from kme.supply.source_memory import SourceMemory
from qkdrelay.service.batch import Batch


@dataclass(frozen=True, slots=True)
class Burned:
    """So many bytes that were for a target's SAEs."""

    target: str
    length: int
    why: str
    """One of few words: an `AssignRefusal`, or "failed", "expired", "directory", "unanswered"."""


class Burning:
    """Burns keys and supply of one KME, and says so."""

    def __init__(self, batch: Batch, memory: SourceMemory, cutting: Cutting) -> None:
        self._memory, self._cutting = memory, cutting
        self.burned: list[Burned] = batch.scratch([])
        """Of this batch, for metrics."""
        self.events: list[LogEvent] = batch.scratch([])

    def ready(self, blocks: Iterable[Block], why: str, now: float) -> None:
        """Burn ready keys."""
        blocks = list(blocks)
        self._memory.ready.remove(blocks)
        for block in blocks:
            self._gone(block, why, now)

    def asked(self, asked: Asked, why: str, now: float) -> None:
        """Burn the keys of an assignment that is not settled."""
        self._memory.asking.remove(asked)
        self._gone(asked.block, why, now)

    def supply(self, relay: SupplyRelay, why: str) -> None:
        """Burn what is not assigned of a relay."""
        self.note(relay.target, self._memory.supply.drop(relay.relay_id), why)

    def note(self, target: str, length: int, why: str) -> None:
        """Count bytes of supply that were burned."""
        if length:
            self.burned.append(Burned(target, length, why))

    def _gone(self, block: Block, why: str, now: float) -> None:
        memory, assignment = self._memory, block.assign.assignment
        memory.let_go(block)
        memory.tallies.burned(block.pair, why, block.count)
        self.note(assignment.target, block.bytes_left, why)
        fields: dict[str, object] = {
            "assign_id": assignment.assign_id,
            "relay_id": assignment.relay_id,
            "master": assignment.master,
            "slave": assignment.slave,
            "first": block.first,
            "keys": block.count,
            "reason": why,
        }
        self.events.append(LogEvent("keys.expired" if why == "expired" else "keys.burned", "warning", fields))
        for want in memory.demand.of(assignment.master):
            if block.serves(want):
                self._cutting.look(want, now)
