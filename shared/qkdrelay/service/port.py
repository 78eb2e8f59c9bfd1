"""The port between the loop and the service it runs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from qkdrelay.broker.port import Delivery
from qkdrelay.service.journal import Journal
from qkdrelay.service.metrics import Metrics


class Service(Protocol):
    """What differs between services. `start`, `handle`, `tick` and `give_up` run inside a transaction.

    What they change in memory is the batch's (`qkdrelay.service.batch`): undone if that is not committed.
    """

    journal: Journal

    @property
    def metrics(self) -> Metrics:
        """What it counts and measures."""
        ...

    def start(self, now: float) -> None:
        """Begin, before the first batch."""
        ...

    def handle(self, delivery: Delivery, now: float) -> bool:
        """Carry one delivery out; every effect goes to the journal.

        Returns False for what nobody vouches for, as bytes that no seal or signature covers: its queue then rests.
        """
        ...

    def give_up(self, delivery: Delivery, error: Exception, now: float) -> None:
        """Dead-letter a delivery whose handling failed in a way that was not foreseen."""
        ...

    def tick(self, now: float, *, connected: bool, reconnected: bool, away: Collection[str] = ()) -> bool:
        """Close a batch: what follows from time, from the (new) connection, or from the batch as a whole.

        ``away`` has the other sites at which nothing can be read now.

        Returns whether it has more to do at once, and left it for the next turn so that others are not kept waiting.
        """
        ...

    def wait_s(self, now: float) -> float:
        """Return in how many seconds it wants its next `tick`, whether or not anything comes."""
        ...

    def committed(self) -> None:
        """Say what happened (logs); called after each commit. Then the batch's scratch is emptied."""
        ...

    def measure(self) -> None:
        """Set the gauges: what waits, what is left; called now and then, outside the transaction."""
        ...
