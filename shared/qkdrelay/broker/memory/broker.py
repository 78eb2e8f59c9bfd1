"""One service's connections to the in-process broker: to its own site's hub, and to read at those of others."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import structlog

from qkdrelay.broker.intake import Intake
from qkdrelay.broker.memory.hub import MemoryHub
from qkdrelay.broker.memory.reader import MemoryReader
from qkdrelay.broker.memory.routing import no_route
from qkdrelay.broker.port import Delivery, Publication, Received, check_size

_RETRY_S: Final = 0.05

_log = structlog.get_logger()


class Elsewhere(NamedTuple):
    """Queues to read at another site's hub, which has the same lock, and the user to do it as."""

    site: str
    hub: MemoryHub
    user: str
    queues: Sequence[str]


class MemoryBroker:
    """Implements `qkdrelay.broker.port.Broker`; of each queue it holds up to ``prefetch`` deliveries unacknowledged."""

    def __init__(
        self,
        hub: MemoryHub,
        user: str,
        queues: Sequence[str] = (),
        prefetch: int = 100,
        *,
        others: Sequence[Elsewhere] = (),
    ) -> None:
        self.user = user
        self._hub = hub
        self._changed = threading.Condition(hub.lock)
        self._inbox = Intake()
        self._readers = {
            where.site: MemoryReader(
                where.hub,
                where.user,
                where.queues,
                prefetch,
                site=where.site,
                inbox=self._inbox,
                begin=self._begin,
                changed=self._changed.notify_all,
            )
            for where in (Elsewhere("", hub, user, queues), *others)
        }
        self._here = self._readers[""]
        self._confirmed: list[int] = []
        self._held: list[Publication] = []
        self._retry_at = 0.0
        self._generation = self._connections = 0
        self._unrouted: dict[str, str] = {}
        self._started = self._closed = self._woken = False

    def start(self) -> None:
        """See `Broker.start`."""
        with self._changed:
            self._started = True
            self._connect()

    def wake(self) -> None:
        """See `Broker.wake`."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def receive(self, limit: int, timeout_s: float, resting: Collection[str] = ()) -> Received:
        """See `Broker.receive`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if self._started and not self._closed:
                    self._connect()
                self._retry()
                now = time.monotonic()
                has_any = self._confirmed or (limit > 0 and self._inbox.has_any(resting))
                if has_any or now >= deadline or self._closed or self._woken:
                    break
                wake_at = min(deadline, self._retry_at) if self._held else deadline
                self._changed.wait(max(0.0, wake_at - now))
            self._woken = False
            confirmed, self._confirmed = self._confirmed, []
            here = self._here
            return Received(
                deliveries=self._inbox.take(limit, resting),
                confirmed=confirmed,
                connected=here.connected and (bool(here.consumed) or not here.queues),
                generation=self._generation,
                publishing=self._connections,
                refused=dict(here.refused),
                unrouted=dict(self._unrouted),
                sites={site: reader.state for site, reader in self._readers.items() if site},
                returned=self._inbox.dropped(),
            )

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.acknowledge`."""
        tags: dict[str, list[int]] = defaultdict(list)
        for delivery in deliveries:
            tags[delivery.site].append(delivery.token[1])
        with self._changed:
            for site, of_site in tags.items():
                self._readers[site].acknowledge(of_site)

    def publish(self, publications: Sequence[Publication]) -> None:
        """See `Broker.publish`."""
        check_size(publications)
        with self._changed:
            if self._closed:
                return
            for publication in publications:
                self._try(publication)

    def close(self, timeout_s: float) -> None:
        """See `Broker.close`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            if self._closed:
                return
            for reader in self._readers.values():
                reader.lose()
            self._closed = True
            while self._held and time.monotonic() < deadline:
                self._changed.wait(max(0.0, min(deadline, self._retry_at) - time.monotonic()))
                self._retry()

    def _connect(self) -> None:
        """Consume what is not consumed yet and can be: a queue that is refused does not concern the others."""
        for reader in self._readers.values():
            if reader.connect() and reader is self._here:
                self._connections += 1

    def _begin(self) -> int:
        self._generation += 1
        self._woken = True
        return self._generation

    def _try(self, publication: Publication) -> None:
        refusal = self._hub.publish(self.user, publication)
        self._note_outcome(publication, refusal)
        if publication.id is None:
            return
        if refusal is None:
            self._confirmed.append(publication.id)
            self._changed.notify_all()
            return
        if not self._held:
            self._retry_at = time.monotonic() + _RETRY_S
            _log.warning("broker.publish_retried", user=self.user, reason=refusal)
        self._held.append(publication)

    def _note_outcome(self, publication: Publication, refusal: str | None) -> None:
        """Name what refuses it, if that is its exchange or the want of a binding and not a queue that is full."""
        exchange, key = publication.exchange, publication.routing_key
        self._here.refuse(exchange, self._hub.refusal(self.user, exchange))
        self._unrouted.pop(key, None)
        if refusal == no_route(exchange, key) and publication.id is not None:
            self._unrouted[key] = exchange

    def _retry(self) -> None:
        if self._held and time.monotonic() >= self._retry_at:
            held, self._held = self._held, []
            for publication in held:
                self._try(publication)
