"""The inbox: deliveries and confirms, from the I/O thread to the service's."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from qkdrelay.broker.intake import Intake
from qkdrelay.broker.port import Delivery, Received, SiteState
from qkdrelay.errors import BrokerUnreachableError

_UNROUTED_MAX, _REASON_MAX = 1000, 300
"""Routing keys remembered, and characters of a reason."""


class Inbox:
    """Deliveries, confirms and the state of the connections, handed from one thread to the other.

    Deliveries are bounded by the prefetch, confirms by what the service has published.
    """

    def __init__(self, nodes: int, sites: Iterable[str] = ()) -> None:
        """``nodes`` has the service's own broker; it reads at those of other ``sites``, too."""
        self._nodes = nodes
        self._sites = {site: SiteState(away="not connected yet") for site in sites}
        self._changed = threading.Condition()
        self._deliveries = Intake()
        self._confirmed: list[int] = []
        self._working: set[str] = set()
        self._refused: dict[str, str] = {}
        self._unrouted: dict[str, str] = {}
        self._blocked = ""
        self._versions: dict[str, str] = {}
        self._generation = self._publishing = 0
        self._failure: BaseException | None = None
        self._woken = False

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
        """Note whether the connection of that role to the service's own broker works."""
        with self._changed:
            (self._working.add if works else self._working.discard)(role)
            self.wake()

    def refuse(self, name: str, reason: str | None, *, site: str = "") -> bool:
        """Note why a queue or an exchange cannot be used, or with None that it can.

        ``site`` is where, if at another site's broker. Return whether that is new.
        """
        with self._changed:
            noted = dict(self._sites[site].refused) if site else self._refused
            before = noted.pop(name, None)
            if reason is not None:
                noted[name] = reason[:_REASON_MAX]
            if site:
                self._sites[site] = replace(self._sites[site], refused=noted)
            is_new = (before is None) != (reason is None)
            if is_new:
                self.wake()
            return is_new

    def reach(self, site: str, why_not: str = "") -> None:
        """Note that another site's broker was connected to, or why it cannot be."""
        with self._changed:
            before = self._sites[site]
            self._sites[site] = replace(
                before, connections=before.connections + (not why_not), away=why_not[:_REASON_MAX], refused={}
            )
            self.wake()

    def route(self, key: str, missing_at: str | None) -> None:
        """Note at which exchange nothing is bound to a routing key, or with None that something is."""
        with self._changed:
            before = self._unrouted.pop(key, None)
            if missing_at is not None and len(self._unrouted) < _UNROUTED_MAX:
                self._unrouted[key] = missing_at
            if before != missing_at:
                self.wake()

    def block(self, reason: str) -> None:
        """Note why the broker takes nothing, or with an empty reason that it does."""
        with self._changed:
            self._blocked = reason[:_REASON_MAX]
            self.wake()

    def be_of(self, version: str, *, site: str = "") -> bool:
        """Note of which version the broker (of a site) says it is; return whether that is new."""
        with self._changed:
            before, self._versions[site] = self._versions.get(site, ""), version
            return before != version or not version

    def new_generation(self) -> int:
        """Count a new connection to consume from, or a queue that can be consumed again, and return its number."""
        with self._changed:
            self._generation += 1
            self.wake()
            return self._generation

    def new_publishing(self) -> None:
        """Count a new publishing connection."""
        with self._changed:
            self._publishing += 1
            self.wake()

    def forget_deliveries(self, place: str | None = None) -> None:
        """Drop what has not been taken, of one queue or of all: it goes back there with the channel it came by."""
        with self._changed:
            if place is None:
                self._deliveries.clear()
            else:
                self._deliveries.drop(place)

    def fail(self, error: BaseException) -> None:
        """Have the service's next `take` raise: a service that silently gets nothing is worse than none."""
        with self._changed:
            self._failure = error
            self._working.clear()
            self._changed.notify()

    def wake(self) -> None:
        """End a `take` that waits, or the next one, at once."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def take(self, limit: int, timeout_s: float, resting: Collection[str], roles: int) -> Received:
        """Return what there is, at most ``limit`` deliveries; wait up to ``timeout_s`` for the first."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._woken or self._confirmed or self._failure or (limit > 0 and self._deliveries.has_any(resting))
                ),
                timeout_s,
            )
            self._woken = False
            if self._failure is not None:
                raise BrokerUnreachableError("the broker's I/O thread has failed") from self._failure
            confirmed, self._confirmed = self._confirmed, []
            return Received(
                deliveries=self._deliveries.take(limit, resting),
                confirmed=confirmed,
                connected=len(self._working) == roles,
                generation=self._generation,
                publishing=self._publishing,
                refused=dict(self._refused),
                unrouted=dict(self._unrouted),
                blocked=self._blocked,
                version=self._versions.get("", ""),
                nodes=self._nodes,
                sites=dict(self._sites),
                returned=self._deliveries.dropped(),
            )
