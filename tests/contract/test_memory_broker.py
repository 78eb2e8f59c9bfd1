"""The contract, kept by the broker within one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from contract.broker_contract import KMES, LINKS, Adjust, BrokerContract, Network, NetworkFactory
from qkdrelay.broker.definitions import definitions
from qkdrelay.broker.memory import Elsewhere, MemoryBroker, MemoryClient, MemoryHub
from qkdrelay.network.names import SERVICE_USERS


class MemoryNetwork:
    def __init__(self, hub: MemoryHub, elsewhere: str) -> None:
        self._hub, self.elsewhere = hub, elsewhere
        self.drop = hub.drop
        self.bind = hub.bind
        self.unbind = hub.unbind
        self.make_queue, self.delete_queue = hub.make_queue, hub.delete_queue
        self.make_exchange, self.delete_exchange = hub.make_exchange, hub.delete_exchange

    def connect(self, user: str, queues: Sequence[str] = (), prefetch: int = 100) -> MemoryBroker:
        broker = self.made(user, queues, prefetch)
        broker.start()
        return broker

    def made(self, user: str, queues: Sequence[str] = (), prefetch: int = 100) -> MemoryBroker:
        if not self.elsewhere:
            return MemoryBroker(self._hub, user, queues, prefetch)
        far = Elsewhere(self.elsewhere, self._hub, user, queues)
        return MemoryBroker(self._hub, user, (), prefetch, others=[far])

    def client(self, watch: Sequence[str] = ()) -> MemoryClient:
        return MemoryClient(self._hub, watch=watch)


class TestMemoryBroker(BrokerContract):
    elsewhere = ""

    @pytest.fixture
    def make_network(self) -> NetworkFactory:
        @contextmanager
        def make(adjust: Adjust) -> Iterator[Network]:
            document = definitions(KMES, LINKS, dict.fromkeys((*KMES, *SERVICE_USERS), "secret"))
            adjust(document)
            yield MemoryNetwork(MemoryHub(document), self.elsewhere)

        return make


class TestMemoryBrokerOfAnotherSite(TestMemoryBroker):
    elsewhere = "far"
