"""A KME's QKD links: sealing what leaves, opening what arrives, and what waits for key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kme.effects import SendShare
from kme.store import KmeStore
from qkdrelay import codec
from qkdrelay.broker.names import kme_exchange, link_queue
from qkdrelay.errors import ForgedMessageError, MalformedMessageError
from qkdrelay.link.envelope import Suite, key_needed, pad_needed, seal, unseal
from qkdrelay.link.key import LinkKey
from qkdrelay.messages import LinkReport, SealedMessage, ShareHeader

WAITING_BYTES_MAX = 64 << 20
WAITING_MAX = 20_000
_SEAL_AT_ONCE = 500
LINK_DOWN, NO_KEY = "link.down", "link.key_exhausted"


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


class Links:
    """Seals and opens for one KME; all that must last is in its store."""

    def __init__(self, name: str, links: Mapping[str, Link], store: KmeStore) -> None:
        """``links`` maps each peer to the link with it."""
        self._me, self._links, self._store = name, links, store
        self._down: frozenset[str] | None = None
        self._waiting: set[str] | None = None

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

    def refresh(self) -> None:
        """Forget what was read of the store: a transaction begins or was undone."""
        self._down = self._waiting = None

    def send(self, share: SendShare) -> bool:
        """Seal a share into the outbox and return True, or keep it waiting and return False."""
        peer = share.route[-1]
        if self._waiting is None:
            self._waiting = set(self._store.waiting())
        if peer in self._waiting or self._obstacle(peer, share) is not None:
            if sum(self._store.waiting().values()) >= WAITING_MAX or self._store.waiting_bytes() >= WAITING_BYTES_MAX:
                raise OverflowError("too many shares wait for their links")
            self._store.wait(share)
            self._waiting.add(peer)
            return False
        self._seal(share)
        return True

    def _obstacle(self, peer: str, share: SendShare) -> str | None:
        if self._down is None:
            self._down = self._store.links_down()
        if peer in self._down:
            return LINK_DOWN
        link = self._links[peer]
        return NO_KEY if link.outgoing.available() < key_needed(link.suite, len(share.payload)) else None

    def _seal(self, share: SendShare) -> None:
        """Draw number and pad in the transaction that keeps the sealed bytes: a crash reuses nothing."""
        peer = share.route[-1]
        link = self._links[peer]
        pad = pad_needed(link.suite, len(share.payload))
        header = ShareHeader(
            link=(self._me, peer),
            epoch=self._store.epoch,
            number=self._store.next_number(f"link {peer}"),
            pad_offset=self._store.next_number(f"pad {peer}", pad),
            relay_id=share.relay_id,
            route=share.route,
            plan=codec.encode_plan(share.plan),
            deadline=share.deadline,
        )
        sealed = seal(link.suite, header, share.payload, link.outgoing)
        link.outgoing.draw(key_needed(link.suite, len(share.payload)))
        self._store.enqueue(kme_exchange(self._me), link_queue(self._me, peer), sealed)

    def resume(self, on_sent: Callable[[SendShare], None], on_stuck: Callable[[SendShare, str], None]) -> None:
        """Seal what waits and can go now; call ``on_stuck`` once for each share and reason."""
        for peer in self._waiting if self._waiting is not None else self._store.waiting():
            gone: list[int] = []
            stuck: dict[str, list[int]] = {}
            for waiting in self._store.waiting_for(peer, _SEAL_AT_ONCE):
                reason = self._obstacle(peer, waiting.share) if not stuck else next(iter(stuck))
                if reason is None:
                    self._seal(waiting.share)
                    gone.append(waiting.id)
                    on_sent(waiting.share)
                else:
                    ids = stuck.setdefault(reason, [])
                    if waiting.told != reason:
                        ids.append(waiting.id)
                        on_stuck(waiting.share, reason)
            self._store.wait_no_more(gone)
            for reason, ids in stuck.items():
                self._store.told(ids, reason)

    def report(self) -> tuple[LinkReport, ...]:
        """Return the outgoing direction of each link as it is now."""
        down, waiting = self._store.links_down(), self._store.waiting()
        return tuple(
            LinkReport(
                peer=peer,
                up=peer not in down,
                available_bytes=link.outgoing.available(),
                waiting=waiting.get(peer, 0),
            )
            for peer, link in self._links.items()
        )
