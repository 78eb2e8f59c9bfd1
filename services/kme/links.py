"""A KME's QKD links: sealing what leaves, opening what arrives, and what waits for key."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kme.effects import SendShare
from kme.fairness import FairQueue, WaitingQuota, origin
from kme.forwarding import LATE_S
from kme.store import KmeStore, WaitingShare
from qkdrelay.broker.names import kme_exchange, link_queue
from qkdrelay.errors import ForgedMessageError, MalformedMessageError
from qkdrelay.link.envelope import seal, unseal
from qkdrelay.link.port import LinkKey
from qkdrelay.messages import codec
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.reports import LinkReport
from qkdrelay.network.key_cost import Suite, key_needed, pad_needed
from qkdrelay.network.whereabouts import BACKLOG, LINK_DOWN, NO_KEY
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


@dataclass(frozen=True)
class Opened:
    """A message from a link, its seal verified."""

    sender: str
    header: ShareHeader
    payload: bytes
    tag: bytes

    @property
    def stream(self) -> str:
        """What its number belongs to."""
        return f"link {self.sender}"

    def __repr__(self) -> str:
        return f"Opened(sender={self.sender!r}, number={self.header.number}, {len(self.payload)} bytes)"


@dataclass
class _Read:
    """What was read of the store in this transaction."""

    down: frozenset[str] | None = None
    room: WaitingQuota | None = None

    def clear(self) -> None:
        self.down = self.room = None


class Links:
    """Seals and opens for one KME; all that must last is in its store."""

    def __init__(self, name: str, links: Mapping[str, Link], store: KmeStore) -> None:
        """``links`` maps each peer to the link with it."""
        self._me, self._links, self._store = name, links, store
        batch = store.journal.batch
        self._read = batch.scratch(_Read())
        self._turns = {peer: FairQueue(batch) for peer in links}
        self._drawn: Counter[str] = batch.scratch(Counter())
        """Bytes of key taken in this transaction: the link has given them only once it is committed."""
        self._sealed: Counter[str] = batch.scratch(Counter())
        """Messages put into the outbox in this transaction."""
        self._any_waits = Cell(batch, value=True)

    def wait_s(self) -> float:
        """Return in how many seconds to look again whether what waits can be sealed."""
        return LOOK_AGAIN_S if self._any_waits.value else math.inf

    def open(self, sender: str, body: bytes) -> Opened:
        """Verify and decrypt a message from the link with ``sender``.

        Raises MalformedMessageError or ForgedMessageError; either finishes no number.
        """
        link = self._links.get(sender)
        sealed = codec.decode(body, SealedMessage)
        header = codec.decode(sealed.header, ShareHeader)
        if link is None or header.link != (sender, self._me):
            raise ForgedMessageError("the message was sealed for another link")
        if len(sealed.ciphertext) == 0:
            raise MalformedMessageError("the message has no body")
        payload = unseal(link.suite, header, sealed, link.incoming)
        return Opened(sender, header, payload, sealed.tag)

    def committed(self) -> dict[str, int]:
        """Take off each link what was drawn, and return it in bytes."""
        drawn = dict(self._drawn)
        for peer, length in drawn.items():
            self._links[peer].outgoing.draw(length)
        return drawn

    def send(self, share: SendShare) -> bool:
        """Seal a share into the outbox and return True, or keep it waiting and return False.

        Raises OverflowError for a share that cannot even wait.
        """
        peer = share.route[-1]
        if peer not in self._links:
            raise OverflowError(f"there is no QKD link to {peer} any more")
        link = self._links[peer]
        if key_needed(link.suite, len(share.payload)) > link.outgoing.capacity():
            raise OverflowError(f"it takes more key than the link to {peer} can ever hold")
        room = self._read_room()
        if room.origins(peer) or self._obstacle(peer, share) is not None:
            if room.is_full_for(share):
                raise OverflowError(f"too many shares that came from {origin(share)} wait for their links")
            self._store.wait(share, origin(share))
            self._any_waits.value = True
            room.add(share)
            return False
        self._seal(share)
        return True

    def _read_room(self) -> WaitingQuota:
        if self._read.room is None:
            self._read.room = WaitingQuota(self._store.waiting_room() if self._any_waits.value else ())
        return self._read.room

    def _obstacle(self, peer: str, share: SendShare) -> str | None:
        """Return why nothing, or not this share, can be sealed for ``peer`` now."""
        if self._read.down is None:
            self._read.down = self._store.links_down()
        if peer in self._read.down:
            return LINK_DOWN
        messages, size = self._store.journal.outbox.backlog.of(link_queue(self._me, peer))
        if messages + self._sealed[peer] >= BACKLOG_MAX or size >= BACKLOG_BYTES_MAX:
            return BACKLOG
        link = self._links[peer]
        left = link.outgoing.available() - self._drawn[peer]
        return NO_KEY if left < key_needed(link.suite, len(share.payload)) else None

    def _seal(self, share: SendShare) -> None:
        """Draw number and pad in the transaction that keeps the sealed bytes: a crash reuses nothing."""
        peer = share.route[-1]
        link = self._links[peer]
        pad = pad_needed(link.suite, len(share.payload))
        header = ShareHeader(
            link=(self._me, peer),
            epoch=self._store.journal.numbers.epoch,
            number=self._store.journal.numbers.next(f"link {peer}"),
            pad_offset=self._store.journal.numbers.next(f"pad {peer}", pad),
            relay_id=share.relay_id,
            route=share.route,
            plan=encode_plan(share.plan),
            deadline=share.deadline,
        )
        sealed = seal(link.suite, header, share.payload, link.outgoing)
        self._drawn[peer] += key_needed(link.suite, len(share.payload))
        self._sealed[peer] += 1
        self._store.journal.outbox.put(
            kme_exchange(self._me), link_queue(self._me, peer), sealed, share.deadline + LATE_S
        )

    def resume(self, on_sent: Callable[[WaitingShare], None], on_stuck: Callable[[SendShare, str], None]) -> None:
        """Seal what waits and can go now; call ``on_stuck`` once for each share and reason."""
        if not self._any_waits.value:
            return
        peers = self._read_room().peers()
        self._any_waits.value = bool(peers)
        for peer in peers:
            if peer not in self._links:
                continue  # a link that is gone: its shares expire
            reason = self._seal_waiting(peer, on_sent)
            if reason is not None:
                untold = self._store.waiting_untold(peer, reason, _SEAL_AT_ONCE)
                for waiting in untold:
                    on_stuck(waiting.share, reason)
                self._store.told([waiting.id for waiting in untold], reason)

    def _seal_waiting(self, peer: str, on_sent: Callable[[WaitingShare], None]) -> str | None:
        """Seal what waits for one link, each origin in its turn; return what stopped it, if anything did."""
        turns, gone = self._turns[peer], list[int]()
        queues = {whose: self._store.waiting_for(peer, whose) for whose in self._read_room().origins(peer)}
        heads = {whose: next(queue, None) for whose, queue in queues.items()}
        reason: str | None = None
        while len(gone) < _SEAL_AT_ONCE and (waiting := {whose: head for whose, head in heads.items() if head}):
            whose = turns.next(waiting)
            share = waiting[whose].share
            reason = self._obstacle(peer, share)
            if reason is not None:
                break
            self._seal(share)
            turns.served(whose, key_needed(self._links[peer].suite, len(share.payload)))
            gone.append(waiting[whose].id)
            on_sent(waiting[whose])
            heads[whose] = next(queues[whose], None)
        self._store.wait_no_more(gone)
        return reason

    def report(self) -> tuple[LinkReport, ...]:
        """Return the outgoing direction of each link as it is now."""
        down, waiting = self._store.links_down(), self._store.waiting()
        return tuple(
            LinkReport(
                peer=peer,
                up=peer not in down,
                available_bytes=link.outgoing.available(),
                buffer_bytes=link.outgoing.capacity(),
                waiting=waiting.get(peer, 0),
            )
            for peer, link in self._links.items()
        )
