"""Every KME and the coordinator in one process and one thread, on the in-process broker."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from typing_extensions import override

from coordinator import bootstrap as coordinator
from coordinator.store import open_coordinator_store
from kme import bootstrap as kmes
from kme.blocks.computed import ComputedSource
from kme.etsi014.audit import Audit
from kme.link_keys import Link
from kme.metrics import KmeMetrics
from kme.model import NodeSettings
from kme.store import KmeStore, open_kme_store
from kme.supply.front import Front, Throttle
from kme.supply.model import SupplyLimits
from qkdrelay.broker.definitions import definitions, site_contents, site_definitions
from qkdrelay.broker.memory import Elsewhere, MemoryBroker, MemoryClient, MemoryHub
from qkdrelay.broker.names import by_site, coordinator_queues, site_queues
from qkdrelay.broker.port import Client
from qkdrelay.client import CoordinatorClient, relay_request
from qkdrelay.messages.answers import RelayView
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import ShowRequest
from qkdrelay.network.directory import NO_SAES, Directory
from qkdrelay.network.key_cost import Suite
from qkdrelay.network.names import CLI, COORDINATOR, SERVICE_USERS, site_user
from qkdrelay.network.topology import Topology
from qkdrelay.randomness import random_bytes
from qkdrelay.service.loop import Loop

LINK_RATE_BPS = 10_000_000
LINK_BUFFER_BYTES = 16 << 20
REQUESTS_PER_S = 1e6
"""Of one SAE: who asks here is not to be slowed down."""
_LOOK_AGAIN_S = 0.001
T = TypeVar("T")


class EmbeddedNetwork:
    """A running network. Nothing moves but in `settle` and while the `client` asks; then everything that can does."""

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
        directories: Mapping[str, Directory] | None = None,
        limits: SupplyLimits | None = None,
    ) -> None:
        """``folder`` holds the stores (in memory without it); ``clock`` returns seconds since the epoch.

        ``directories`` are those of the KMEs that have keys for applications, which ``limits`` bound.
        """
        self.directories = dict(directories or {})
        """The directory of SAEs of each service that has one: as in its file, from which it is read now and then."""
        self.keys_of: dict[str, Front] = {}
        """The keys for applications of those KMEs; to be asked from any thread."""
        self.audit_of: dict[str, Audit] = {}
        """What logs and counts their requests where they serve the interface for applications."""
        self._limits = limits or SupplyLimits()
        self.topology, self.clock = topology, clock
        self.hubs = _hubs(topology, lab)
        """By site; where there is one for all, of no name."""
        self.hub = self.hubs[topology.coordinator]
        """Where the coordinator is, and whoever asks it."""
        self.control_keys = {kme: secrets.token_bytes(32) for kme in topology.kmes}
        self.cli_key, self.page_key = secrets.token_bytes(32), secrets.token_bytes(32)
        others = (site for site in topology.sites if site != topology.coordinator)
        self.site_keys = {site: secrets.token_bytes(32) for site in others}
        """Keys of the command lines at other sites than the coordinator's."""
        self.lab, self._folder, self._random = lab, folder, random
        link_secrets = {frozenset(link): secrets.token_bytes(32) for link in topology.links}
        self.links: dict[str, dict[str, Link]] = {}
        """The QKD links of each KME, by peer."""
        self.settings: dict[str, NodeSettings] = {}
        for kme in topology.kmes:
            own = self.links[kme] = {}
            for peer in topology.neighbours[kme]:
                secret = link_secrets[frozenset((kme, peer))]
                own[peer] = Link(suite, _source(secret, kme, peer))
            self.settings[kme] = NodeSettings(kme, frozenset(own), withstand_compromised, lab, kme in self.directories)
        self.stores: dict[str, KmeStore] = {}
        self.loops: dict[str, Loop] = {}
        for name in (*topology.kmes, COORDINATOR):
            self.start(name)
        self.client = CoordinatorClient(SettlingConnection(self), self.cli_key, clock, clock)
        """Asks the coordinator, and lets everything that can move do so before it looks for an answer."""
        self.stopped: frozenset[str] = frozenset()
        """Services that do not work, as if they had crashed."""
        self.settle()

    def start(self, name: str) -> None:
        """Start a KME, or the coordinator, from what its store has; a store in memory begins empty."""
        if name == COORDINATOR:
            self.start_coordinator()
            return
        store = self.stores[name] = open_kme_store(self._folder / name / "kme.sqlite" if self._folder else None, name)
        site = self.topology.site_of.get(name, "")
        broker = self._broker(name, site, by_site(name, self.links[name], self.topology.elsewhere(site)))
        metrics, room = KmeMetrics(name, self.links[name]), None
        if name in self.directories:
            read = partial(self.directories.__getitem__, name)
            given = self.settings[name], store, read, metrics
            room = kmes.room_for_applications(*given, random=self._random, limits=self._limits)
        parts = self.settings[name], store, self.links[name], self.control_keys[name], broker
        self.loops[name] = kmes.assemble(*parts, random=self._random, clock=self.clock, metrics=metrics, room=room)
        if room is not None:
            self.keys_of[name] = Front(room, self.loops[name].mailbox, Throttle(REQUESTS_PER_S))
            self.audit_of[name] = Audit(name, metrics)

    def start_coordinator(self, folder: str = COORDINATOR, *, anew: bool = False) -> None:
        """Start a coordinator from a ``folder`` of its own; ``anew`` as of `coordinator.bootstrap.assemble`."""
        self.coordinator_store = open_coordinator_store(
            self._folder / folder / "coordinator.sqlite" if self._folder else None
        )
        home, others = self.topology.coordinator, dict(self.topology.sites)
        kmes_here = others.pop(home).kmes if home else self.topology.kmes
        reads = {site: site_queues(there.kmes, lab=self.lab) for site, there in others.items()}
        self.loops[COORDINATOR] = coordinator.assemble(
            self.topology,
            self.coordinator_store,
            self.control_keys,
            self.cli_key,
            self._broker(COORDINATOR, home, {"": coordinator_queues(kmes_here, lab=self.lab), **reads}),
            page_key=self.page_key,
            lab=self.lab,
            clock=self.clock,
            directory=lambda: self.directories.get(COORDINATOR, NO_SAES),
            elsewhere=self.topology.elsewhere(home),
            site_keys=self.site_keys,
            anew=anew,
        )

    def hub_of(self, name: str) -> MemoryHub:
        """Return the hub that a service publishes at."""
        return self.hubs[self.topology.site_of.get(name, self.topology.coordinator)]

    def _broker(self, name: str, site: str, reads: Mapping[str, Sequence[str]]) -> MemoryBroker:
        """Return the connections of a service at ``site``, which ``reads`` these queues, by their sites."""
        others = [
            Elsewhere(where, self.hubs[where], site_user(site), queues) for where, queues in reads.items() if where
        ]
        return MemoryBroker(self.hubs[site], name, reads[""], others=others)

    def settle(self) -> None:
        """Let every service that runs work until none has anything to do."""
        busy = True
        while busy:
            busy = False
            for name, loop in self.loops.items():
                busy |= name not in self.stopped and loop.step(0.0)

    def answer(self, future: Future[T]) -> T:
        """Return what an application is answered, or raise its error, once nothing moves any more."""
        self.settle()
        return future.result(timeout=0)

    def settle_while(self, work: Callable[[], T]) -> T:
        """Do ``work`` in another thread, and let everything that can move do so until it is done."""
        with ThreadPoolExecutor(1) as elsewhere:
            done = elsewhere.submit(work)
            while not done.done():
                self.settle()
                wait([done], timeout=_LOOK_AGAIN_S)
            return done.result()

    def relay(self, source: str, target: str, **wishes: Any) -> RelayView:
        """Start a relay (see `relay_request`) and return it as it is once nothing moves any more."""
        request = relay_request(source, target, **{"relay_id": new_relay_id(self.clock()), **wishes})
        self.client.ask(request, RelayView)
        return self.show(request.relay_id)

    def show(self, relay_id: UUID) -> RelayView:
        """Return a relay as it is now."""
        return self.client.ask(ShowRequest(relay=str(relay_id), follow=False), RelayView)

    def keys(self, kme: str, relay_id: UUID) -> bytes | None:
        """Return the keys ``kme`` has released of a relay it is an end of."""
        relay = self.stores[kme].relays.get(relay_id)
        return relay.payload.keys if relay and relay.payload and relay.is_released else None


class SettlingConnection(Client):
    """A connection to the coordinator of a network that works while its client waits."""

    def __init__(self, network: EmbeddedNetwork, client: str = CLI, *, watch: Sequence[str] = ()) -> None:
        """``client`` is one of `CLIENTS`."""
        self._network, self._client = network, MemoryClient(network.hub, client, watch=watch)

    @property
    @override
    def address(self) -> str:
        return self._client.address

    @override
    def send(self, body: bytes) -> None:
        self._client.send(body)

    @override
    def check(self) -> None:
        self._client.check()

    @override
    def receive(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        """Return the next reply or event; None without waiting, for once nothing moves, nothing comes."""
        self._network.settle()
        return self._client.receive(0.0)

    @override
    def close(self) -> None:
        self._client.close()

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _hubs(topology: Topology, lab: bool) -> dict[str, MemoryHub]:
    if not topology.sites:
        users = dict.fromkeys((*topology.kmes, *SERVICE_USERS), secrets.token_hex(8))
        return {"": MemoryHub(definitions(topology.kmes, topology.links, users, lab=lab))}
    lock = threading.RLock()
    return {
        site: MemoryHub(
            site_definitions(
                topology,
                site,
                dict.fromkeys(site_contents(topology, site).users, secrets.token_hex(8)),
                lab=lab,
            ),
            lock,
        )
        for site in topology.sites
    }


def _source(secret: bytes, kme: str, peer: str) -> ComputedSource:
    return ComputedSource(
        secret, kme, peer, rate_bps=LINK_RATE_BPS, buffer_bytes=LINK_BUFFER_BYTES, clock=time.monotonic
    )
