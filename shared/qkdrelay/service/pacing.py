"""When what a service sends leaves: at once what somebody waits for, the rest gathered for a moment."""

from __future__ import annotations

import math
import time

from qkdrelay.broker.port import Broker, Delivery, Publication

GATHER_S, _HANDLED_MAX = 0.05, 32
"""How long what nobody waits for is gathered, so as to travel together and after what is urgent.

For acknowledgements there is a limit, too, or the broker would send nothing more.
"""


class Pacing:
    """Publications and acknowledgements of committed batches, on their way to the broker."""

    def __init__(self, broker: Broker, gather_s: float) -> None:
        """``gather_s`` is how much later what is not urgent is published, in one go; so are acknowledgements sent."""
        self._broker, self.gather_s = broker, gather_s
        self._gathered: list[Publication] = []
        self._handled: list[Delivery] = []
        self.due_at = math.inf
        """When what is gathered or handled leaves (monotonic clock)."""

    def publish(self, fresh: list[Publication]) -> None:
        """Publish what is urgent, and gather the rest."""
        # Where one is urgent the others go with it, before it: for one queue they leave in their order.
        keys = {publication.routing_key for publication in fresh if publication.urgent}
        waiting = self._gathered + fresh
        self._gathered = [publication for publication in waiting if publication.routing_key not in keys]
        self._note_due()
        self._send([publication for publication in waiting if publication.routing_key in keys])

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Acknowledge what is handled and committed, in time."""
        self._handled += deliveries
        self._note_due()
        if len(self._handled) >= _HANDLED_MAX:
            self.send_all()

    def _note_due(self) -> None:
        """Have the first of what is gathered leave in time, and the rest with it."""
        owes = self._gathered or self._handled
        self.due_at = min(self.due_at, time.monotonic() + self.gather_s) if owes else math.inf

    def send_what_is_due(self) -> None:
        """Send all if the first of it is due."""
        if time.monotonic() >= self.due_at:
            self.send_all()

    def send_all(self) -> None:
        """Send all that there is."""
        self._send(self._gathered)
        self._gathered = []
        if self._handled:
            self._broker.acknowledge(self._handled)
            self._handled = []
        self.due_at = math.inf

    def _send(self, publications: list[Publication]) -> None:
        if publications:
            self._broker.publish(publications)
