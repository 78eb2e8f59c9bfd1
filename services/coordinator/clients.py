"""Who asks: the command line may ask for anything, the page for what a viewer may see, and not too often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from coordinator.store import CoordinatorStore
from qkdrelay.broker.names import client_exchange
from qkdrelay.errors import RequestRefusedError
from qkdrelay.messages.dialogue import Answerer
from qkdrelay.messages.requests import (
    AttackRequest,
    AttentionRequest,
    NetworkRequest,
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
VIEWER_PER_S: Final = 40.0
"""Requests a second of a viewer that are answered; the page asks a fourth of it."""
ATTACKS_PER_S: Final = 5.0


@dataclass(frozen=True)
class Principal:
    """One who asks, with what it may ask."""

    name: str
    answerer: Answerer
    check: Callable[[RequestBody, float], None]
    """Raises RequestRefusedError for what this client may not ask, or not so often; with the time."""


class Clients:
    """The clients of a coordinator."""

    def __init__(self, store: CoordinatorStore, keys: Mapping[str, bytes]) -> None:
        """``keys`` has the key shared with each client; one without a key is answered nothing."""
        batch = store.journal.batch
        viewers, attacks = Allowance(batch, VIEWER_PER_S), Allowance(batch, ATTACKS_PER_S)

        def viewer(body: RequestBody, now: float) -> None:
            check_viewer(body)
            if not viewers.take(now) or (isinstance(body, AttackRequest) and not attacks.take(now)):
                raise RequestRefusedError("a viewer asks too often", hint="once more in a moment")

        self._clients = {
            client_exchange(name): Principal(
                name,
                Answerer(
                    key,
                    lambda: store.journal.numbers.epoch,
                    store.requests_until,
                    BatchDict[bytes, float](batch),
                    client=name,
                ),
                (lambda body, now: None) if name == CLI else viewer,  # noqa: ARG005 - of one signature
            )
            for name, key in keys.items()
        }

    def of_exchange(self, exchange: str) -> Principal | None:
        """Return who alone may write an exchange, if it is a client's."""
        return self._clients.get(exchange)

    def answerer(self, queue: str) -> Answerer:
        """Return what signs answers to a client's queue."""
        return self._clients[client_exchange(parse_client_queue(queue))].answerer

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
