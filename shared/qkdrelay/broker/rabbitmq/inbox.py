"""What the I/O thread has for the service's thread."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from qkdrelay.broker.intake import Intake
from qkdrelay.broker.port import Delivery, Received
from qkdrelay.errors import BrokerUnreachableError


class Inbox:
    """Deliveries, confirms and the state of the connections, handed from one thread to the other.

    Deliveries are bounded by the prefetch, confirms by what the service has published.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deliveries = Intake()
        self._confirmed: list[int] = []
        self._working: set[str] = set()
        self._generation = self._publishing = 0
        self._failure: BaseException | None = None

    @property
    def generation(self) -> int:
        """The consuming connection's."""
        return self._generation

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Hand over deliveries."""
        with self._changed:
            self._deliveries.add(deliveries)
            self._changed.notify()

    def confirm(self, ids: list[int]) -> None:
        """Hand over the ids of confirmed publications."""
        if ids:
            with self._changed:
                self._confirmed += ids
                self._changed.notify()

    def working(self, role: str, *, works: bool) -> None:
        """Note whether the connection of that role works."""
        with self._changed:
            (self._working.add if works else self._working.discard)(role)

    def new_generation(self) -> int:
        """Count a new consuming connection and return its number."""
        with self._changed:
            self._generation += 1
            return self._generation

    def new_publishing(self) -> None:
        """Count a new publishing connection."""
        with self._changed:
            self._publishing += 1

    def forget_deliveries(self) -> None:
        """Drop what has not been taken: it goes back to its queue with the connection it came by."""
        with self._changed:
            self._deliveries.clear()

    def fail(self, error: BaseException) -> None:
        """Have the service's next `take` raise: a service that silently gets nothing is worse than none."""
        with self._changed:
            self._failure = error
            self._working.clear()
            self._changed.notify()

    def take(self, limit: int, timeout_s: float, resting: Collection[str], roles: int) -> Received:
        """Return what there is, at most ``limit`` deliveries; wait up to ``timeout_s`` for the first."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._confirmed or self._failure or (limit > 0 and self._deliveries.has_any(resting)), timeout_s
            )
            if self._failure is not None:
                raise BrokerUnreachableError("the broker's I/O thread has failed") from self._failure
            confirmed, self._confirmed = self._confirmed, []
            return Received(
                deliveries=self._deliveries.take(limit, resting),
                confirmed=confirmed,
                connected=len(self._working) == roles,
                generation=self._generation,
                publishing=self._publishing,
            )
