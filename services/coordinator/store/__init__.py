"""The coordinator's whole memory, in SQLite: relays, the flow of their shares, links that are down, dead letters."""

from __future__ import annotations

from pathlib import Path

from coordinator.store import dead_letters, flow, links, relays
from coordinator.store.dead_letters import DeadLetterTable
from coordinator.store.flow import FlowTable
from coordinator.store.links import LinkTable
from coordinator.store.relays import RelayTable
from qkdrelay.service.journal import Journal

_SCHEMA = f"{relays.SCHEMA}{flow.SCHEMA}{links.SCHEMA}{dead_letters.SCHEMA}"


class CoordinatorStore:
    """The tables of the coordinator on their journal. No key, share or confirmation key ever comes here."""

    def __init__(self, journal: Journal) -> None:
        """``journal`` has the tables of `_SCHEMA` (see `open_coordinator_store`)."""
        self.journal = journal
        self.relays = RelayTable(journal)
        self.flow = FlowTable(journal)
        self.links = LinkTable(journal)
        self.dead_letters = DeadLetterTable(journal)

    @property
    def requests_until(self) -> float:
        """No request that was taken was sent later (`qkdrelay.messages.dialogue`), in seconds since the epoch."""
        return self.journal.parsed(float, self.journal.meta.get("requests_until") or 0)

    @requests_until.setter
    def requests_until(self, at: float) -> None:
        self.journal.meta.set("requests_until", repr(at).encode())

    def purge(self) -> None:
        """Forget the oldest ended relays beyond the limit, with the flow of their shares."""
        forgotten = self.relays.purge()
        self.flow.forget(forgotten)


def open_coordinator_store(path: Path | None) -> CoordinatorStore:
    """Open or create the coordinator's store; None keeps it in memory. Raises StoreError (see `Journal`)."""
    return CoordinatorStore(Journal(path, "coordinator", _SCHEMA))
