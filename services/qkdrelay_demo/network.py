"""Every KME and the coordinator in one process and one thread, on the in-process broker."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from coordinator.service import CoordinatorService
from coordinator.store import CoordinatorStore
from kme.forwarding import NodeSettings
from kme.links import Link
from kme.service import KmeService
from kme.store import KmeStore
from qkdrelay.broker.definitions import definitions
from qkdrelay.broker.memory import MemoryHub
from qkdrelay.broker.names import coordinator_queues, kme_queues
from qkdrelay.errors import RequestRefusedError
from qkdrelay.link.envelope import Suite
from qkdrelay.link.simulated import SimulatedLinkKey
from qkdrelay.messages.answers import Late, Refusal, RelayView, ReplyBody
from qkdrelay.messages.dialogue import Asker
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import RelayRequest, RequestBody, ShowRequest
from qkdrelay.network.names import COORDINATOR, SERVICE_USERS
from qkdrelay.network.topology import Topology
from qkdrelay.randomness import random_bytes
from qkdrelay.service.loop import Loop

LINK_RATE_BPS = 10_000_000
LINK_BUFFER_BYTES = 16 << 20


class EmbeddedNetwork:
    """A running network. Nothing moves unless `settle` or `ask` is called; then everything that can does."""

    def __init__(
        self,
        topology: Topology,
        *,
        lab: bool = False,
        suite: Suite = "otp",
        folder: Path | None = None,
        random: Callable[[int], bytes] = random_bytes,
        clock: Callable[[], float] = time.time,
        withstand_compromised: int = 1,
    ) -> None:
        """``folder`` holds the stores (in memory without it); ``clock`` returns seconds since the epoch."""
        self.topology, self.clock = topology, clock
        users = (*topology.kmes, *SERVICE_USERS)
        self.hub = MemoryHub(
            definitions(topology.kmes, topology.links, {user: secrets.token_hex(8) for user in users}, lab=lab)
        )
        keys = {kme: secrets.token_bytes(32) for kme in topology.kmes}
        link_secrets = {frozenset(link): secrets.token_bytes(32) for link in topology.links}
        self.stores: dict[str, KmeStore] = {}
        self.loops: dict[str, Loop] = {}
        for kme in topology.kmes:
            store = KmeStore(folder / kme / "kme.sqlite" if folder else None, kme)
            links = {}
            for peer in topology.neighbours[kme]:
                secret = link_secrets[frozenset((kme, peer))]
                links[peer] = Link(suite, _key(secret, kme, peer), _key(secret, peer, kme))
            settings = NodeSettings(kme, frozenset(links), withstand_compromised, lab)
            service = KmeService(settings, store, links, keys[kme], random)
            self.stores[kme] = store
            self.loops[kme] = Loop(service, self.hub.connect(kme, kme_queues(kme, topology.links)), clock=clock)
        self.coordinator_store = CoordinatorStore(folder / COORDINATOR / "coordinator.sqlite" if folder else None)
        self.cli_key = secrets.token_bytes(32)
        coordinator = CoordinatorService(topology, self.coordinator_store, keys, self.cli_key, lab=lab)
        broker = self.hub.connect(COORDINATOR, coordinator_queues(topology.kmes, lab=lab))
        self.loops[COORDINATOR] = Loop(coordinator, broker, clock=clock)
        self._client = self.hub.client()
        self._asker = Asker(self.cli_key, self._client.address, clock)
        self.stopped: frozenset[str] = frozenset()
        """Services that do not work, as if they had crashed."""
        self.settle()

    def settle(self) -> None:
        """Let every service that runs work until none has anything to do."""
        busy = True
        while busy:
            busy = False
            for name, loop in self.loops.items():
                busy |= name not in self.stopped and loop.step(0.0)

    def ask(self, body: RequestBody) -> ReplyBody:
        """Send a request as the command line does; return the last answer once nothing moves any more.

        Raises RequestRefusedError with the coordinator's reason.
        """
        last = self._asked(body)
        if isinstance(last, Late):  # by the coordinator's clock, then
            last = self._asked(body)
        if isinstance(last, Refusal):
            raise RequestRefusedError(last.text, hint=last.hint)
        if last is None:
            raise RequestRefusedError("the coordinator did not answer")
        return last

    def _asked(self, body: RequestBody) -> ReplyBody | None:
        request, signed = self._asker.request(body)
        self._client.send(signed)
        self.settle()
        last: ReplyBody | None = None
        while (message := self._client.receive(0.0)) is not None:
            if (reply := self._asker.answer(message[2], {request.request_id})) is not None:
                last = reply.body
        return last

    def relay(self, source: str, target: str, **wishes: Any) -> RelayView:
        """Start a relay (see `relay_request`) and return it as it is once nothing moves any more."""
        request = relay_request(source, target, **{"relay_id": new_relay_id(self.clock()), **wishes})
        self.ask(request)
        return self.show(request.relay_id)

    def show(self, relay_id: UUID) -> RelayView:
        """Return a relay as it is now."""
        view = self.ask(ShowRequest(relay=str(relay_id), follow=False))
        assert isinstance(view, RelayView)  # noqa: S101 - the answer to this request
        return view

    def keys(self, kme: str, relay_id: UUID) -> bytes | None:
        """Return the keys ``kme`` has released of a relay it is an end of."""
        relay = self.stores[kme].relay(relay_id)
        return relay.payload.keys if relay and relay.payload and relay.state == "delivered" else None


def relay_request(source: str, target: str, **wishes: Any) -> RelayRequest:
    """Ask for one key of 256 bits, by the best plan, within 30 s; ``wishes`` are fields that differ."""
    defaults = {
        "relay_id": new_relay_id(),
        "key_count": 1,
        "key_size_bits": 256,
        "timeout_s": 30.0,
        "policy": None,
        "withstand": None,
        "allow_unprotected": False,
        "follow": True,
    }
    return RelayRequest(source=source, target=target, **{**defaults, **wishes})


def _key(secret: bytes, sender: str, receiver: str) -> SimulatedLinkKey:
    return SimulatedLinkKey(
        secret, sender, receiver, rate_bps=LINK_RATE_BPS, buffer_bytes=LINK_BUFFER_BYTES, clock=time.monotonic
    )
