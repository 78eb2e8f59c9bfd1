"""The composition root of a KME: its parts, put together in one place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from uuid import UUID

from kme.applications import TryLaterError
from kme.blocks.computed import ComputedSource
from kme.blocks.turn_taking import AsksForTurns, GivesTurns
from kme.devices.client import Device, DeviceSettings
from kme.devices.line import DeviceLine
from kme.devices.source import DeviceSource
from kme.etsi014.audit import Audit
from kme.etsi014.server import serving_applications
from kme.link_keys import Link
from kme.metrics import KmeMetrics
from kme.model import NodeSettings
from kme.service import KmeService
from kme.settings import DeviceLinkSettings, KmeSettings, SimulatedLinkSettings
from kme.store import KmeStore, open_kme_store
from kme.supply.application_metrics import ApplicationMetrics
from kme.supply.front import Front, Throttle
from kme.supply.model import SupplyLimits
from kme.supply.room import Room
from kme.supply.slave_keys import SlaveLimits
from kme.supply.target import TargetSide
from qkdrelay.broker.port import Broker
from qkdrelay.broker.rabbitmq import RabbitMqBroker
from qkdrelay.broker.rabbitmq.tls import CERTIFICATE
from qkdrelay.network.directory import Directory
from qkdrelay.network.directory_file import DirectoryFile
from qkdrelay.randomness import random_bytes
from qkdrelay.service.health import monitoring
from qkdrelay.service.http import serving
from qkdrelay.service.logs import set_up_logging
from qkdrelay.service.loop import BATCH_S, Loop
from qkdrelay.service.pacing import GATHER_S
from qkdrelay.service.process import prepare_process
from qkdrelay.service.settings import key_bytes, load


def assemble(
    me: NodeSettings,
    store: KmeStore,
    links: Mapping[str, Link],
    control_key: bytes,
    broker: Broker,
    *,
    random: Callable[[int], bytes] = random_bytes,
    clock: Callable[[], float] = time.time,
    batch_s: float = math.inf,
    gather_s: float = 0.0,
    metrics: KmeMetrics | None = None,
    room: Room | None = None,
) -> Loop:
    """Return the loop of one KME; nothing moves before its first step.

    ``links`` maps each peer to the QKD link with it; ``control_key`` is shared with the coordinator; ``room`` has the
    keys for applications, if it has any; the rest is as of `Loop`.
    """
    service = KmeService(me, store, links, control_key, random, metrics=metrics, supply=room)
    return Loop(service, broker, clock=clock, batch_s=batch_s, gather_s=gather_s)


def room_for_applications(
    me: NodeSettings,
    store: KmeStore,
    read: Callable[[], Directory],
    metrics: KmeMetrics,
    *,
    random: Callable[[int], bytes] = random_bytes,
    limits: SupplyLimits,
    fetch_again_s: float = 0.0,
) -> Room:
    """Return what a KME has for its applications, of both sides; ``read`` is as of `Room`.

    ``fetch_again_s`` is for how many seconds the certificate that has fetched a key may fetch it again.
    """

    def is_expected(relay_id: UUID) -> bool:
        relay = store.relays.get(relay_id)
        return relay is not None and relay.role == "target" and relay.state == "expecting"

    batch, kept = store.journal.batch, SlaveLimits(usable_s=limits.usable_s, fetch_again_s=fetch_again_s)
    slaves = TargetSide(me.name, batch, store.applications, is_expected=is_expected, random=random, limits=kept)
    figures = ApplicationMetrics(metrics)
    return Room(me, batch, slaves=slaves, read=read, metrics=figures, random=random, limits=limits)


@contextmanager
def _serving(settings: KmeSettings, room: Room | None, loop: Loop, metrics: KmeMetrics) -> Iterator[None]:
    """Serve the interface for applications, if there is one, while in the ``with``."""
    if room is None or settings.etsi014_tls is None:
        yield
        return
    keys = Front(room, loop.mailbox, Throttle(settings.requests_per_s))
    audit = Audit(settings.kme, metrics)
    where, wait_s = settings.etsi014_tls, settings.wait_s
    with serving_applications(keys, audit, settings.etsi014, where, id_from=settings.sae_id_from, wait_s=wait_s):
        try:
            yield
        finally:
            room.give_up(TryLaterError("the KME is stopping"))


def _simulated(me: str, peer: str, link: SimulatedLinkSettings) -> Link:
    limits = {"rate_bps": link.rate_bps, "buffer_bytes": link.buffer_bytes}
    return Link(link.suite, ComputedSource(key_bytes(link.secret), me, peer, **limits, clock=time.monotonic))


def _with_device(me: str, peer: str, link: DeviceLinkSettings, lines: list[DeviceLine]) -> Link:
    """Return a link with a device, and add to ``lines`` what asks that; nothing is asked before it is started."""
    where = DeviceSettings(link.url, link.peer_sae, link.tls, link.server_name)
    keeps = link.keeps_uncollected and not link.serialise
    line = DeviceLine(Device(where, files_may_come=True), keeps_uncollected=keeps)
    lines.append(line)
    source = DeviceSource(line, ahead_bytes=link.ahead_bytes, expected_bps=link.rate_bps)
    if not link.serialise:
        return Link(link.suite, source)
    if me < peer:  # both ends must see it the same way
        return Link(link.suite, source, lambda: GivesTurns(time.monotonic))
    return Link(link.suite, source, lambda: AsksForTurns(time.monotonic, random_bytes))


@contextmanager
def _asking(lines: Sequence[DeviceLine], wake: Callable[[], None]) -> Iterator[None]:
    """Have the devices asked while in the ``with``."""
    with ExitStack() as stack:
        for line in lines:
            stack.callback(line.stop)
            line.start(wake)
        yield


def run() -> None:
    """Run the KME that the environment describes until SIGTERM."""
    stop = prepare_process()
    settings = load(KmeSettings)
    set_up_logging(settings.log_format, settings.log_level, site=settings.site)
    name = settings.kme
    lines: list[DeviceLine] = []
    links = {
        peer: _simulated(name, peer, link)
        if isinstance(link, SimulatedLinkSettings)
        else _with_device(name, peer, link, lines)
        for peer, link in settings.links.items()
    }
    store = open_kme_store(settings.store, name)
    has_applications = settings.saes is not None
    me = NodeSettings(name, frozenset(links), settings.withstand_compromised, settings.lab, has_applications)
    reads = settings.reads()
    others = [settings.elsewhere(name, site, each.broker, reads[site]) for site, each in settings.sites.items()]
    broker = RabbitMqBroker(settings.rabbitmq(name, reads[""]), others)
    metrics, room = KmeMetrics(name, links), None
    if settings.site_tls is not None:
        metrics.watch_certificate(settings.site_tls / CERTIFICATE)
    if settings.saes is not None:
        # numpy takes a fifth of a second to load; the first who waits for supply, which is long, would wait for that.
        import_module("qkdrelay.sharing.shamir_numpy")
        limits, again_s = SupplyLimits(settings.wait_s, settings.usable_s), settings.fetch_again_s
        room = room_for_applications(
            me, store, DirectoryFile(settings.saes), metrics, limits=limits, fetch_again_s=again_s
        )
    control_key = key_bytes(settings.control_key)
    loop = assemble(
        me, store, links, control_key, broker, batch_s=BATCH_S, gather_s=GATHER_S, metrics=metrics, room=room
    )
    health = monitoring(metrics.registry, loop.health, remark=lambda: room.remark if room is not None else "")
    with (
        serving(health, settings.http, setting="QKDRELAY_HTTP"),
        _serving(settings, room, loop, metrics),
        _asking(lines, loop.wake),
    ):
        loop.run(stop)
