"""The composition root of a KME: its parts, put together in one place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from kme.links import Link
from kme.metrics import KmeMetrics
from kme.model import NodeSettings
from kme.service import KmeService
from kme.settings import KmeSettings
from kme.store import KmeStore, open_kme_store
from kme.supply.room import Room
from qkdrelay.broker.names import kme_queues
from qkdrelay.broker.port import Broker
from qkdrelay.broker.rabbitmq import RabbitMqBroker
from qkdrelay.link.simulated import SimulatedLinkKey
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


def run() -> None:
    """Run the KME that the environment describes until SIGTERM."""
    stop = prepare_process()
    settings = load(KmeSettings)
    set_up_logging(settings.log_format, settings.log_level)
    name = settings.kme
    links = {
        peer: Link(
            link.suite,
            *(
                SimulatedLinkKey(
                    key_bytes(link.secret),
                    *ends,
                    rate_bps=link.rate_bps,
                    buffer_bytes=link.buffer_bytes,
                    clock=time.monotonic,
                )
                for ends in ((name, peer), (peer, name))
            ),
        )
        for peer, link in settings.links.items()
    }
    store = open_kme_store(settings.store, name)
    me = NodeSettings(name, frozenset(links), settings.withstand_compromised, settings.lab)
    broker = RabbitMqBroker(settings.rabbitmq(name, kme_queues(name, [(name, peer) for peer in links])))
    loop = assemble(me, store, links, key_bytes(settings.control_key), broker, batch_s=BATCH_S, gather_s=GATHER_S)
    health = monitoring(loop.service.metrics.registry, loop.health)
    with serving(health, settings.http, setting="QKDRELAY_HTTP"):
        loop.run(stop)
