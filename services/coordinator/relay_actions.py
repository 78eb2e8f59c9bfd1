"""Changes of a relay: kept, shown to who follows it, and what follows from them told to its ends."""

from __future__ import annotations

import math
from dataclasses import replace

from coordinator.commands import CommandQueue
from coordinator.lifecycle import Relay, advance, fail_if_overdue, outstanding, told_again, told_once
from coordinator.store import CoordinatorStore
from coordinator.subscriptions import Subscriptions
from qkdrelay.messages.reports import Report
from qkdrelay.service.batch import Cell
from qkdrelay.service.batch_events import BatchEvents
from qkdrelay.service.logs import LogLevel


class RelayActions:
    """Changes and reminders of relays, inside the batch's transaction."""

    def __init__(
        self, store: CoordinatorStore, commands: CommandQueue, subscriptions: Subscriptions, events: BatchEvents
    ) -> None:
        self._store, self._commands, self._subscriptions, self._events = store, commands, subscriptions, events
        self._hears_since = Cell(store.journal.batch, -math.inf)
        """The time at which the connection to the broker was made; infinite while there is none."""

    def change(self, before: Relay | None, after: Relay, now: float) -> None:
        """Keep a relay's new state and tell the ends what follows from it; ``before`` is None for a new one."""
        if after == before:
            return
        told = [] if before is None else outstanding(before)
        now_outstanding = outstanding(after)
        for kme, command in told:
            if (kme, command) not in now_outstanding:
                self._commands.withdraw(kme, command)
        for kme, command in now_outstanding:
            if (kme, command) not in told:
                self._commands.put(kme, command)
        for kme, command in told_once(before, after) if before is not None else ():
            self._commands.put(kme, command)
        self._store.relays.keep(after, now, told={kme for kme, _ in now_outstanding})
        self._subscriptions.changed(after.relay_id)
        if before is None or before.state != after.state:
            source, target = after.ends
            self._events.note(
                f"relay.{after.state}",
                _level(before, after),
                relay_id=after.relay_id,
                source=source,
                target=target,
                keys=after.terms.key_count,
                **({"seconds": round(after.ended_at - after.created_at, 6)} if after.ended_at else {}),
                **({"reason": after.reason} if after.reason else {}),
            )

    def take(self, relay: Relay, sender: str, report: Report, now: float) -> None:
        """Take in what a KME reports of a relay as a whole."""
        for kme, command in told_again(relay, sender, report):
            self._commands.put(kme, command)
        self.change(relay, advance(relay, sender, report, now), now)

    def remind(self, kme: str, now: float) -> None:
        """Tell a KME that is alive again what it has not answered for a while: it may have been lost."""
        for relay in self._store.relays.due_again(kme, now):
            for end, command in outstanding(relay):
                if end == kme:
                    self._commands.put(end, command)

    def note_connection(self, now: float, *, connected: bool, reconnected: bool) -> None:
        """Take note of how the coordinator is connected to the broker."""
        if not connected or reconnected:
            self._hears_since.value = now if connected else math.inf

    def fail_overdue(self, now: float) -> None:
        """Fail the relays whose deadline has passed."""
        for relay in self._store.relays.overdue(now):
            self.change(relay, self._failed(relay, now), now)

    def _failed(self, relay: Relay, now: float) -> Relay:
        """Return the relay failed with what was missing; what was not heard of may be the coordinator's own fault."""
        failed = fail_if_overdue(relay, self._store.flow.whereabouts(relay), now)
        if self._hears_since.value <= relay.created_at:
            return failed
        return replace(failed, reason=f"{failed.reason}; the coordinator was without the broker meanwhile")


def _level(before: Relay | None, after: Relay) -> LogLevel:
    """Return the level of a change: that a source refuses what its target has confirmed is no usual failure."""
    if after.state != "failed":
        return "info"
    return "error" if before is not None and before.state == "confirmed" else "warning"
