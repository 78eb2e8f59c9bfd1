"""Keys for applications at one KME: both sides of them, its directory of SAEs, what is answered, told and logged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, cast

from kme.applications import ApplicationError
from kme.effects import Effect, LogEvent, SendReport
from kme.model import EndpointRelay, NodeSettings
from kme.supply import figures
from kme.supply.application_metrics import ApplicationMetrics
from kme.supply.directory_changes import loses_keys, struck_off
from kme.supply.model import Pair, SupplyLimits, SupplyRelay, route_of
from kme.supply.question import Question
from kme.supply.requests import Requests
from kme.supply.source import SourceSide
from kme.supply.target import TargetSide
from kme.supply.telling import Telling
from qkdrelay.errors import TopologyError
from qkdrelay.messages.assignments import Assign, Supplies
from qkdrelay.messages.control import AboutSupply
from qkdrelay.network.directory import NO_SAES, Directory
from qkdrelay.randomness import epoch_after
from qkdrelay.service.batch import Batch, Cell

LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks at the directory's file."""


class Room:
    """Keys for applications, as a part of a KME's service (a `kme.supply.port.SupplyParts`)."""

    def __init__(
        self,
        me: NodeSettings,
        batch: Batch,
        *,
        slaves: TargetSide,
        read: Callable[[], Directory],
        metrics: ApplicationMetrics,
        random: Callable[[int], bytes],
        limits: SupplyLimits,
    ) -> None:
        """``read`` returns the directory as it is now, the same if nothing has changed, or raises TopologyError."""
        self._slaves, self._read, self._random, self._metrics = slaves, read, random, metrics
        self.source = SourceSide(me.name, batch, random, limits)
        self.requests = Requests(me, self.source, slaves)
        self._is_connected = Cell(batch, value=False)
        self._telling = Telling(batch)
        self._looked_at = Cell(batch, -math.inf)
        self._incarnation = Cell(batch, b"")
        self._must_tell = Cell(batch, value=False)
        """Whether something has changed that the coordinator is to know at once."""
        self._problem = Cell(batch, "")
        """What is wrong with the directory's file."""
        self._effects: list[Effect] = batch.scratch([])

    # --- what comes --------------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """Begin another incarnation: what was ready here, and for here, is in question. Read the directory.

        What is asked is done before anything else in a batch, and must not find the SAEs missing.
        """
        self._draw_incarnation(now)
        self._look(now)
        return self._taken()

    def on_change(self, relay: EndpointRelay, now: float) -> list[Effect]:
        """Take note of a relay of supply that is in a new state."""
        if relay.role == "target":
            return self._slaves.relay_changed(relay, now)
        if relay.state == "pending" and relay.payload is not None and relay.supply is not None:
            if self.source.memory.supply.room(relay.peer) < relay.key_bytes:
                fields: dict[str, object] = {"relay_id": relay.relay_id, "peer": relay.peer}
                return [LogEvent("supply.left_out", "warning", fields)]
            self.source.started(
                SupplyRelay(
                    relay.relay_id,
                    relay.peer,
                    relay.withstand.compromised,
                    route_of(relay.plan),
                    relay.supply.until,
                    relay.deadline,
                    relay.payload.keys,
                    relay.payload.tag_keys,
                )
            )
        elif relay.state == "delivered":
            self.source.confirmed(relay.relay_id, now)
        elif relay.state == "failed":
            self.source.failed(relay.relay_id, now)
        return []

    def on_command(self, command: AboutSupply, now: float) -> list[Effect]:
        """Decide on what another KME asks or answers, or the coordinator says."""
        if isinstance(command, Assign):
            return self._slaves.on_assign(command, now)
        self.source.on_command(command, now)
        return []

    # --- the directory -----------------------------------------------------------------------------

    @property
    def directory(self) -> Directory:
        """The directory as it is now; any thread may ask."""
        return self.source.memory.directory

    @property
    def remark(self) -> str:
        """What is wrong with the directory's file, or nothing; any thread may ask."""
        return self._problem.value

    def _look(self, now: float) -> None:
        """Go by what is in the directory's file now; if that is broken, by what was in it before."""
        self._looked_at.value = now
        before = self.directory
        try:
            after = self._read()
        except TopologyError as error:
            if self._problem.value != (problem := f"the directory of SAEs was not taken over: {error}"):
                self._problem.value = problem
                self._effects.append(LogEvent("directory.broken", "error", {"reason": str(error)}))
            return
        self._problem.value = ""
        if after is before:
            return

        def is_over(pair: Pair) -> bool:
            return loses_keys(before, after, pair)

        gone = struck_off(before.saes, after.saes)
        self.source.adopt(after, is_over, now)
        self._effects += self._slaves.adopt(after, is_over)
        if gone or before.only_pairs != after.only_pairs or before.pairs.keys() - after.pairs.keys():
            # Keys that sources have ready for somebody here may be gone with it.
            self._draw_incarnation(now)
        self._must_tell.value = True
        fields: dict[str, object] = {"saes": len(after.saes), "pairs": len(after.pairs), "struck_off": len(gone)}
        self._effects.append(LogEvent("directory.taken_over", "info", fields))

    def _draw_incarnation(self, now: float) -> None:
        self._incarnation.value = epoch_after(self._incarnation.value, now, self._random)

    # --- the batch as a whole ----------------------------------------------------------------------

    def tick(self, now: float, *, connected: bool) -> list[Effect]:
        """Close a batch: look at the directory, serve, cut, ask; return what follows."""
        # A distance, not a difference: the clock may be stepped back.
        if abs(now - self._looked_at.value) >= LOOK_EVERY_S:
            self._look(now)
        self._is_connected.value = connected
        self._effects += self._slaves.tick(now)
        for said in self.source.tick(now, connected=connected):
            self._effects.append(SendReport(said) if isinstance(said, Assign) else said)
        return self._taken()

    def _taken(self) -> list[Effect]:
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    def supplies(self, now: float, *, is_hello: bool) -> Supplies | None:
        """Return what the coordinator is to be told now of supply, if anything: everything with a hello."""
        if not self._is_connected.value or self.directory is NO_SAES:
            return None
        lacks = self.source.cutting.lacks
        if is_hello or self._must_tell.value:
            self._must_tell.value = False
            self._telling.told(lacks, now)
            return figures.supplies(self.source, self._slaves.incoming(now), self._incarnation.value, now)
        if not self._telling.is_due(lacks, now):
            return None
        low = self.source.low(now)
        self._telling.told(lacks, now)
        return figures.lacking(self.source, low, self._incarnation.value, now) if low else None

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is due."""
        look_s = LOOK_EVERY_S - abs(now - self._looked_at.value)
        tell_s = self._telling.wait_s(now) if self._is_connected.value else math.inf
        return min(look_s, self._slaves.wait_s(now), self.source.wait_s(now), tell_s)

    def committed(self) -> None:
        """Answer what was asked."""
        for answer in self.source.serving.answers:
            cast(Question, answer.asker).tell(answer.result)
            if answer.has_waited:
                self._metrics.waited_in_vain()
        self._metrics.burned(self.source.burning.burned)

    def measure(self, now: float) -> None:
        """Set the gauges."""
        memory = self.source.memory
        ready: dict[str, tuple[int, int]] = {}
        for block in memory.ready.all():
            keys, length = ready.get(target := block.assign.assignment.target, (0, 0))
            ready[target] = keys + block.count, length + block.bytes_left
        outgoing = figures.outgoing(self.source, now)
        self._metrics.measured(outgoing, ready, len(memory.waiters), len(memory.asking))

    def give_up(self, error: ApplicationError) -> None:
        """Tell all who wait that nothing comes any more: the service has ended."""
        for waiter in self.source.memory.waiters.all():
            cast(Question, waiter.asker).tell(error)
