"""A KME's whole memory: relays with their keys, shares collected and waiting, in one journal."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from kme.model import EndpointRelay
from kme.store import applications, held_keys, relays, shares, waiting
from kme.store.applications import Applications
from kme.store.held_keys import HeldKeys
from kme.store.relays import Relays
from kme.store.shares import Shares
from kme.store.waiting import WaitingShares
from qkdrelay.service.journal import Journal
from qkdrelay.storage.database import Access


class KmeStore:
    """The durable memory of one KME; also the `kme.memory.Memory` that its decisions read."""

    def __init__(self, journal: Journal) -> None:
        """``journal`` has the tables of all its parts (see `open_kme_store`)."""
        self.journal = journal
        self.relays = Relays(journal)
        self.shares = Shares(journal, self.relays)
        self.waiting = WaitingShares(journal)
        self.applications = Applications(journal)
        self.held_keys = HeldKeys(journal)

    def keep_relay(self, relay: EndpointRelay) -> None:
        """Keep this end's relay as it is now."""
        if self.relays.keep(relay):
            self.shares.expected(relay.relay_id)

    def drop_shares(self, relay_id: UUID) -> None:
        """Delete what was collected for a relay, and what still waits for a link: both give its keys away."""
        self.shares.drop(relay_id)
        self.waiting.drop(relay_id)

    def forget_relay(self, relay_id: UUID, now: float) -> bool:
        """Delete a relay's keys and shares for good, if they may be; return whether there were any."""
        if not self.relays.forget(relay_id, now):
            return False
        self.drop_shares(relay_id)
        return True

    def purge(self, now: float) -> bool:
        """Delete what has outlived its time, but what waits; return whether shares or link key were deleted."""
        self.relays.purge(now)
        gone = self.held_keys.purge(now)
        return self.shares.purge(now) or gone


def open_kme_store(path: Path | None, name: str, *, access: Access = "own") -> KmeStore:
    """Open or create the store of the KME called ``name``; None keeps it in memory. Raises StoreError."""
    schema = f"{waiting.SCHEMA}{shares.SCHEMA}{relays.SCHEMA}{applications.SCHEMA}{held_keys.SCHEMA}"
    return KmeStore(Journal(path, f"kme {name}", schema, access=access))
