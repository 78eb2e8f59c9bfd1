"""A client's connection to the in-process broker."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from qkdrelay.broker.memory.broker import MemoryBroker
from qkdrelay.broker.memory.hub import MemoryHub
from qkdrelay.broker.names import EVENTS_EXCHANGE, REPLIES_EXCHANGE, REQUESTS_KEY, client_exchange
from qkdrelay.broker.port import CLIENT_PREFETCH, Client, Publication, check_size
from qkdrelay.errors import BrokerUnreachableError
from qkdrelay.network.names import CLI, client_queue_prefix


class MemoryClient(Client):
    """Implements `qkdrelay.broker.port.Client`; ``watch`` lists topic patterns of events to receive, too."""

    def __init__(self, hub: MemoryHub, user: str = CLI, *, watch: Sequence[str] = ()) -> None:
        self._hub = hub
        self._user = user
        self._address = f"{client_queue_prefix(user)}{uuid.uuid4()}"
        with hub.lock:
            hub.declare(self._address, single_active_consumer=False)
            hub.bind(REPLIES_EXCHANGE, self._address, self._address)
            for pattern in watch:
                hub.bind(EVENTS_EXCHANGE, pattern, self._address)
        self._broker = MemoryBroker(hub, user, [self._address], CLIENT_PREFETCH)
        self._broker.start()

    @property
    def address(self) -> str:
        """See `Client.address`."""
        return self._address

    def send(self, body: bytes) -> None:
        """See `Client.send`."""
        publication = Publication(None, client_exchange(self._user), REQUESTS_KEY, body)
        check_size([publication])
        with self._hub.lock:
            refusal = self._hub.publish(self._user, publication)
        if refusal is not None:
            raise BrokerUnreachableError(f"the coordinator's queue does not take the request: {refusal}")

    def check(self) -> None:
        """See `Client.check`; this broker is never short of anything."""

    def receive(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        """See `Client.receive`."""
        received = self._broker.receive(1, timeout_s)
        if not received.connected:
            raise BrokerUnreachableError(f"user {self._user!r} may not read replies")
        self._broker.acknowledge(received.deliveries)
        return next(((each.exchange, each.routing_key, each.body) for each in received.deliveries), None)

    def close(self) -> None:
        """See `Client.close`."""
        with self._hub.lock:
            self._broker.close(0)
            if self._address in self._hub.queues:
                self._hub.delete(self._address)
