"""A compromised KME on the real broker, in its container's place: its own secrets and links, the coalition's mind."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

from attack.coalition import Coalition
from attack.sealed import Compromised, readable, send_late
from kme.blocks.computed import ComputedSource
from kme.bootstrap import assemble
from kme.link_keys import Link
from kme.model import NodeSettings
from kme.store import open_kme_store
from qkdrelay.broker.names import kme_queues
from qkdrelay.broker.rabbitmq import RabbitMqBroker
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings


@contextmanager
def in_the_place_of(stack: Any, kme: str, coalition: Coalition) -> Iterator[None]:
    """Stop the container of ``kme`` and do its work here, as ``coalition`` decides; start it again at the end."""
    container = stack.containers[kme]
    container.stop(timeout=15)
    settings = dict(entry.split("=", 1) for entry in container.attrs["Config"]["Env"])
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(_work, stack, kme, settings, coalition, stop)
        try:
            yield
        finally:
            stop.set()
            try:
                work.result(30)
            finally:
                container.start()


def _work(stack: Any, kme: str, settings: dict[str, str], coalition: Coalition, stop: threading.Event) -> None:
    links = {
        peer: Link("otp", _source(link["secret"], kme, peer))
        for peer, link in json.loads(settings["QKDRELAY_LINKS"]).items()
    }
    store, control_key = open_kme_store(None, kme), bytes.fromhex(settings["QKDRELAY_CONTROL_KEY"])
    queues = kme_queues(kme, stack.topology.links)
    password, addresses = stack.passwords[kme], stack.server.addresses
    way = RabbitMqSettings(addresses=addresses, user=kme, password=password, vhost=stack.vhost, queues=queues)
    store.waiting.add = readable(store.waiting.add)
    loop = assemble(NodeSettings(kme, frozenset(links)), store, links, control_key, RabbitMqBroker(way))
    loop.service.forwarding = Compromised(coalition, kme)
    with closing(loop):
        while not stop.is_set():
            if not loop.step(0.2):
                for _, shares in coalition.later():
                    send_late(loop, kme, coalition, shares)


def _source(secret: str, kme: str, peer: str) -> ComputedSource:
    return ComputedSource(
        bytes.fromhex(secret), kme, peer, rate_bps=10_000_000, buffer_bytes=1 << 24, clock=time.monotonic
    )
