"""The broker port on RabbitMQ: one I/O thread, one connection to publish, and one to consume at each broker."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial

from pika.adapters.select_connection import IOLoop

from qkdrelay.broker.port import Delivery, Publication, Received, check_size
from qkdrelay.broker.rabbitmq.consumer import Consumer
from qkdrelay.broker.rabbitmq.inbox import Inbox
from qkdrelay.broker.rabbitmq.publisher import Publisher
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings

_CONNECTIONS = 2
_FORCED_CLOSE_S = 1.0
"""Left to the connections for their last frames when the time to close is up."""


class RabbitMqBroker:
    """Implements `qkdrelay.broker.port.Broker`.

    Two connections to the service's own broker, because one short of memory stops reading from what publishes,
    acknowledgements included; one more when a queue costs the first (`Apart`); one to each other site's. The
    service's thread and the I/O thread meet in the inbox, and in callbacks put on the I/O loop.
    """

    def __init__(self, settings: RabbitMqSettings, others: Sequence[RabbitMqSettings] = ()) -> None:
        """``others`` are the ways to the brokers of other sites, to consume there."""
        self._loop = IOLoop()
        self._inbox = Inbox(len(settings.hosts), [way.site for way in others])
        self._consumers_stopped = threading.Event()
        self._publisher_stopped = threading.Event()
        self._consumers = {
            way.site: Consumer(way, self._loop, self._inbox, self._consumer_stopped) for way in (settings, *others)
        }
        self._consuming = len(self._consumers)
        self._publisher = Publisher(settings, self._loop, self._inbox, self._publisher_stopped.set)
        self._started = self._closed = False
        name = f"broker {settings.user}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """See `Broker.start`."""
        if not self._started:
            self._started = True
            for consumer in self._consumers.values():
                self._call(consumer.start)
            self._call(self._publisher.start)
            self._thread.start()

    def wake(self) -> None:
        """See `Broker.wake`."""
        self._inbox.wake()

    def receive(self, limit: int, timeout_s: float, resting: Collection[str] = ()) -> Received:
        """See `Broker.receive`."""
        return self._inbox.take(limit, timeout_s, resting, _CONNECTIONS)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `Broker.acknowledge`."""
        sites: dict[str, dict[tuple[str, int], set[int]]] = defaultdict(lambda: defaultdict(set))
        for delivery in deliveries:
            generation, part = delivery.token
            sites[delivery.site][delivery.queue, generation].add(part)
        for site, parts in sites.items():
            self._call(partial(self._consumers[site].acknowledge, parts))

    def publish(self, publications: Sequence[Publication]) -> None:
        """See `Broker.publish`."""
        check_size(publications)
        taken = tuple(publications)
        self._call(lambda: self._publisher.publish(taken))

    def close(self, timeout_s: float) -> None:
        """See `Broker.close`."""
        if self._closed:
            return
        self._closed = True
        if not self._started:
            self._loop.close()
            return
        deadline = time.monotonic() + timeout_s
        # Acknowledgements were put on the loop before this, and the channel's close-ok comes after them:
        # who only schedules them and leaves loses them.
        for consumer in self._consumers.values():
            self._call(consumer.stop)
        self._call(self._publisher.finish)
        self._consumers_stopped.wait(max(0.0, deadline - time.monotonic()))
        if not self._publisher_stopped.wait(max(0.0, deadline - time.monotonic())):
            self._call(self._publisher.stop)
            self._publisher_stopped.wait(_FORCED_CLOSE_S)
        self._call(self._loop.stop)
        self._thread.join(_FORCED_CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()
        self._inbox.forget_deliveries()

    def _consumer_stopped(self) -> None:
        self._consuming -= 1
        if not self._consuming:
            self._consumers_stopped.set()

    def _call(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` on the I/O thread: pika has no other way in from outside."""
        self._loop.add_callback_threadsafe(callback)

    def _run(self) -> None:
        try:
            self._loop.start()
        except BaseException as error:  # whatever it is, the service has to hear of it
            self._inbox.fail(error)
            self._consumers_stopped.set()
            self._publisher_stopped.set()
