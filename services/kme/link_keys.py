"""The key of a KME's QKD links: has both ends agree on blocks of it, and says how things are with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from kme.blocks.ahead import Needed
from kme.blocks.exchange import BlockExchange
from kme.blocks.holding import Holding
from kme.blocks.source import KeySource
from kme.blocks.turn_taking import AnyTime, TurnTaking
from kme.reporting import Reporting
from kme.store import KmeStore
from qkdrelay.broker.names import kme_exchange, link_queue, parse_link_queue
from qkdrelay.errors import ForgedMessageError
from qkdrelay.link.blocks.sender import SealingKey
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import RUN_BYTES, Announce, BlocksHeld
from qkdrelay.messages.reports import LinkKeyReport
from qkdrelay.network.key_cost import Suite
from qkdrelay.network.names import link_name
from qkdrelay.randomness import random_bytes
from qkdrelay.service.allowance import Allowance
from qkdrelay.service.batch import BatchDict, Cell

DRY_S = 30.0
"""Seconds without key to be had after which the alarm is raised."""
_ABOUT_BLOCKS_PER_S = 200.0
"""Messages about blocks of one link that are looked at; who has the broker can make as many as it likes."""


@dataclass(frozen=True)
class Link:
    """A QKD link as one of its ends sees it."""

    suite: Suite
    source: KeySource
    turns: Callable[[], TurnTaking] = AnyTime
    """Makes what says when its device may draw, at each start."""


@dataclass(frozen=True, slots=True)
class _Dry:
    """A link that there is no key for."""

    why: str
    since: float
    is_told: bool
    """Whether the alarm was raised."""


class LinkKeys:
    """The key of all links of one KME."""

    def __init__(self, name: str, links: Mapping[str, Link], store: KmeStore, reporting: Reporting) -> None:
        """``links`` maps each peer to the link with it."""
        self._me, self._links, self._journal, self._reporting = name, links, store.journal, reporting
        batch, run = store.journal.batch, random_bytes(RUN_BYTES)
        self._exchanges = {
            peer: BlockExchange(
                (name, peer),
                link.suite,
                link.source,
                store.held_keys,
                journal=store.journal,
                random=random_bytes,
                run=run,
                turns=link.turns(),
                tell=partial(self._given_up, peer),
            )
            for peer, link in links.items()
        }
        self._epoch = Cell(batch, b"")
        """Of this service, while what is granted was granted."""
        self._allowed = {peer: Allowance(batch, _ABOUT_BLOCKS_PER_S) for peer in links}
        self._dry: dict[str, _Dry] = BatchDict(batch)
        """By peer."""
        self._now = 0.0

    def take(self, queue: str, body: bytes, now: float) -> bool:
        """Take a message about blocks of key, if it is one and there are not too many; else return False.

        Raises MalformedMessageError or ForgedMessageError.
        """
        is_announce = codec.is_of(body, Announce)
        if not is_announce and not codec.is_of(body, BlocksHeld):
            return False
        sender, _ = parse_link_queue(queue)
        exchange = self._exchanges.get(sender)
        if exchange is None:
            raise ForgedMessageError("the message is of another link")
        if is_announce:
            handle = partial(exchange.on_announce, codec.decode(body, Announce), now)
        else:
            handle = partial(exchange.on_held, codec.decode(body, BlocksHeld), now)
        if self._allowed[sender].take(now):
            handle()
        return True

    def receiving(self, sender: str) -> Holding:
        """Return what is had of the key of ``sender``."""
        return self._exchanges[sender].receiving

    def draw(self, peer: str, pad: int) -> SealingKey | None:
        """Take key for a message to ``peer`` with so many bytes of pad, for good; None if there is too little."""
        self._drop_if_reconnected()
        return self._exchanges[peer].sending.draw(pad)

    def _drop_if_reconnected(self) -> None:
        """Drop what is granted if this is another start, or messages leave on another connection.

        A machine that was copied while it ran, and goes on twice, has a new connection at least once.
        """
        epoch = self._journal.numbers.epoch
        if epoch != self._epoch.value:
            for exchange in self._exchanges.values():
                exchange.reconnected(self._now)
            self._epoch.value = epoch

    def tick(self, needed: Callable[[str], Needed], now: float) -> None:
        """Say what there is to be said; ``needed`` is the key that messages to a peer wait for."""
        self._now = now
        self._drop_if_reconnected()
        for peer, exchange in self._exchanges.items():
            for message in exchange.tick(needed(peer), now):
                body = codec.encode(message)
                self._journal.outbox.publish_once(kme_exchange(self._me), link_queue(self._me, peer), body)
            if peer in self._dry or not exchange.sending.is_settled:
                self._note_if_dry(peer)

    def _note_if_dry(self, peer: str) -> None:
        """Say when there is no key to be had any more, raise the alarm if that lasts, and say when there is again."""
        sending, link = self._exchanges[peer].sending, link_name(self._me, peer)
        why, dry = sending.why_dry(self._now), self._dry.get(peer)
        if not why:
            if dry is not None:
                del self._dry[peer]
                self._reporting.note("link.key_back", "info", link=link)
            return
        if dry is None:
            self._reporting.note("link.key_dry", "warning", link=link, reason=why)
        since, is_told = (self._now, False) if dry is None else (dry.since, dry.is_told)
        # Of an end that does not answer the coordinator hears nothing either.
        if not is_told and abs(self._now - since) >= DRY_S and sending.why_source_is_dry(self._now):
            is_told = True
            self._reporting.alarm("link.key_dry", link, why, self._now)
        if (now_dry := _Dry(why, since, is_told)) != dry:
            self._dry[peer] = now_dry

    def _given_up(self, peer: str, why: str) -> None:
        self._reporting.note("link.key_given_up", "warning", link=link_name(self._me, peer), reason=why)

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is to be said."""
        return min((exchange.wait_s(now) for exchange in self._exchanges.values()), default=math.inf)

    def why_waiting(self, peer: str, now: float) -> str | None:
        """Return for what reason messages wait for key; None while it is about to be granted."""
        return self._exchanges[peer].sending.why_nothing_is_granted(now)

    def available(self, peer: str) -> int:
        """Return how many bytes messages to ``peer`` can have, as far as that is known."""
        return self._exchanges[peer].sending.available()

    def report(self, peer: str) -> LinkKeyReport:
        """Return how things are with the key for messages to ``peer``."""
        counts = self._exchanges[peer].sending.counts
        return LinkKeyReport(
            source=self._links[peer].source.kind,
            blocks_granted=counts.granted,
            blocks_given_up=counts.given_up,
            why_given_up=counts.why,
            why_dry=self._dry[peer].why if peer in self._dry else "",
        )

    def committed(self) -> None:
        """Have the sources forget what this batch has held."""
        for exchange in self._exchanges.values():
            exchange.committed()
