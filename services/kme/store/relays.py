"""The relays that start or end at a KME, with their keys, and what is left of those that are over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from kme.model import UNDECIDED_S, EndpointRelay
from kme.store.relay_record import RELAY, parse_id, stored_id
from qkdrelay.link.confirmation import Payload
from qkdrelay.messages.relay_ids import CLOCKS_DIFFER_S, VALID_S, made_at
from qkdrelay.service.batch import BatchDict, Cell
from qkdrelay.service.journal import Journal
from qkdrelay.service.lru import LruCache
from qkdrelay.service.records import Record
from qkdrelay.service.tables import Table

TOMBSTONE_S = VALID_S + CLOCKS_DIFFER_S
"""How many seconds after its deadline the id of a failed or forgotten relay is kept: then it is too old to come again.
"""
RELAYS_CACHED, CACHED_BYTES_MAX = 2_000, 16 << 20
"""Relays kept in memory beside the store, and the bytes of their keys; likewise of the shares for them."""
_ENDED_AT_ONCE = 1_000
_LATELY_MAX = 1_000


def schema(record: Record[EndpointRelay]) -> str:
    """Return the tables and indexes of relays kept like this."""
    # The keys are apart: they may be long, and a row is written anew whenever something in it changes.
    return f"""
CREATE TABLE relays ({record.schema}, ends_at REAL);
CREATE INDEX relays_by_state ON relays (state, deadline);
CREATE INDEX relays_by_end ON relays (ends_at) WHERE ends_at IS NOT NULL;
CREATE TABLE keys (relay_id BLOB PRIMARY KEY, keys BLOB NOT NULL, tag_keys BLOB NOT NULL,
                   confirmation_key BLOB NOT NULL);
"""


SCHEMA = schema(RELAY)
_KEEP_KEYS = "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)"
_IDS_UNTIL = "latest id purged"
_UNDECIDED, _HAS_KEYS = (
    "state IN ('expecting', 'pending')",
    ("state IN ('pending', 'held', 'delivered') AND NOT (supply IS NOT NULL AND role = 'target')"),
)


class Relays(Table):
    """Relays by id: written behind, and the latest kept in memory, too.

    The payload of supply is at its source in memory only, while it is pending: a store that comes back as an older copy
    hands nothing of it out again.
    """

    def __init__(self, journal: Journal, record: Record[EndpointRelay] = RELAY) -> None:
        """``journal`` has the tables of `schema`; ``record`` says how relays are kept."""
        super().__init__(journal)
        self._record, self._meta, batch = record, journal.meta, journal.batch
        columns = [*record.names, "ends_at"]
        changing = ", ".join(f"{name} = excluded.{name}" for name in [*record.changing, "ends_at"])
        # Not REPLACE, which writes the row and all its indexes anew.
        self._upsert = (
            f"INSERT INTO relays ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
            f" ON CONFLICT DO UPDATE SET {changing}"
        )
        payload = "keys, tag_keys, confirmation_key"
        self._select = f"SELECT {', '.join(record.names)}, {payload} FROM relays LEFT JOIN keys USING (relay_id)"
        self._cached: LruCache[UUID, EndpointRelay] = batch.cache(LruCache(RELAYS_CACHED, CACHED_BYTES_MAX))
        self._kept: dict[UUID, EndpointRelay] = batch.scratch({})
        self._payloads: dict[UUID, Payload | None] = batch.scratch({})
        """What is to be written: relays, and their payloads (None: destroyed)."""
        self._supply: dict[UUID, Payload] = BatchDict(batch)
        """Of relays of supply that are pending here, at their source."""
        self._totals = Cell[tuple[int, int] | None](batch, None)
        """How many are undecided, and the bytes of all keys, once they were counted."""
        self._ids_until = Cell[float | None](batch, None)

    def flush(self) -> None:
        """Write relays and keys that are in memory only."""
        if not self._kept:
            return
        self._db.executemany(self._upsert, map(self._row, self._kept.values()))
        payloads = self._payloads.items()
        kept = [(stored_id(relay_id), p.keys, p.tag_keys, p.confirmation_key) for relay_id, p in payloads if p]
        self._db.executemany(_KEEP_KEYS, kept)
        destroyed = [(stored_id(relay_id),) for relay_id, payload in payloads if payload is None]
        self._db.executemany("DELETE FROM keys WHERE relay_id = ?", destroyed)
        self._kept.clear()
        self._payloads.clear()

    def _row(self, relay: EndpointRelay) -> list[object]:
        return [*self._record.row(relay), relay.ends_at]

    def _read(self, row: Sequence[Any]) -> EndpointRelay:
        *fields, keys, tag_keys, confirmation_key = row
        relay = self._record.read(fields)
        payload = self._supply.get(relay.relay_id) if keys is None else Payload(keys, tag_keys, confirmation_key)
        return relay if payload is None else replace(relay, payload=payload)

    def get(self, relay_id: UUID) -> EndpointRelay | None:
        """Return a relay."""
        relay = self._kept.get(relay_id) or self._cached.get(relay_id)
        if relay is None:
            row = self.one(f"{self._select} WHERE relay_id = ?", relay_id.bytes)
            if row is not None:
                self._cache(relay := self._store.parsed(self._read, row))
        return relay

    def _cache(self, relay: EndpointRelay) -> None:
        """Keep a relay in memory, too, but not what was found, which may be a megabyte."""
        if relay.findings is None and not relay.equivocating:
            context = relay.context
            self._cached.keep(relay.relay_id, relay, context.payload_length + len(context.plan))
        else:
            self._cached.drop(relay.relay_id)

    def keep(self, relay: EndpointRelay) -> bool:
        """Keep a relay as it is now; return whether there was none with its id."""
        before = self.get(relay.relay_id)
        undecided, size = self._read_totals()
        self._totals.value = (
            undecided + relay.is_undecided - (before.is_undecided if before else 0),
            size + relay.key_bytes - (before.key_bytes if before else 0),
        )
        payload = relay.payload
        if relay.role == "source" and relay.supply is not None:
            if payload is None:
                self._supply.pop(relay.relay_id, None)
            else:
                self._supply[relay.relay_id] = payload
        elif payload != (before.payload if before else None):
            self._payloads[relay.relay_id] = payload
        self._kept[relay.relay_id] = relay
        self._cache(relay)
        return before is None

    def latest(self) -> Iterator[EndpointRelay]:
        """Yield every relay but those of supply, the latest deadline first; reads them one by one.

        No bytes of supply are a key before they are assigned.
        """
        ids = self.all("SELECT relay_id FROM relays WHERE supply IS NULL ORDER BY deadline DESC, relay_id")
        for relay_id in ids:
            row = self.one(f"{self._select} WHERE relay_id = ?", *relay_id)
            if row is not None:  # forgotten meanwhile
                yield self._store.parsed(self._read, row)

    def named(self, digits: str, limit: int) -> list[UUID]:
        """Return the ids that begin with ``digits`` (hexadecimal, no hyphens), at most ``limit``."""
        first, last = (bytes.fromhex(digits.ljust(32, filler)) for filler in "0f")
        query = "SELECT relay_id FROM relays WHERE relay_id BETWEEN ? AND ? ORDER BY relay_id LIMIT ?"
        return [self._store.parsed(parse_id, row[0]) for row in self.all(query, first, last, limit)]

    def open(self, now: float) -> list[EndpointRelay]:
        """Return the relays of which something may be missing at the other end or here: undecided ones, and held ones.

        Of the latter those whose deadline is ahead.
        """
        return self._relays(f"{_UNDECIDED} OR (state = 'held' AND deadline > ?)", now)

    def lately(self, now: float) -> list[EndpointRelay]:
        """Return those of `open`, and of the others that are released the latest whose deadline is ahead; no keys.

        Of them, too, a coordinator that knows of none has something to tell the ends, and whoever asks.
        """
        select = f"SELECT {', '.join(self._record.names)} FROM relays WHERE"
        released = f"{select} state IN ('held', 'delivered') AND deadline > ? ORDER BY deadline DESC LIMIT ?"
        rows = self.all(f"{select} {_UNDECIDED}") + self.all(released, now, _LATELY_MAX)
        return [self._store.parsed(self._record.read, row) for row in rows]

    def ending(self, now: float) -> list[EndpointRelay]:
        """Return relays that have come to their own end, at most so many that a turn is not held up."""
        return self._relays("ends_at < ? ORDER BY ends_at LIMIT ?", now, _ENDED_AT_ONCE)

    def _relays(self, condition: str, *values: object) -> list[EndpointRelay]:
        rows = self.all(f"{self._select} WHERE {condition}", *values)
        return [self._store.parsed(self._read, row) for row in rows]

    def pending(self) -> int:
        """Return how many relays are undecided."""
        return self._read_totals()[0]

    def key_bytes(self) -> int:
        """Return how many bytes of keys are kept."""
        return self._read_totals()[1]

    def _read_totals(self) -> tuple[int, int]:
        """Count once what is kept, and from then on what comes and goes: it is asked for with every relay."""
        if self._totals.value is None:
            undecided = self.one(f"SELECT count(*) FROM relays WHERE {_UNDECIDED}")[0]
            size = "SELECT coalesce(sum(key_count * key_size_bits / 8), 0) FROM relays"
            self._totals.value = int(undecided), int(self.one(f"{size} WHERE {_HAS_KEYS}")[0])
        return self._totals.value

    # --- what is over ------------------------------------------------------------------------------

    def may_forget(self, relay_id: UUID, now: float) -> bool:
        """Return whether a relay has keys here that may be deleted.

        Those delivered, and those held an hour after the deadline: the source has given them up by then, or has them.
        Supply goes by its own time.
        """
        relay = self.get(relay_id)
        if relay is None or relay.supply is not None:
            return False
        return relay.state == "delivered" or (relay.state == "held" and relay.deadline < now - UNDECIDED_S)

    def forget(self, relay_id: UUID, now: float) -> bool:
        """Delete a relay's keys for good, if they may be; its id stays refused. Return whether there were any."""
        relay = self.get(relay_id)
        if relay is None or not self.may_forget(relay_id, now):
            return False
        self.keep(replace(relay, state="forgotten", payload=None, findings=None, equivocating=()))
        return True

    def purge(self, now: float) -> None:
        """Delete what is left of failed and forgotten relays, once their ids are too old to come again.

        None of their ids that is as old as the latest is taken again, whatever becomes of the clock.
        """
        self._cached.clear()
        gone = "FROM relays WHERE state IN ('failed', 'forgotten') AND deadline < ?"
        before = now - TOMBSTONE_S
        ids = [self._store.parsed(parse_id, row[0]) for row in self.all(f"SELECT relay_id {gone}", before)]
        latest = max(ids, key=made_at, default=None)
        if latest is None:
            return
        self.run(f"DELETE FROM keys WHERE relay_id IN (SELECT relay_id {gone})", before)
        self.run(f"DELETE {gone}", before)
        if made_at(latest) > self.ids_refused_until():
            self._meta.set(_IDS_UNTIL, latest.bytes)
            self._ids_until.value = made_at(latest)

    def ids_refused_until(self) -> float:
        """Return when the latest relay was made that is not even known as failed or forgotten any more."""
        if self._ids_until.value is None:  # read once: it is asked for with every relay
            latest = self._meta.get(_IDS_UNTIL)
            self._ids_until.value = 0.0 if latest is None else made_at(self._store.parsed(parse_id, latest))
        return self._ids_until.value
