"""What comes to a service; messages of a later protocol version wait, unacknowledged, for a program that knows it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from qkdrelay.broker.intake import Intake
from qkdrelay.broker.names import is_between_services
from qkdrelay.broker.port import Broker, Delivery, Received
from qkdrelay.messages.codec import VERSION, later_version
from qkdrelay.service.logs import log_all
from qkdrelay.service.moderation import Line, Moderator

HELD_S_MAX: Final = 1200.0
"""How long a message waits; then it is handled, which refuses it.

RabbitMQ closes the channel on which a delivery is not acknowledged for 30 minutes (`consumer_timeout`).
"""
PASSED_BYTES_MAX: Final = 64 << 20
"""Bytes of other messages of its queue that may pass one that waits; then it is handled, too.

RabbitMQ keeps on its disk all that has come to a quorum queue since the oldest message that is not acknowledged. An
upgraded sender sends nothing else; one that would fill the disk does.
"""
_OVERHEAD_BYTES: Final = 256
"""What the broker keeps of a message besides its body, roughly."""
_EVENT: Final = "message.of_later_version"
_NAMED_MAX: Final = 5
"""Queues in a remark."""


@dataclass(slots=True)
class _Queue:
    version: int = 0
    """The latest that waits in it."""
    passed: int = 0
    """Bytes of others that have come while any waited."""
    held: deque[tuple[float, int, Delivery]] = field(default_factory=deque)
    """Oldest first, with the time (monotonic clock) at which each came, and what had passed then."""


class Reception:
    """Receives for a service, and keeps back what is of a later protocol version.

    It does so in queues between services alone: who asks the coordinator is to be refused at once. What is held is
    the broker's: who restarts with that version gets it again. Of each queue it is no more than the prefetch, beyond
    which that queue waits and no other; whoever writes it could as well write nothing.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._queues: dict[str, _Queue] = {}
        """Those that ever brought one, by their place."""
        self._overdue = Intake()
        """What has waited long enough."""
        self._moderator = Moderator({_EVENT: "queue"})
        self.seen = Received([], [], connected=False, generation=0, publishing=0)
        """What the broker said last, of its own state, too."""

    def receive(self, limit: int, timeout_s: float, resting: Collection[str]) -> Received:
        """Return what `Broker.receive` does, without what is to wait, and with up to ``limit`` that waited too long."""
        overdue = limit > 0 and self._overdue.has_any(resting)
        self.seen = received = self._broker.receive(limit, 0.0 if overdue else timeout_s, resting)
        for place in received.returned:  # else they were refused once more for each time that they come again
            self._overdue.drop(place)
            if place in self._queues:
                self._queues[place].held.clear()
        now = time.monotonic()
        lines: list[Line] = []
        passed = [delivery for delivery in received.deliveries if not self._hold(delivery, now, lines)]
        log_all(self._moderator.passed(lines, now))
        self._end(now)
        return replace(received, deliveries=passed + self._overdue.take(limit, resting))

    def _hold(self, delivery: Delivery, now: float, lines: list[Line]) -> bool:
        """Keep a delivery back, and note so, if it is to wait; return whether it is."""
        version = later_version(delivery.body)
        if version is None or not is_between_services(delivery.queue):
            if (queue := self._queues.get(delivery.place)) is not None and queue.held:
                queue.passed += len(delivery.body) + _OVERHEAD_BYTES
            return False
        queue = self._queues.setdefault(delivery.place, _Queue())
        queue.version = max(version, queue.version if queue.held else 0)
        queue.held.append((now, queue.passed, delivery))
        fields = {"queue": delivery.place, "version": version, "own_version": VERSION}
        lines.append(("warning", _EVENT, fields))
        return True

    def _end(self, now: float) -> None:
        """Have what has waited long enough handled."""
        for queue in self._queues.values():
            while queue.held:
                since, passed, delivery = queue.held[0]
                if now - since < HELD_S_MAX and queue.passed - passed < PASSED_BYTES_MAX:
                    break
                queue.held.popleft()
                self._overdue.add([delivery])

    def counts(self) -> Mapping[str, int]:
        """Return how many wait, by the place of each queue that ever brought one."""
        return {place: len(queue.held) for place, queue in self._queues.items()}

    @property
    def remark(self) -> str:
        """A line on what does not get where it is to go while all else works, or waits here; empty for nothing."""
        return "; ".join(filter(None, (self.seen.remark, self._waiting())))

    def _waiting(self) -> str:
        versions = {place: queue.version for place, queue in self._queues.items() if queue.held}
        if not versions:
            return ""
        latest, places = max(versions.values()), ", ".join(list(versions)[:_NAMED_MAX])
        more = f" and {len(versions) - _NAMED_MAX} more queues" if len(versions) > _NAMED_MAX else ""
        return f"messages of protocol version {latest} wait in {places}{more}: this is version {VERSION}; upgrade"
