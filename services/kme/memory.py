"""The memory that a KME's decisions may ask: what they need of its store, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

from kme.model import EndpointRelay
from qkdrelay.network.names import Route


class RelayMemory(Protocol):
    """The relays that start or end at a KME."""

    def get(self, relay_id: UUID) -> EndpointRelay | None:
        """Return one of them."""
        ...

    def pending(self) -> int:
        """Return how many are undecided."""
        ...

    def key_bytes(self) -> int:
        """Return how many bytes of keys are kept."""
        ...

    def ids_refused_until(self) -> float:
        """Return the time at or before which no relay id that may be new was made, in seconds since the epoch."""
        ...


class ShareMemory(Protocol):
    """The shares collected for relays that end at a KME."""

    def of(self, relay_id: UUID) -> Mapping[Route, bytes]:
        """Return those of one relay."""
        ...

    def count(self, relay_id: UUID) -> int:
        """Return how many there are of one relay."""
        ...

    def get(self, relay_id: UUID, route: Route) -> bytes | None:
        """Return one of them."""
        ...

    def early(self) -> tuple[int, int]:
        """Return how many are of relays that are not expected, and their bytes."""
        ...


class Memory(Protocol):
    """Everything that is remembered of relays and shares."""

    @property
    def relays(self) -> RelayMemory:
        """Those that start or end here."""
        ...

    @property
    def shares(self) -> ShareMemory:
        """Those collected here."""
        ...
