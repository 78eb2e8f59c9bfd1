"""Everything that goes over any QKD link, recorded at the broker: is any byte of link key used twice?

A queue of its own is bound to the exchange of every KME there, so it gets what the links' queues get, and the broker
confirms a message only once it has both. Stores and services are not asked. Of a network of sites each broker has one.
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
from qkdrelay.link.blocks.content import pad_bytes
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Announce, BlocksHeld, Facts
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.network.names import OPERATOR, Link, Route
from support.waiting import eventually

QUEUE = "recorder"
_PREFETCH = 200
_RETRY_S = 0.5
_RECONNECTED_WITHIN_S = 60.0

Block = tuple[str, str, bytes]
"""Sender, receiver and the block's id: slots and pad are addressed within it."""


@dataclass
class KeyUse:
    """What the recorded messages say about the key they were sealed with."""

    messages: int = 0
    """Sealed ones, different from each other."""
    pad_bytes: int = 0
    published_again: int = 0
    """The same bytes, after a restart or a lost connection."""
    blocks: int = 0
    """That something was sealed under."""
    about_blocks: int = 0
    """Messages about blocks: they are no shares, and seal nothing."""
    reused: list[str] = field(default_factory=list)
    """Each use of key that was used for another message, or for something else: must be empty."""


class Ledger:
    """Keeps, for each message, where its key was and a digest of all of it; of each block what it was said to be.

    Several threads may write into it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: dict[Block, dict[int, bytes]] = defaultdict(dict)
        self._pads: dict[Block, list[tuple[int, int]]] = defaultdict(list)
        self._facts: dict[Block, Facts] = {}
        self._block_of: dict[str, Block] = {}
        """By the ids of a device's keys."""
        self._use = KeyUse()
        self.routes: dict[UUID, set[Route]] = defaultdict(set)
        """The routes of each relay on which a share was seen."""

    def add(self, queue: str, body: bytes) -> None:
        """Note one message that went to the queue of a link."""
        with self._lock:
            self._add(queue, body)

    def _add(self, queue: str, body: bytes) -> None:
        if codec.is_of(body, Announce):
            self._announced(queue, codec.decode(body, Announce).facts)
        elif codec.is_of(body, BlocksHeld):
            self._is_in(queue, codec.decode(body, BlocksHeld).link[::-1])
            self._use.about_blocks += 1
        else:
            self._sealed(queue, body)

    def _is_in(self, queue: str, link: Link) -> None:
        if queue != link_queue(*link):
            self._use.reused.append(f"{queue} carried a message of link {'>'.join(link)}")

    def _announced(self, queue: str, facts: Facts) -> None:
        self._is_in(queue, facts.link)
        self._use.about_blocks += 1
        block = (*facts.link, facts.block)
        if self._facts.setdefault(block, facts) != facts:
            self._use.reused.append(f"{_named(block)} was announced as two")
        for key_id in facts.key_ids:
            if self._block_of.setdefault(key_id.lower(), block) != block:
                self._use.reused.append(f"a key of {_named(block)} is another block's")

    def _sealed(self, queue: str, body: bytes) -> None:
        sealed = codec.decode(body, SealedMessage)
        header = codec.decode(sealed.header, ShareHeader)
        self._is_in(queue, header.link)
        digest, index = hashlib.sha256(body).digest(), header.slot.index
        block = (*header.link, header.slot.block)
        slots = self._slots[block]
        if index in slots:
            if slots[index] == digest:
                self._use.published_again += 1
            else:
                self._use.reused.append(f"slot {index} of {_named(block)} was used for two messages")
            return
        slots[index] = digest
        for piece in header.pad:
            self._pads[(*header.link, piece.block)].append((piece.offset, piece.length))
        self._use.messages += 1
        self._use.pad_bytes += sum(piece.length for piece in header.pad)
        self.routes[header.relay_id].add(header.route)

    def use(self) -> KeyUse:
        """Return the findings so far."""
        self._use.blocks = len(self._slots.keys() | self._pads.keys())
        self._use.reused += [*self._overlaps(), *self._beyond()]
        return self._use

    def _overlaps(self) -> Iterator[str]:
        for block, pads in self._pads.items():
            end = 0
            for offset, length in sorted(pads):
                if offset < end:
                    yield f"pad {offset} to {end} of {_named(block)} was used for two messages"
                end = max(end, offset + length)

    def _beyond(self) -> Iterator[str]:
        """Yield what a block does not have by its announcement: there a byte of key would be two things."""
        for block, facts in self._facts.items():
            if any(index >= facts.slots for index in self._slots.get(block, ())):
                yield f"{_named(block)} has {facts.slots} slots, and another one was used"
            if any(offset + length > pad_bytes(facts) for offset, length in self._pads.get(block, ())):
                yield f"{_named(block)} has {pad_bytes(facts)} bytes of pad, and others were used"


def _named(block: Block) -> str:
    sender, receiver, name = block
    return f"link {sender}>{receiver}, block {name.hex()}"


def with_recording(definitions: dict[str, Any], links: Iterable[Link]) -> dict[str, Any]:
    """Return a virtual host's definitions with the recording queue, which the operator may read.

    Made together with all the others: a queue made seconds before RabbitMQ is killed may not come back whole.
    """
    vhost = definitions["vhosts"][0]["name"]
    exchanges = {exchange["name"] for exchange in definitions["exchanges"]}
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
        if kme_exchange(sender) in exchanges
    ]
    reads = {"read": f"^{QUEUE}$"}
    return {
        **definitions,
        "permissions": [
            granted | (reads if granted["user"] == OPERATOR else {}) for granted in definitions["permissions"]
        ],
        "queues": [*definitions["queues"], {**queue, "arguments": {"x-queue-type": "quorum"}}],
        "bindings": [*definitions["bindings"], *bindings],
    }


class Recorder:
    """Reads the recording queue in a thread of its own, over every restart of the broker."""

    def __init__(self, way: pika.ConnectionParameters, ledger: Ledger) -> None:
        """``way`` is the operator's; the virtual host's definitions must be `with_recording`."""
        self._way, self._ledger = way, ledger
        self._stop, self._idle = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """End once nothing is left in the queue."""
        eventually(self._is_empty, timeout_s=_RECONNECTED_WITHIN_S, what="the recording to be read")
        self._stop.set()
        self._thread.join()

    def _is_empty(self) -> bool:
        if self._failure is not None:
            raise self._failure
        connection = pika.BlockingConnection(self._way)
        try:
            declared = connection.channel().queue_declare(QUEUE, passive=True).method
        finally:
            connection.close()
        return self._idle.is_set() and declared.message_count == 0

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                connection = pika.BlockingConnection(self._way)
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
                        self._ledger.add(method.routing_key, message)
                    channel.basic_ack(method.delivery_tag)
                connection.close()
            except (AMQPError, OSError):
                time.sleep(_RETRY_S)  # the broker was killed
            except BaseException as error:  # reported by `finish`
                self._failure = error
                return
