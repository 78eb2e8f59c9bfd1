"""Reads a service's queues at one hub of the in-process broker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import structlog

from qkdrelay.broker.intake import Intake
from qkdrelay.broker.memory.hub import MemoryHub
from qkdrelay.broker.memory.queue import QueuedMessage
from qkdrelay.broker.port import Delivery, SiteState, place

_log = structlog.get_logger()


class MemoryReader:
    """Implements `QueueConsumer` towards the hub, whose lock is held by whoever calls it.

    Of each of ``queues`` it holds up to ``prefetch`` deliveries unacknowledged; they are put into ``inbox``.
    """

    def __init__(
        self,
        hub: MemoryHub,
        user: str,
        queues: Sequence[str] = (),
        prefetch: int = 100,
        *,
        site: str = "",
        inbox: Intake,
        begin: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        """``site`` is where the hub is, if elsewhere; ``begin`` counts a generation, ``changed`` hears of all news."""
        self.hub, self.user, self.queues, self.site = hub, user, tuple(queues), site
        self._prefetch, self._inbox, self._begin, self._changed = prefetch, inbox, begin, changed
        self._unacknowledged: dict[int, tuple[str, QueuedMessage]] = {}
        self._load = dict.fromkeys(queues, 0)
        self._generation = self._tag = self._connections = 0
        self.connected = False
        self.consumed: set[str] = set()
        self.refused: dict[str, str] = {}
        """By name, what cannot be used, and why."""

    @property
    def state(self) -> SiteState:
        """How it is, if the hub is elsewhere."""
        return SiteState(self._connections, "" if self.connected else "not connected", dict(self.refused))

    def connect(self) -> bool:
        """Consume what is not consumed yet and can be; return whether the connection is new."""
        is_new = not self.connected
        if not is_new and len(self.consumed) == len(self.queues):
            return False
        can = [queue for queue in self.queues if queue not in self.consumed and self._may_consume(queue)]
        if can or is_new:
            self._generation = self._begin()
        if is_new:
            self.connected = True
            self._connections += 1
            self.hub.join(self)
        for name in can:
            self.consumed.add(name)
            queue = self.hub.queues[name]
            queue.consumers.append(self)
            self.hub.dispatch(queue)
        return is_new

    def acknowledge(self, tags: Iterable[int]) -> None:
        """Give up deliveries for good; unknown ones are of an earlier connection."""
        freed = set()
        for tag in tags:  # counts up for ever: no later connection has the same
            if tag in self._unacknowledged:
                queue, _ = self._unacknowledged.pop(tag)
                self._load[queue] -= 1
                freed.add(queue)
        for queue in freed & self.consumed:
            self.hub.dispatch(self.hub.queues[queue])

    def refuse(self, name: str, reason: str | None) -> bool:
        """Note why ``name`` cannot be used, or that it can; return whether it can."""
        before = self.refused.pop(name, None)
        if reason is not None:
            self.refused[name] = reason
            if before is None:
                _log.warning("broker.refused", user=self.user, name=name, reason=reason)
        return reason is None

    def lose(self) -> None:
        """See `QueueConsumer.lose`."""
        if self.connected:
            self.connected = False
            self.hub.leave(self)
        for name in tuple(self.consumed):
            self.lose_queue(name)
        self._changed()

    def lose_queue(self, name: str) -> None:
        """See `QueueConsumer.lose_queue`."""
        self.consumed.discard(name)
        self.hub.queues[name].consumers.remove(self)
        given_back = [each for each in self._unacknowledged.values() if each[0] == name]
        self._unacknowledged = {tag: each for tag, each in self._unacknowledged.items() if each[0] != name}
        self._inbox.drop(place(name, self.site))
        self._load[name] = 0
        self.hub.give_back(given_back)

    def has_room(self, queue: str) -> bool:
        """See `QueueConsumer.has_room`."""
        return self._load[queue] < self._prefetch

    def deliver(self, queue: str, message: QueuedMessage) -> None:
        """See `QueueConsumer.deliver`."""
        self._tag += 1
        self._load[queue] += 1
        self._unacknowledged[self._tag] = (queue, message)
        delivery = Delivery(
            queue=queue,
            exchange=message.exchange,
            routing_key=message.routing_key,
            body=message.body,
            redelivered=message.returns > 0,
            token=(self._generation, self._tag),
            site=self.site,
        )
        self._inbox.add([delivery])
        self._changed()

    def _may_consume(self, queue: str) -> bool:
        if queue not in self.hub.queues:
            return self.refuse(queue, f"no queue {queue}")
        if not self.hub.may_read(self.user, queue):
            return self.refuse(queue, f"access to queue {queue} refused for user {self.user}")
        return self.refuse(queue, None)
