"""A KME's QKD links: sealing what leaves, opening what arrives, and what waits for key."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from kme.effects import Effect, LogEvent, SayHello, SendReport, SendShare
from kme.fairness import FairQueue, WaitingQuota, origin_of
from kme.hello_timer import HelloTimer
from kme.model import LATE_S
from kme.reporting import Reporting
from kme.store import KmeStore
from qkdrelay.broker.names import kme_exchange, link_queue, parse_link_queue
from qkdrelay.errors import ForgedMessageError, MalformedMessageError
from qkdrelay.link.envelope import seal, unseal
from qkdrelay.link.port import LinkKey
from qkdrelay.messages import codec
from qkdrelay.messages.control import SetLink
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.reports import Done, LinkReport, Waiting
from qkdrelay.network.key_cost import Suite, key_needed, pad_needed
from qkdrelay.network.names import link_name
from qkdrelay.network.whereabouts import BACKLOG, DROPPED, LINK_DOWN, NO_KEY
from qkdrelay.service.batch import Cell

BACKLOG_MAX, BACKLOG_BYTES_MAX = 500, 4 << 20
"""Sealed messages of one link, and their bytes, that the broker has not taken over; more wait unsealed."""
_SEAL_AT_ONCE = 100
LOOK_AGAIN_S = 0.2
"""How often what waits is looked at: links get key all the time."""


@dataclass(frozen=True)
class Link:
    """A QKD link as one of its ends sees it."""

    suite: Suite
    outgoing: LinkKey
    incoming: LinkKey


@dataclass(frozen=True, slots=True)
class Opened:
    """A share that came over a link, its seal verified."""

    sender: str
    header: ShareHeader
    payload: bytes = field(repr=False)
    is_new: bool
    """False if its number was taken before."""


@dataclass
class _Read:
    """What was read of the store in this transaction."""

    down: frozenset[str] | None = None
    quota: WaitingQuota | None = None

    def clear(self) -> None:
        self.down = self.quota = None


class Links:
    """Seals and opens for one KME; all that must last is in its store."""

    def __init__(
        self,
        name: str,
        links: Mapping[str, Link],
        store: KmeStore,
        reporting: Reporting,
        hello: HelloTimer,
    ) -> None:
        """``links`` maps each peer to the link with it."""
        self._me, self._links, self._store = name, links, store
        self._reporting, self._hello = reporting, hello
        self._journal, self._waiting, batch = store.journal, store.waiting, store.journal.batch
        self._read = batch.scratch(_Read())
        self._queues = {peer: FairQueue(batch) for peer in links}
        self._drawn: Counter[str] = batch.scratch(Counter())
        """Bytes of key taken in this transaction: the link has given them only once it is committed."""
        self._sealed: Counter[str] = batch.scratch(Counter())
        """Messages put into the outbox in this transaction."""
        self._any_waits = Cell(batch, value=True)

    def start(self) -> None:
        """Forget what was taken under other keys; before the first message is."""
        for peer, link in self._links.items():
            self._journal.seen.verified_under(f"link {peer}", link.incoming.mark())

    def wait_s(self) -> float:
        """Return in how many seconds to look again whether what waits can be sealed."""
        return LOOK_AGAIN_S if self._any_waits.value else math.inf

    def on_order(self, order: SetLink) -> list[Effect]:
        """Have a link stop or resume carrying."""
        if order.peer not in self._links:
            return [SendReport(Done(command=order, error=f"{self._me} has no link to {order.peer}"))]
        self._waiting.switch_link(order.peer, up=order.up)
        self._read.down = None
        fields: dict[str, object] = {"link": link_name(self._me, order.peer)}
        event = LogEvent("link.up" if order.up else "link.down", "warning", fields)
        return [SayHello(), event, SendReport(Done(command=order, error=""))]

    def take(self, queue: str, body: bytes) -> Opened:
        """Verify and decrypt a message from the queue of a link, and take its number.

        Raises MalformedMessageError or ForgedMessageError; either takes none.
        """
        sender, _ = parse_link_queue(queue)
        link = self._links.get(sender)
        sealed = codec.decode(body, SealedMessage)
        header = codec.decode(sealed.header, ShareHeader)
        if link is None or header.link != (sender, self._me):
            raise ForgedMessageError("the message was sealed for another link")
        if len(sealed.ciphertext) == 0:
            raise MalformedMessageError("the message has no body")
        payload = unseal(link.suite, header, sealed, link.incoming)
        is_new = self._journal.seen.take(f"link {sender}", header.epoch, header.number, sealed.tag)
        return Opened(sender, header, payload, is_new)

    def send(self, share: SendShare) -> None:
        """Seal a share into the outbox, or keep it waiting; one that cannot even wait is dropped, and reported."""
        peer = share.route[-1]
        if peer not in self._links:
            self._drop(share, f"there is no QKD link to {peer} any more")
            return
        link = self._links[peer]
        if key_needed(link.suite, len(share.payload)) > link.outgoing.capacity():
            self._drop(share, f"it takes more key than the link to {peer} can ever hold")
            return
        quota = self._read_quota()
        if not quota.origins(peer) and self._obstacle(peer, share) is None:
            self._seal(share)
        elif quota.is_full_for(share):
            self._drop(share, f"too many shares that came from {origin_of(share)} wait for their links")
        else:
            self._waiting.add(share, origin_of(share))
            self._any_waits.value = True
            quota.add(share)

    def _drop(self, share: SendShare, reason: str) -> None:
        self._reporting.note("share.dropped", "error", relay_id=share.relay_id, route=share.route, reason=reason)
        self._report_waiting(share, f"{DROPPED}{reason}")

    def _report_waiting(self, share: SendShare, reason: str) -> None:
        """Report for what reason a share waits; for none if it waits no more."""
        self._reporting.report(Waiting(relay_id=share.relay_id, route=share.route, reason=reason))

    def _read_quota(self) -> WaitingQuota:
        if self._read.quota is None:
            self._read.quota = WaitingQuota(self._waiting.sizes() if self._any_waits.value else ())
        return self._read.quota

    def _obstacle(self, peer: str, share: SendShare) -> str | None:
        """Return why nothing, or not this share, can be sealed for ``peer`` now."""
        if self._read.down is None:
            self._read.down = self._waiting.links_down()
        if peer in self._read.down:
            return LINK_DOWN
        messages, size = self._journal.outbox.backlog.of(link_queue(self._me, peer))
        if messages + self._sealed[peer] >= BACKLOG_MAX or size >= BACKLOG_BYTES_MAX:
            return BACKLOG
        link = self._links[peer]
        left = link.outgoing.available() - self._drawn[peer]
        return NO_KEY if left < key_needed(link.suite, len(share.payload)) else None

    def _seal(self, share: SendShare) -> None:
        """Draw number and pad in the transaction that keeps the sealed bytes: a crash reuses nothing."""
        peer, size, numbers = share.route[-1], len(share.payload), self._journal.numbers
        link = self._links[peer]
        header = ShareHeader(
            link=(self._me, peer),
            epoch=numbers.epoch,
            number=numbers.next(f"link {peer}"),
            pad_offset=numbers.next(f"pad {peer}", pad_needed(link.suite, size)),
            relay_id=share.relay_id,
            route=share.route,
            plan=encode_plan(share.plan),
            deadline=share.deadline,
        )
        sealed = seal(link.suite, header, share.payload, link.outgoing)
        self._drawn[peer] += key_needed(link.suite, size)
        self._sealed[peer] += 1
        self._journal.outbox.put(kme_exchange(self._me), link_queue(self._me, peer), sealed, share.deadline + LATE_S)
        self._reporting.note(
            "share.sent",
            "info",
            relay_id=share.relay_id,
            link=link_name(*share.route[-2:]),
            route=share.route,
            index=share.index,
            threshold=share.threshold,
            bytes=size,
        )

    def resume(self) -> None:
        """Seal what waits and can go now; report once of each share for what reason it waits."""
        if not self._any_waits.value:
            return
        peers = self._read_quota().peers()
        self._any_waits.value = bool(peers)
        for peer in peers:
            if peer not in self._links:
                continue  # a link that is gone: its shares expire
            reason = self._seal_waiting(peer)
            if reason is not None and (unreported := self._waiting.unreported(peer, reason, _SEAL_AT_ONCE)):
                self._hello.shorten()
                for waiting in unreported:
                    self._report_waiting(waiting.share, reason)
                self._waiting.note_reported([waiting.id for waiting in unreported], reason)

    def _seal_waiting(self, peer: str) -> str | None:
        """Seal what waits for one link, each origin in its turn; return what stopped it, if anything did."""
        order, gone = self._queues[peer], list[int]()
        queues = {origin: self._waiting.queue(peer, origin) for origin in self._read_quota().origins(peer)}
        heads = {origin: next(queue, None) for origin, queue in queues.items()}
        reason: str | None = None
        while len(gone) < _SEAL_AT_ONCE and (waiting := {origin: head for origin, head in heads.items() if head}):
            origin = order.next(waiting)
            share = waiting[origin].share
            reason = self._obstacle(peer, share)
            if reason is not None:
                break
            if waiting[origin].is_reported:
                self._report_waiting(share, "")
            self._seal(share)
            order.served(origin, key_needed(self._links[peer].suite, len(share.payload)))
            gone.append(waiting[origin].id)
            heads[origin] = next(queues[origin], None)
        self._waiting.remove(gone)
        return reason

    def report(self) -> tuple[LinkReport, ...]:
        """Return the outgoing direction of each link as it is now."""
        down, waiting = self._waiting.links_down(), self._waiting.counts()
        return tuple(
            LinkReport(
                peer=peer,
                up=peer not in down,
                available_bytes=link.outgoing.available(),
                buffer_bytes=link.outgoing.capacity(),
                rate_bps=link.outgoing.rate_bps(),
                waiting=waiting.get(peer, 0),
            )
            for peer, link in self._links.items()
        )

    def committed(self) -> Mapping[str, int]:
        """Take off each link what was drawn, and return it in bytes."""
        for peer, length in self._drawn.items():
            self._links[peer].outgoing.draw(length)
        return self._drawn
