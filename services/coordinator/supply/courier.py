"""Messages between KMEs that the coordinator carries: it looks who sends and how many, and keeps none."""

from __future__ import annotations

from typing import Final

from coordinator.commands import CommandQueue
from qkdrelay.messages.assignments import Assign, Assigned, AssignRefused, PeerStarted
from qkdrelay.service.allowance import Allowance
from qkdrelay.service.batch import Batch
from qkdrelay.service.batch_events import BatchEvents

CARRIED_PER_S: Final = 500.0
"""Messages of one KME that are carried a second; in a burst twice as many."""


class Courier:
    """Carries assignments to targets, and answers back to sources."""

    def __init__(self, kmes: frozenset[str], commands: CommandQueue, events: BatchEvents, batch: Batch) -> None:
        self._kmes, self._commands, self._events = kmes, commands, events
        self._allowances = {kme: Allowance(batch, CARRIED_PER_S) for kme in kmes}

    def carry(self, sender: str, message: Assign | Assigned | AssignRefused, now: float) -> None:
        """Pass a message on, if it is the sender's to send."""
        about = message.assignment if isinstance(message, Assign) else message
        ends = (about.source, about.target)
        by, to = ends if isinstance(message, Assign) else reversed(ends)
        if by != sender or to not in self._kmes or to == sender:
            self._events.note("assignment.misplaced", "warning", kme=sender, relay_id=about.relay_id)
        elif not self._allowances[sender].take(now):
            self._events.note("assignment.withheld", "warning", kme=sender, text="it sends more than is carried")
        else:
            self._commands.put(to, message)

    def tell_start(self, kme: str, incarnation: bytes, to: str) -> None:
        """Tell a KME which incarnation another has."""
        self._commands.put(to, PeerStarted(kme=kme, incarnation=incarnation))
