"""Relays as the coordinator keeps them, and when which end is told again."""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import chain
from uuid import UUID

from coordinator.lifecycle import Relay
from qkdrelay.messages import codec
from qkdrelay.messages.control import Terms
from qkdrelay.messages.reports import Findings
from qkdrelay.service.batch import BatchDict, Cell
from qkdrelay.service.lru import LruCache
from qkdrelay.service.records import Column, Record
from qkdrelay.service.tables import Store, Table

RELAYS_MAX = 100_000
"""Ended relays beyond this many are forgotten, oldest first."""
RELAYS_CACHED, CACHED_PLAN_BYTES_MAX = 2_000, 16_384
"""Relays kept in memory beside the store, and the longest plan that one of them may have."""
_OVERDUE_AT_ONCE = 1_000
_TELL_AGAIN_S, _TELL_AGAIN_MAX_S = 5.0, 300.0
_TELL_AGAIN_AT_ONCE = 1_000


def _findings(stored: bytes | None) -> Findings | None:
    return None if stored is None else codec.decode(stored, Findings)


def _stored_findings(findings: Findings | None) -> bytes | None:
    return None if findings is None else codec.encode(findings)


def _names(stored: str) -> tuple[str, ...]:
    return tuple(stored.split())


_FLAG, _NAMES = "INTEGER NOT NULL", "TEXT NOT NULL"
RELAY = Record(
    Relay,
    Column("terms", "BLOB NOT NULL", codec.encode, lambda stored: codec.decode(stored, Terms)),
    Column("policy", "TEXT NOT NULL"),
    Column("protected", _FLAG, read=bool),
    Column("relies_on", _NAMES, " ".join, _names),
    Column("created_at", "REAL NOT NULL"),
    Column("state", "TEXT NOT NULL", changes=True),
    Column("reason", "TEXT NOT NULL", changes=True),
    Column("ended_at", "REAL", changes=True),
    Column("expected", _FLAG, read=bool, changes=True),
    Column("started", _FLAG, read=bool, changes=True),
    Column("target_proof", "BLOB", changes=True),
    Column("released", _NAMES, " ".join, _names, changes=True),
    Column("findings", "BLOB", _stored_findings, _findings, changes=True),
)
"""The one place where the store says how a field of a relay is kept."""
_BESIDE = ["source", "target", "supply", "deadline", "source_due", "target_due", "source_wait_s", "target_wait_s"]
"""By these relays are looked up; the last four say when an end is told again, and after how long."""


def schema(record: Record[Relay]) -> str:
    """Return the tables and indexes of relays kept like this."""
    return f"""
CREATE TABLE relays (relay_id BLOB PRIMARY KEY, {record.schema},
                     source TEXT NOT NULL, target TEXT NOT NULL, supply {_FLAG}, deadline REAL NOT NULL,
                     source_due REAL, target_due REAL, source_wait_s REAL NOT NULL, target_wait_s REAL NOT NULL);
CREATE INDEX relays_undecided ON relays (deadline) WHERE ended_at IS NULL;
CREATE INDEX relays_by_source_due ON relays (source, source_due) WHERE source_due IS NOT NULL;
CREATE INDEX relays_by_target_due ON relays (target, target_due) WHERE target_due IS NOT NULL;
CREATE INDEX relays_by_age ON relays (supply DESC, created_at);
"""


SCHEMA = schema(RELAY)


class RelayTable(Table):
    """Relays; what is kept is written once a batch, and those looked at last are in memory, too."""

    def __init__(self, store: Store, record: Record[Relay] = RELAY) -> None:
        """``record`` says how relays are kept."""
        super().__init__(store)
        self._record, batch = record, store.batch
        self._cache: LruCache[UUID, Relay] = batch.cache(LruCache(RELAYS_CACHED))
        self._kept: dict[UUID, tuple[object, ...]] = batch.scratch({})
        """Rows that this transaction has yet to write."""
        self._select = f"SELECT {', '.join(record.names)} FROM relays"
        columns = ["relay_id", *record.names, *_BESIDE]
        changing = ", ".join(f"{name} = excluded.{name}" for name in [*record.changing, *_BESIDE[4:]])
        # Not REPLACE, which writes the row and all its indexes anew.
        self._upsert = (
            f"INSERT INTO relays ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
            f" ON CONFLICT DO UPDATE SET {changing}"
        )
        self._undecided: BatchDict[UUID, None] = BatchDict(batch)
        """The relays under way; read when the store is opened."""
        rows = self.all("SELECT relay_id FROM relays WHERE ended_at IS NULL")
        self._undecided.update((store.parsed(_id, row[0]), None) for row in rows)
        self._none_due_before = Cell(batch, -math.inf)
        """No deadline of an undecided relay is earlier, in seconds since the epoch."""

    def flush(self) -> None:
        """Write relays that are in memory only."""
        if self._kept:
            self._db.executemany(self._upsert, self._kept.values())
            self._kept.clear()

    def _relays(self, condition: str, *values: object) -> list[Relay]:
        return [self._store.parsed(self._record.read, row) for row in self.all(f"{self._select} {condition}", *values)]

    def get(self, relay_id: UUID) -> Relay | None:
        """Return a relay."""
        relay = self._cache.get(relay_id)
        if relay is None:
            for relay in self._relays("WHERE relay_id = ?", relay_id.bytes):
                self._remember(relay)
        return relay

    def _remember(self, relay: Relay) -> None:
        """Keep a relay in memory, too, unless it is large: what its target finds may be a megabyte."""
        if relay.findings is None and len(relay.terms.plan) <= CACHED_PLAN_BYTES_MAX:
            self._cache.keep(relay.relay_id, relay)
        else:
            self._cache.drop(relay.relay_id)

    def named(self, digits: str, limit: int, *, ends: Collection[str] | None = None) -> list[UUID]:
        """Return the ids that begin with ``digits`` (hexadecimal, no hyphens), at most ``limit``; ``ends`` as below."""
        first, last = (bytes.fromhex(digits.ljust(32, filler)) for filler in "0f")
        there, kmes = _with_end(ends)
        query = f"SELECT relay_id FROM relays WHERE relay_id BETWEEN ? AND ?{there} ORDER BY relay_id LIMIT ?"
        return [self._store.parsed(_id, row[0]) for row in self.all(query, first, last, *kmes, limit)]

    def latest(self, limit: int, *, supply: bool, ends: Collection[str] | None = None) -> list[Relay]:
        """Return the latest relays, newest first; with ``supply`` those of supply are among them.

        Of those with an end among ``ends``, or of all.
        """
        there, of_ends = _with_end(ends)
        kinds = (False, True) if supply else (False,)
        # Each by its index: a row may be large.
        chosen = f"WHERE supply = ?{there} ORDER BY created_at DESC LIMIT ?"
        found = (self._relays(chosen, kind, *of_ends, limit) for kind in kinds)
        return sorted(chain.from_iterable(found), key=lambda relay: relay.created_at, reverse=True)[:limit]

    def failed_lately(self, limit: int) -> list[UUID]:
        """Return those of the `RELAYS_CACHED` latest relays of each kind that failed, newest first."""
        latest = "SELECT relay_id, state, created_at FROM relays WHERE supply = ? ORDER BY created_at DESC LIMIT ?"
        found: list[tuple[float, UUID]] = []
        for kind in (False, True):
            rows = self.all(f"SELECT created_at, relay_id FROM ({latest}) WHERE state = 'failed'", kind, RELAYS_CACHED)
            found += [(self._store.parsed(float, at), self._store.parsed(_id, relay_id)) for at, relay_id in rows]
        return [relay_id for _, relay_id in sorted(found, reverse=True)[:limit]]

    def count(self, *, supply: bool, ends: Collection[str] | None = None) -> int:
        """Return how many relays are known; with ``supply`` those of supply, too; ``ends`` as of `latest`."""
        there, kmes = _with_end(ends)
        return int(self.one(f"SELECT count(*) FROM relays WHERE supply <= ?{there}", supply, *kmes)[0])

    def undecided(self) -> list[Relay]:
        """Return the relays that are under way."""
        return [relay for relay_id in tuple(self._undecided) if (relay := self.get(relay_id)) is not None]

    def undecided_count(self) -> int:
        """Return how many relays are under way."""
        return len(self._undecided)

    def undecided_with(self, kmes: Collection[str]) -> int:
        """Return how many relays are under way with an end among these."""
        there, ends = _with_end(kmes)
        return int(self.one(f"SELECT count(*) FROM relays WHERE ended_at IS NULL{there}", *ends)[0])

    def wait_s(self, now: float) -> float:
        """Return in how many seconds `overdue` may find something; it may be less than that."""
        return max(0.0, self._none_due_before.value - now)

    def overdue(self, now: float) -> list[Relay]:
        """Return undecided relays whose deadline has passed: most often all."""
        if now < self._none_due_before.value:
            return []
        found = self._relays("WHERE ended_at IS NULL AND deadline <= ? LIMIT ?", now, _OVERDUE_AT_ONCE)
        if not found:
            first = self.one("SELECT min(deadline) FROM relays WHERE ended_at IS NULL")[0]
            self._none_due_before.value = math.inf if first is None else self._store.parsed(float, first)
        return found

    def due_again(self, kme: str, now: float) -> list[Relay]:
        """Return relays that wait for an answer of ``kme`` long enough to tell it again, and back off.

        Each end has its own back-off: one that is alive and one that is not do not take turns. What is due later
        than any back-off lasts is due: the clock was stepped back.
        """
        found: list[Relay] = []
        for end in ("source", "target"):
            is_due = f"({end}_due <= ? OR {end}_due > ?)"
            due = f"SELECT relay_id FROM relays WHERE {end} = ? AND {is_due} ORDER BY {end}_due LIMIT ?"
            chosen = (kme, now, now + _TELL_AGAIN_MAX_S, _TELL_AGAIN_AT_ONCE)
            found += self._relays(f"WHERE relay_id IN ({due})", *chosen)
            self.run(
                f"UPDATE relays SET {end}_wait_s = min({end}_wait_s * 2, ?), {end}_due = ? + min({end}_wait_s * 2, ?)"
                f" WHERE relay_id IN ({due})",
                *(_TELL_AGAIN_MAX_S, now, _TELL_AGAIN_MAX_S, *chosen),
            )
        return found

    def keep(self, relay: Relay, now: float, *, told: Collection[str]) -> None:
        """Keep a relay as it is now.

        ``told`` are the ends that were told something and have not answered.
        """
        relay_id, deadline = relay.relay_id, relay.terms.deadline
        if relay.ended_at is None:
            self._undecided[relay_id] = None
            self._none_due_before.value = min(self._none_due_before.value, deadline)
        else:
            self._undecided.pop(relay_id, None)
        self._remember(relay)
        ends = relay.ends
        due = (now + _TELL_AGAIN_S if end in told else None for end in ends)
        self._kept[relay_id] = (
            *(relay_id.bytes, *self._record.row(relay)),
            *(*ends, relay.terms.supply is not None, deadline, *due, _TELL_AGAIN_S, _TELL_AGAIN_S),
        )

    def purge(self) -> list[UUID]:
        """Forget ended relays beyond the limit, none that an end still has to be told of; return them.

        Those of supply go first, then the oldest: nobody asks what became of one that a KME has asked for.
        """
        surplus = self.count(supply=True) - RELAYS_MAX
        if surplus <= 0:
            return []
        settled = "ended_at IS NOT NULL AND source_due IS NULL AND target_due IS NULL"
        query = f"SELECT relay_id FROM relays WHERE {settled} ORDER BY supply DESC, created_at LIMIT ?"
        oldest = [self._store.parsed(_id, row[0]) for row in self.all(query, surplus)]
        for relay_id in oldest:
            self._cache.drop(relay_id)
        self._db.executemany("DELETE FROM relays WHERE relay_id = ?", [(relay_id.bytes,) for relay_id in oldest])
        return oldest


def _with_end(kmes: Collection[str] | None) -> tuple[str, list[str]]:
    """Return the condition that one end of a relay is among ``kmes``, and its values; None: there is none."""
    if kmes is None:
        return "", []
    places = ", ".join("?" * len(kmes))
    return f" AND (source IN ({places}) OR target IN ({places}))", [*kmes, *kmes]


def _id(stored: bytes) -> UUID:
    return UUID(bytes=stored)
