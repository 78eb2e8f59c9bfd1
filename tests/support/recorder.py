"""Everything that goes over any QKD link, recorded at the broker: is any byte of link key used twice?

A queue of its own is bound to every KME's exchange, so it gets what the links' queues get, and the broker confirms
a message only once it has both. Stores and services are not asked.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pika
from pika.exceptions import AMQPError

from qkdrelay.broker.names import kme_exchange, link_queue
from qkdrelay.broker.rabbitmq.bundle import unpacked
from qkdrelay.messages import codec
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.network.names import Link, Route
from support.rabbitmq import RabbitMqServer
from support.waiting import eventually

QUEUE = "recorder"
_PREFETCH = 200
_RETRY_S = 0.5
_RECONNECTED_WITHIN_S = 60.0

Direction = tuple[str, str, bytes]
"""Sender, receiver and epoch: numbers and pad offsets count within it."""


@dataclass
class KeyUse:
    """What the recorded messages say about the key they were sealed with."""

    messages: int = 0
    """Different ones."""
    pad_bytes: int = 0
    published_again: int = 0
    """The same bytes, after a restart or a lost connection."""
    epochs: int = 0
    reused: list[str] = field(default_factory=list)
    """Each use of key that was used for another message: must be empty."""


class Ledger:
    """Keeps, for each message, where its key was and a digest of all of it."""

    def __init__(self) -> None:
        self._slots: dict[Direction, dict[int, bytes]] = defaultdict(dict)
        self._pads: dict[Direction, list[tuple[int, int]]] = defaultdict(list)
        self._use = KeyUse()
        self.routes: dict[UUID, set[Route]] = defaultdict(set)
        """The routes of each relay on which a share was seen."""

    def add(self, queue: str, body: bytes) -> None:
        """Note one message that went to the queue of a link."""
        sealed = codec.decode(body, SealedMessage)
        header = codec.decode(sealed.header, ShareHeader)
        if queue != f"link.{header.link[0]}.{header.link[1]}":
            self._use.reused.append(f"{queue} carried a message of link {'>'.join(header.link)}")
        direction = (*header.link, header.epoch)
        digest = hashlib.sha256(body).digest()
        slots = self._slots[direction]
        if header.number in slots:
            if slots[header.number] == digest:
                self._use.published_again += 1
            else:
                self._use.reused.append(f"slot {header.number} of {_named(direction)} was used for two messages")
            return
        slots[header.number] = digest
        self._pads[direction].append((header.pad_offset, len(sealed.ciphertext)))
        self._use.messages += 1
        self._use.pad_bytes += len(sealed.ciphertext)
        self.routes[header.relay_id].add(header.route)

    def use(self) -> KeyUse:
        """Return the findings so far."""
        self._use.epochs = len(self._slots)
        self._use.reused += self._overlaps()
        return self._use

    def _overlaps(self) -> Iterator[str]:
        for direction, pads in self._pads.items():
            end = 0
            for offset, length in sorted(pads):
                if offset < end:
                    yield f"pad {offset} to {end} of {_named(direction)} was used for two messages"
                end = max(end, offset + length)


def _named(direction: Direction) -> str:
    sender, receiver, epoch = direction
    return f"link {sender}>{receiver}, epoch {epoch.hex()}"


def with_recording(definitions: dict[str, Any], links: Iterable[Link]) -> dict[str, Any]:
    """Return a virtual host's definitions with the recording queue.

    Made together with all the others: a queue made seconds before RabbitMQ is killed may not come back whole.
    """
    vhost = definitions["vhosts"][0]["name"]
    queue = {"name": QUEUE, "vhost": vhost, "durable": True, "auto_delete": False}
    bindings = [
        {
            "source": kme_exchange(sender),
            "vhost": vhost,
            "destination": QUEUE,
            "destination_type": "queue",
            "routing_key": link_queue(sender, receiver),
            "arguments": {},
        }
        for sender, receiver in (way for a, b in links for way in ((a, b), (b, a)))
    ]
    return {
        **definitions,
        "queues": [*definitions["queues"], {**queue, "arguments": {"x-queue-type": "quorum"}}],
        "bindings": [*definitions["bindings"], *bindings],
    }


class Recorder:
    """Reads the recording queue in a thread of its own, over every restart of the broker."""

    def __init__(self, server: RabbitMqServer, vhost: str) -> None:
        """The virtual host's definitions must be `with_recording`."""
        self._server, self._vhost = server, vhost
        self.ledger = Ledger()
        self._stop, self._idle = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def finish(self) -> Ledger:
        """Return the ledger once nothing is left in the queue."""
        eventually(self._is_empty, timeout_s=_RECONNECTED_WITHIN_S, what="the recording to be read")
        self._stop.set()
        self._thread.join()
        return self.ledger

    def _is_empty(self) -> bool:
        if self._failure is not None:
            raise self._failure
        connection = self._connect()
        try:
            declared = connection.channel().queue_declare(QUEUE, passive=True).method
        finally:
            connection.close()
        return self._idle.is_set() and declared.message_count == 0

    def _connect(self) -> Any:
        server = self._server
        credentials = pika.PlainCredentials(*server.administrator)
        return pika.BlockingConnection(
            pika.ConnectionParameters(server.host, server.amqp_port, self._vhost, credentials)
        )

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                connection = self._connect()
                channel = connection.channel()
                channel.basic_qos(prefetch_count=_PREFETCH)
                for method, properties, body in channel.consume(QUEUE, inactivity_timeout=_RETRY_S):
                    if self._stop.is_set():
                        break
                    if method is None:
                        self._idle.set()
                        continue
                    self._idle.clear()
                    for message in unpacked(body, properties.content_type):
                        self.ledger.add(method.routing_key, message)
                    channel.basic_ack(method.delivery_tag)
                connection.close()
            except (AMQPError, OSError):
                time.sleep(_RETRY_S)  # the broker was killed
            except BaseException as error:  # reported by `finish`
                self._failure = error
                return
