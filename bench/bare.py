"""The bare chain: a process for each KME that passes messages along a plan. No cryptography, no store, no decisions.

With ``control``, a process in the coordinator's place sends and gets eight control messages for each relay, in the
order in which the real one must: expect, expected, start, rebuilt, and to and from both ends prove and verified.
"""

from __future__ import annotations

import multiprocessing
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import pika

from bench.peer import Peer, window
from qkdrelay.broker.names import COORD_EXCHANGE, control_queue, kme_exchange, kme_queues, link_queue, results_queue
from qkdrelay.network.plan import Plan
from qkdrelay.network.topology import Topology

_HEAD = struct.Struct("!BId")
"""Kind, number of the relay, when it was asked for (monotonic clock, which all processes share)."""
SHARE, EXPECT, EXPECTED, START, REBUILT, PROVE, VERIFIED = range(7)
CONTROL_BYTES = 200
Times = list[tuple[float, float]]
"""When each relay began and ended, in seconds of the monotonic clock."""
COORDINATOR = "coordinator"


@dataclass(frozen=True)
class Way:
    """How the chain is made where it could be made otherwise; as it is by default (`bench.chains` compares)."""

    control: bool = False
    default_exchange: bool = False
    """Publish by the default exchange, which knows each queue by its name, and asks for no permission of one's own."""
    pikas_streams: bool = False
    """Read and write as pika does by itself."""


def _node(me: str, plan: Plan, parameters: Any, queues: list[str], size: int, pipe: Connection, way: Way) -> None:
    """Be the KME ``me`` or the coordinator until the pipe says None; (relays, per second or None) starts relays."""
    exchange = "" if way.default_exchange else COORD_EXCHANGE if me == COORDINATOR else kme_exchange(me)
    successors = plan.successors(me)
    counts: Counter[int] = Counter()

    def tell(kme: str, kind: int, relay: int, at: float) -> None:
        key = results_queue(me) if kme == COORDINATOR else control_queue(kme)
        peer.publish(exchange, key, _HEAD.pack(kind, relay, at).ljust(CONTROL_BYTES, b"."))

    def deal(relay: int, at: float) -> None:
        pass_on(_HEAD.pack(SHARE, relay, at).ljust(size, b"."))

    def pass_on(body: bytes) -> None:
        for successor in successors:
            peer.publish(exchange, link_queue(me, successor), body)

    def begin(relay: int, at: float) -> None:
        if way.control:
            tell(plan.target, EXPECT, relay, at)
        else:
            deal(relay, at)

    def done(at: float) -> None:
        pipe.send((at, time.monotonic()))

    def on_message(_peer: Peer, _queue: str, body: bytes) -> None:
        kind, relay, at = _HEAD.unpack_from(body)
        if kind == SHARE and me != plan.target:
            pass_on(body)
        elif kind == SHARE:
            counts[relay] += 1
            if counts[relay] == plan.final_shares:
                del counts[relay]
                if way.control:
                    tell(COORDINATOR, REBUILT, relay, at)
                else:
                    done(at)
        elif kind == EXPECT:
            tell(COORDINATOR, EXPECTED, relay, at)
        elif kind == EXPECTED:
            tell(plan.source, START, relay, at)
        elif kind == START:
            deal(relay, at)
        elif kind == REBUILT:
            tell(plan.source, PROVE, relay, at)
            tell(plan.target, PROVE, relay, at)
        elif kind == PROVE:
            tell(COORDINATOR, VERIFIED, relay, at)
        elif kind == VERIFIED:
            counts[relay] += 1
            if counts[relay] == 2:
                del counts[relay]
                done(at)

    peer = Peer(parameters, queues, on_message, in_flight=window(size), pikas_streams=way.pikas_streams)
    peer.on_ready = lambda: pipe.send("ready")

    def listen() -> None:
        while (order := pipe.recv()) is not None:
            relays, rate = order
            if rate is None:
                peer.loop.add_callback_threadsafe(lambda n=relays: [begin(i, time.monotonic()) for i in range(n)])
            else:
                first = time.monotonic()
                for relay in range(relays):
                    time.sleep(max(0.0, first + relay / rate - time.monotonic()))
                    peer.loop.add_callback_threadsafe(lambda i=relay: begin(i, time.monotonic()))
        peer.loop.add_callback_threadsafe(peer.loop.stop)

    threading.Thread(target=listen, daemon=True).start()
    peer.run()


class Bare:
    """A running bare chain."""

    def __init__(self, begins: Connection, ends: Connection) -> None:
        self._begins, self._ends = begins, ends

    def relay(self, relays: int, per_second: float | None = None) -> Times:
        """Run ``relays`` relays, all at once or so many per second; return (begun, ended) of each, in seconds."""
        self._begins.send((relays, per_second))
        return [self._ends.recv() for _ in range(relays)]


@contextmanager
def running(host: Any, topology: Topology, plan: Plan, size: int, way: Way) -> Iterator[Bare]:
    """Run the chain with messages of ``size`` bytes on a virtual host that has the definitions of ``topology``."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in (*topology.kmes, *([COORDINATOR] if way.control else [])):
        if name == COORDINATOR:
            queues = [results_queue(kme) for kme in topology.kmes]
        else:
            queues = list(kme_queues(name, topology.links))
        parameters = pika.ConnectionParameters(
            host.server.host, host.server.amqp_port, host.vhost, pika.PlainCredentials(name, host.passwords[name])
        )
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=_node, args=(name, plan, parameters, queues, size, theirs, way))
        process.start()
        processes.append(process)
    for pipe in pipes.values():
        assert pipe.recv() == "ready"
    begins, ends = (COORDINATOR, COORDINATOR) if way.control else (plan.source, plan.target)
    try:
        yield Bare(pipes[begins], pipes[ends])
    finally:
        for pipe in pipes.values():
            pipe.send(None)
        for process in processes:
            process.join(10)
            process.kill()
