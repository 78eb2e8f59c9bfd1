"""The port to the slaves' side of keys for applications: what the masters' side and the service ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol
from uuid import UUID

from kme.applications import ApplicationKey, Caller
from kme.effects import Effect
from kme.model import EndpointRelay
from kme.supply.model import Pair
from qkdrelay.messages.assignments import Assign, IncomingSupply
from qkdrelay.network.directory import Directory


class SlavesSide(Protocol):
    """What one KME keeps for its applications as slaves, durably. All but `incoming` is called in a transaction."""

    def adopt(self, directory: Directory, is_over: Callable[[Pair], bool]) -> list[Effect]:
        """Go by another directory; destroy what is kept for pairs to which, by it, that must not be given."""
        ...

    def relay_changed(self, relay: EndpointRelay, now: float) -> list[Effect]:
        """Take note of a relay of supply that ends here: its bytes are here now, or will not be any more."""
        ...

    def on_assign(self, message: Assign, now: float) -> list[Effect]:
        """Keep keys for a slave, or refuse to; what is said goes out as reports."""
        ...

    def fetch(self, caller: Caller, master: str, key_ids: Sequence[UUID], now: float) -> list[ApplicationKey]:
        """Give a slave all of these keys, in this order, once. Raises ApplicationError, and then gives none."""
        ...

    def draw_local(self, pair: Pair, number: int, size_bits: int, now: float) -> list[ApplicationKey]:
        """Draw keys for two SAEs of this KME, and keep them for the slave. Raises ApplicationError."""
        ...

    def tick(self, now: float) -> list[Effect]:
        """Delete what is over."""
        ...

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is due."""
        ...

    def incoming(self, now: float) -> Iterable[IncomingSupply]:
        """Return what there is of supply from each KME, by level."""
        ...
