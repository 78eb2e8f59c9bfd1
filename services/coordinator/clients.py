"""Who asks: the command line may ask for anything, the page for what a viewer may see, and not too often.

The command line at another site may ask for what concerns that site: relays that begin or end there, its links and
supplies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from coordinator.store import CoordinatorStore
from qkdrelay.broker.names import client_exchange
from qkdrelay.broker.port import Delivery
from qkdrelay.errors import RequestRefusedError
from qkdrelay.messages.dialogue import Answerer
from qkdrelay.messages.requests import (
    AttackRequest,
    AttentionRequest,
    LinkRequest,
    NetworkRequest,
    RelayRequest,
    RelaysRequest,
    RequestBody,
    ShowRequest,
    SuppliesRequest,
)
from qkdrelay.network.names import CLI, parse_client_queue
from qkdrelay.service.allowance import Allowance
from qkdrelay.service.batch import BatchDict

VIEWER_MAY: Final = frozenset(
    {NetworkRequest, RelaysRequest, ShowRequest, SuppliesRequest, AttentionRequest, AttackRequest}
)
"""What a viewer may ask: nothing of it changes anything. `AttackRequest` computes, in the lab, from what has leaked."""
SITE_MAY: Final = frozenset({RelayRequest, RelaysRequest, ShowRequest, NetworkRequest, SuppliesRequest, LinkRequest})
"""What the command line of another site may ask, of what begins, ends or is there."""
VIEWER_PER_S: Final = 40.0
"""Requests a second of a viewer, or of another site, that are answered; the page asks a fourth of it."""
ATTACKS_PER_S: Final = 5.0


@dataclass(frozen=True)
class Principal:
    """One who asks, with what it may ask."""

    name: str
    answerer: Answerer
    check: Callable[[RequestBody, float], None]
    """Raises RequestRefusedError for what this client may not ask, or not so often; with the time."""
    kmes: frozenset[str] | None = None
    """The KMEs that it is told of; None: all."""

    def may_see(self, ends: Collection[str]) -> bool:
        """Whether it is told of a relay, or a link, between these two."""
        return self.kmes is None or not self.kmes.isdisjoint(ends)


class Clients:
    """The clients of a coordinator."""

    def __init__(
        self, store: CoordinatorStore, keys: Mapping[str, bytes], sites: Mapping[str, tuple[bytes, Collection[str]]]
    ) -> None:
        """``keys`` has the key shared with each client; one without a key is answered nothing.

        ``sites`` has, of each other site whose command line may ask, the key shared with that and the KMEs there.
        """
        batch = store.journal.batch
        viewers, attacks = Allowance(batch, VIEWER_PER_S), Allowance(batch, ATTACKS_PER_S)

        def viewer(body: RequestBody, now: float) -> None:
            check_viewer(body)
            if not viewers.take(now) or (isinstance(body, AttackRequest) and not attacks.take(now)):
                raise RequestRefusedError("a viewer asks too often", hint="once more in a moment")

        def of_site(allowance: Allowance, kmes: frozenset[str], body: RequestBody, now: float) -> None:
            check_site(body, kmes)
            if not allowance.take(now):
                raise RequestRefusedError("this site asks too often", hint="once more in a moment")

        def principal(
            name: str,
            key: bytes,
            check: Callable[[RequestBody, float], None],
            site: str = "",
            kmes: Collection[str] = (),
        ) -> Principal:
            taken: BatchDict[bytes, float] = BatchDict(batch)
            epoch = lambda: store.journal.numbers.epoch  # noqa: E731 - of the moment it is asked for
            answerer = Answerer(key, epoch, store.requests_until, taken, client=name, site=site)
            return Principal(name, answerer, check, frozenset(kmes) if site else None)

        self._clients = {
            (client_exchange(name), ""): principal(name, key, _anything if name == CLI else viewer)
            for name, key in keys.items()
        }
        for site, (key, kmes) in sites.items():
            check = partial(of_site, Allowance(batch, VIEWER_PER_S), frozenset(kmes))
            self._clients[client_exchange(CLI), site] = principal(CLI, key, check, site, kmes)

    def of(self, delivery: Delivery) -> Principal | None:
        """Return who alone can have written it where it was read, if it is a client."""
        return self._clients.get((delivery.exchange, delivery.site))

    def answerer(self, queue: str) -> Answerer:
        """Return what signs answers to a client's queue."""
        client, site = parse_client_queue(queue)
        return self._clients[client_exchange(client), site].answerer

    def open(self, now: float) -> None:
        """Take requests from now on."""
        for client in self._clients.values():
            client.answerer.open(now)

    @property
    def latest(self) -> float:
        """No request that was taken was sent later, in seconds since the epoch."""
        return max(client.answerer.latest for client in self._clients.values())


def check_viewer(body: RequestBody) -> None:
    """Raise RequestRefusedError for what a viewer may not ask; to follow a relay would take a follower's place."""
    if type(body) not in VIEWER_MAY or (isinstance(body, ShowRequest) and body.follow):
        raise RequestRefusedError(
            f"a viewer may not ask this: {type(body).__name__}",
            hint="the page shows; `coordinator` on the command line acts",
        )


def check_site(body: RequestBody, kmes: frozenset[str]) -> None:
    """Raise RequestRefusedError for what the operator of a site with these KMEs may not ask."""
    if type(body) not in SITE_MAY:
        raise RequestRefusedError(
            f"this is for the coordinator's site to ask: {type(body).__name__}",
            hint="a site asks for relays that begin or end there, its links and its supplies",
        )
    match body:
        case RelayRequest(source=one, target=other) | LinkRequest(a=one, b=other) if kmes.isdisjoint((one, other)):
            hint = f"one of them must be {' or '.join(sorted(kmes)[:8])}"
            raise RequestRefusedError(f"neither {one} nor {other} is at this site", hint=hint)


def _anything(body: RequestBody, now: float) -> None:
    """Refuse nothing."""
