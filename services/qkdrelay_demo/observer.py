"""An onlooker at the broker: it sees share messages go by, sealed, and what the KMEs report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar
from uuid import UUID

from qkdrelay.broker.memory import MemoryClient, MemoryHub
from qkdrelay.broker.names import kme_exchange, link_queue
from qkdrelay.client import REPORTS, reported
from qkdrelay.messages import codec
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.messages.reports import Collected, Confirmed, Forwarded, Rebuilt, Report, Split, Waiting
from qkdrelay.network.names import Link, Route

AboutRelay = Split | Forwarded | Waiting | Collected | Rebuilt | Confirmed
_Kind = TypeVar("_Kind", bound=AboutRelay)


class Observer:
    """Takes a copy of every message on a QKD link and of every report; call `look` to take in what has come."""

    def __init__(self, hub: MemoryHub, links: Iterable[Link]) -> None:
        self._client = MemoryClient(hub, watch=REPORTS)
        for sender, receiver in (way for a, b in links for way in ((a, b), (b, a))):
            hub.bind(kme_exchange(sender), link_queue(sender, receiver), self._client.address)
        self._carried: defaultdict[UUID, dict[bytes, Route]] = defaultdict(dict)
        self._reports: defaultdict[UUID, list[tuple[str, AboutRelay]]] = defaultdict(list)

    def look(self) -> None:
        """Take in everything that has passed since the last look."""
        while (message := self._client.receive(0.0)) is not None:
            _, routing_key, body = message
            if routing_key.startswith("link."):
                self._see_share(body)
            else:
                self._hear(*reported(routing_key, body))

    def _see_share(self, body: bytes) -> None:
        # Published twice, the same bytes are one message.
        header = codec.decode(codec.decode(body, SealedMessage).header, ShareHeader)
        self._carried[header.relay_id][body] = header.route

    def _hear(self, kme: str, reports: Iterable[Report]) -> None:
        for report in reports:
            if isinstance(report, AboutRelay):
                self._reports[report.relay_id].append((kme, report))

    def carried(self, relay_id: UUID) -> tuple[Route, ...]:
        """Return the route of each share message that went over a QKD link, in the order seen."""
        return tuple(self._carried[relay_id].values())

    def reports(self, relay_id: UUID, kind: type[_Kind]) -> Iterator[tuple[str, _Kind]]:
        """Yield (KME, report) for each report of one kind on a relay, in the order heard."""
        for sender, report in self._reports[relay_id]:
            if isinstance(report, kind):
                yield sender, report
