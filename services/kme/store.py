"""A KME's whole memory, in SQLite: link key drawn, shares waiting and collected, relays, keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from uuid import UUID

from kme.effects import EndpointRelay, EndpointState, KeepShare, Role, SendShare
from kme.forwarding import LATE_S
from qkdrelay.link.confirmation import Payload
from qkdrelay.messages import codec
from qkdrelay.messages.control import FixedDemand
from qkdrelay.messages.plans import decode_plan, encode_plan
from qkdrelay.messages.relay_ids import CLOCKS_DIFFER_S, VALID_S, made_at
from qkdrelay.messages.reports import Findings
from qkdrelay.messages.states import LabMode
from qkdrelay.network.names import Route, parse_route, route_name
from qkdrelay.service.batch import Cell
from qkdrelay.service.journal import Journal
from qkdrelay.service.lru import LruCache
from qkdrelay.service.tables import Table
from qkdrelay.storage.database import Access

UNDECIDED_S = 3_600.0
"""How long after its deadline a relay is given up that nobody has decided."""
TOMBSTONE_S = VALID_S + CLOCKS_DIFFER_S
"""How long after its deadline the id of a failed or forgotten relay is kept: then it is too old to come again."""

_SCHEMA = """
CREATE TABLE down (peer TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE waiting (id INTEGER PRIMARY KEY AUTOINCREMENT, peer TEXT NOT NULL, origin TEXT NOT NULL,
                      relay_id BLOB NOT NULL, route TEXT NOT NULL, plan BLOB NOT NULL, deadline REAL NOT NULL,
                      payload BLOB NOT NULL, share INTEGER NOT NULL, threshold INTEGER NOT NULL,
                      told TEXT NOT NULL DEFAULT '');
CREATE INDEX waiting_by_peer ON waiting (peer, origin, id);
CREATE INDEX waiting_by_deadline ON waiting (deadline);
CREATE TABLE shares (relay_id BLOB NOT NULL, route TEXT NOT NULL, deadline REAL NOT NULL, payload BLOB NOT NULL,
                     PRIMARY KEY (relay_id, route));
CREATE INDEX shares_by_deadline ON shares (deadline);
CREATE TABLE relays (relay_id BLOB PRIMARY KEY, role TEXT NOT NULL, state TEXT NOT NULL, plan BLOB NOT NULL,
                     key_count INTEGER NOT NULL, key_size_bits INTEGER NOT NULL, withstand BLOB NOT NULL,
                     withstand_here INTEGER NOT NULL, deadline REAL NOT NULL, source_key BLOB, target_key BLOB,
                     peer_valid INTEGER, findings BLOB, equivocating TEXT NOT NULL);
CREATE INDEX relays_by_state ON relays (state, deadline);
-- Apart: they may be long, and a row is written anew whenever something in it changes.
CREATE TABLE keys (relay_id BLOB PRIMARY KEY, keys BLOB NOT NULL);
"""
_RELAY = (
    "SELECT relay_id, role, state, plan, key_count, key_size_bits, withstand, withstand_here, deadline, keys,"
    " source_key, target_key, peer_valid, findings, equivocating FROM relays LEFT JOIN keys USING (relay_id)"
)
# Not REPLACE, which writes the row and all its indexes anew.
_KEEP = (
    "INSERT INTO relays VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
    "state = excluded.state, source_key = excluded.source_key, target_key = excluded.target_key,"
    " peer_valid = excluded.peer_valid, findings = excluded.findings, equivocating = excluded.equivocating"
)
_KEEP_SHARE = "INSERT INTO shares VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET deadline = excluded.deadline"
RELAYS_CACHED, CACHED_BYTES_MAX = 2_000, 16 << 20
"""Relays kept in memory beside the store, and the bytes of their keys; likewise of the shares for them."""
_WAITING_COLUMNS = "id, relay_id, route, plan, deadline, payload, share, threshold, told"
_IDS_UNTIL = "latest id purged"
# Names of routes have no such character.
_BETWEEN_ROUTES = " "


@dataclass(frozen=True, slots=True)
class WaitingShare:
    """A share that is not sealed yet, because its link is down or has too little key."""

    id: int
    share: SendShare
    told: bool
    """Whether the coordinator was told that it waits."""


class KmeStore(Table):
    """The durable memory of one KME; also the `kme.forwarding.Memory` its decisions read."""

    def __init__(self, journal: Journal) -> None:
        """``journal`` has the tables of `_SCHEMA` (see `open_kme_store`)."""
        super().__init__(journal)
        self.journal, batch = journal, journal.batch
        self._relays: LruCache[UUID, EndpointRelay] = batch.cache(LruCache(RELAYS_CACHED, CACHED_BYTES_MAX))
        self._kept: dict[UUID, EndpointRelay] = batch.scratch({})
        self._keys: dict[UUID, bytes | None] = batch.scratch({})
        self._collected: dict[tuple[bytes, str], tuple[float, bytes]] = batch.scratch({})
        """What this transaction has yet to write: relays, their keys (None: destroyed), shares (deadline, payload)."""
        self._shares: LruCache[UUID, dict[Route, bytes]] = batch.cache(LruCache(RELAYS_CACHED, CACHED_BYTES_MAX))
        self._totals = Cell[tuple[int, int] | None](batch, None)
        self._early = Cell[tuple[int, int] | None](batch, None)
        """What `early_shares` says, if it was counted: whoever sends such a share must not have all counted anew."""
        self._ids_until = Cell[float | None](batch, None)

    def flush(self) -> None:
        """Write relays, keys and shares that are in memory only."""
        if not self._kept and not self._collected:
            return
        self._db.executemany(_KEEP, [_row(relay) for relay in self._kept.values()])
        keys = [(relay_id.bytes, keys) for relay_id, keys in self._keys.items() if keys is not None]
        self._db.executemany("INSERT INTO keys VALUES (?, ?) ON CONFLICT DO UPDATE SET keys = excluded.keys", keys)
        destroyed = [(relay_id.bytes,) for relay_id, keys in self._keys.items() if keys is None]
        self._db.executemany("DELETE FROM keys WHERE relay_id = ?", destroyed)
        shares = [(*key, *value) for key, value in self._collected.items()]
        self._db.executemany(_KEEP_SHARE, shares)
        self._kept.clear()
        self._keys.clear()
        self._collected.clear()

    # --- what a decision may ask (kme.forwarding.Memory) -------------------------------------------------

    @property
    def lab_mode(self) -> LabMode | None:
        """How a compromised KME behaves; None for an honest one."""
        mode = self.journal.meta.get("lab_mode")
        return None if mode is None else cast(LabMode, mode.decode())

    def relay(self, relay_id: UUID) -> EndpointRelay | None:
        """Return a relay that starts or ends here."""
        relay = self._kept.get(relay_id) or self._relays.get(relay_id)
        if relay is None:
            row = self.run(f"{_RELAY} WHERE relay_id = ?", relay_id.bytes).fetchone()
            if row is not None:
                self._cache(relay := self.journal.parsed(_relay, row))
        return relay

    def _cache(self, relay: EndpointRelay) -> None:
        """Keep a relay in memory, too, but not what was found, which may be a megabyte."""
        if relay.findings is None and not relay.equivocating:
            context = relay.context
            self._relays.keep(relay.relay_id, relay, context.payload_length + len(context.plan))
        else:
            self._relays.drop(relay.relay_id)

    def relays(self) -> Iterator[EndpointRelay]:
        """Yield every relay that starts or ends here, the latest deadline first; reads them one by one."""
        ids = self.run("SELECT relay_id FROM relays ORDER BY deadline DESC, relay_id").fetchall()
        for relay_id in ids:
            row = self.run(f"{_RELAY} WHERE relay_id = ?", *relay_id).fetchone()
            if row is not None:  # forgotten meanwhile
                yield self.journal.parsed(_relay, row)

    def relays_named(self, digits: str, limit: int) -> list[UUID]:
        """Return the ids that begin with ``digits`` (hexadecimal, no hyphens), at most ``limit``."""
        first, last = (bytes.fromhex(digits.ljust(32, filler)) for filler in "0f")
        query = "SELECT relay_id FROM relays WHERE relay_id BETWEEN ? AND ? ORDER BY relay_id LIMIT ?"
        return [self.journal.parsed(_id, row[0]) for row in self.run(query, first, last, limit)]

    def undecided(self) -> list[EndpointRelay]:
        """Return the relays that start or end here and were not decided."""
        return [
            self.journal.parsed(_relay, row) for row in self.run(f"{_RELAY} WHERE state IN ('expecting', 'pending')")
        ]

    def shares(self, relay_id: UUID) -> dict[Route, bytes]:
        """Return the shares collected for a relay."""
        shares = self._shares.get(relay_id)
        if shares is None:
            rows = self.run("SELECT route, payload FROM shares WHERE relay_id = ?", relay_id.bytes)
            shares = {self.journal.parsed(parse_route, route): payload for route, payload in rows}
            self._shares.keep(relay_id, shares, sum(map(len, shares.values())))
        return shares

    def share_count(self, relay_id: UUID) -> int:
        """Return how many shares are collected for a relay; reads none of them."""
        if (shares := self._shares.get(relay_id)) is not None:
            return len(shares)
        return self._count("SELECT count(*) FROM shares WHERE relay_id = ?", relay_id.bytes)

    def relays_with_shares(self, limit: int) -> list[UUID]:
        """Return relays that shares were collected for: all that are not rebuilt yet, and the latest ``limit``."""
        expecting = "SELECT DISTINCT relay_id FROM shares JOIN relays USING (relay_id) WHERE state = 'expecting'"
        latest = "SELECT DISTINCT relay_id FROM shares ORDER BY deadline DESC LIMIT ?"
        rows = [*self.run(expecting), *self.run(latest, limit)]
        return [self.journal.parsed(_id, relay_id) for relay_id in dict.fromkeys(row[0] for row in rows)]

    def share(self, relay_id: UUID, route: Route) -> bytes | None:
        """Return one collected share."""
        if (shares := self._shares.get(relay_id)) is not None:
            return shares.get(route)
        key = (relay_id.bytes, route_name(route))
        # What the store has came first, and stays. Not through `run`: what is yet to be written is looked at below.
        row = self._db.execute("SELECT payload FROM shares WHERE relay_id = ? AND route = ?", key).fetchone()
        if row is not None:
            return bytes(row[0])
        return self._collected[key][1] if key in self._collected else None

    def early_shares(self) -> tuple[int, int]:
        """Return how many shares of relays that are not expected are kept, and their bytes."""
        if self._early.value is None:
            query = "SELECT count(*), coalesce(sum(length(payload)), 0) FROM shares"
            row = self.run(f"{query} WHERE relay_id NOT IN (SELECT relay_id FROM relays)").fetchone()
            self._early.value = row[0], row[1]
        return self._early.value

    def pending(self) -> int:
        """Return how many relays at this end are undecided."""
        return self._read_totals()[0]

    def key_bytes(self) -> int:
        """Return how many bytes of keys are kept."""
        return self._read_totals()[1]

    def _read_totals(self) -> tuple[int, int]:
        """Count once what is kept, and from then on what comes and goes: it is asked for with every relay."""
        if self._totals.value is None:
            undecided = "SELECT count(*) FROM relays WHERE state IN ('expecting', 'pending')"
            size = "SELECT coalesce(sum(key_count * key_size_bits / 8), 0) FROM relays"
            self._totals.value = self._count(undecided), self._count(f"{size} WHERE state IN ('pending', 'delivered')")
        return self._totals.value

    def _count(self, query: str, *arguments: object) -> int:
        return int(self.run(query, *arguments).fetchone()[0])

    # --- carrying decisions out --------------------------------------------------------------------

    def keep_relay(self, relay: EndpointRelay) -> None:
        """Keep this end's relay as it is now."""
        before = self.relay(relay.relay_id)
        undecided, size = self._read_totals()
        self._totals.value = (
            undecided + _undecided(relay) - (_undecided(before) if before else 0),
            size + _key_bytes(relay) - (_key_bytes(before) if before else 0),
        )
        if before is None and self._early.value is not None and self._early.value[0]:
            expected = self.shares(relay.relay_id).values()
            self._early.value = self._early.value[0] - len(expected), self._early.value[1] - sum(map(len, expected))
        if relay.state == "delivered" and relay.payload is not None:
            # There is nothing left to prove.
            relay = replace(relay, payload=Payload(relay.payload.keys, b"", b""))
        if (keys := _keys(relay)) != (_keys(before) if before else None):
            self._keys[relay.relay_id] = keys
        self._kept[relay.relay_id] = relay
        self._cache(relay)

    def keep_share(self, share: KeepShare) -> None:
        """Keep a share that reached the target; of one that is here already, only for how long."""
        if self._early.value is not None and self.relay(share.relay_id) is None:
            new = self.share(share.relay_id, share.route) is None
            self._early.value = self._early.value[0] + new, self._early.value[1] + new * len(share.payload)
        key = (share.relay_id.bytes, route_name(share.route))
        kept = self._collected.get(key)
        self._collected[key] = share.deadline, share.payload if kept is None else kept[1]
        shares = self._shares.get(share.relay_id)
        if shares is not None and share.route not in shares:
            shares[share.route] = share.payload
            self._shares.grow(share.relay_id, len(share.payload))

    def drop_shares(self, relay_id: UUID) -> None:
        """Delete what was collected for a relay, and what still waits for a link: both give its keys away."""
        self._shares.drop(relay_id)
        self.run("DELETE FROM shares WHERE relay_id = ?", relay_id.bytes)
        self.run("DELETE FROM waiting WHERE relay_id = ?", relay_id.bytes)

    def may_forget(self, relay_id: UUID, now: float) -> bool:
        """Return whether a relay has keys here that may be deleted.

        Delivered ones, and those of a relay that is undecided an hour after its deadline: nobody decides it any more.
        """
        relay = self.relay(relay_id)
        if relay is None:
            return False
        return relay.state == "delivered" or (_undecided(relay) and relay.deadline < now - UNDECIDED_S)

    def forget_relay(self, relay_id: UUID, now: float) -> bool:
        """Delete a relay's keys for good, if they may be; its id stays refused. Return whether there were any."""
        relay = self.relay(relay_id)
        if relay is None or not self.may_forget(relay_id, now):
            return False
        state: EndpointState = "forgotten" if relay.state == "delivered" else "failed"
        self.keep_relay(replace(relay, state=state, payload=None, findings=None, equivocating=()))
        self.drop_shares(relay_id)
        return True

    def set_lab_mode(self, mode: LabMode | None) -> None:
        """Keep how this KME behaves in the lab."""
        self.journal.meta.set("lab_mode", None if mode is None else mode.encode())

    def purge(self, now: float) -> bool:
        """Delete what has outlived its deadline: collected shares, and what is left of failed and forgotten relays.

        Of the latter's ids none that is as old as the latest is taken again, whatever becomes of the clock. Returns
        whether shares were deleted.
        """
        self._relays.clear()
        self._shares.clear()
        self._early.value = None
        gone = "FROM relays WHERE state IN ('failed', 'forgotten') AND deadline < ?"
        before = now - TOMBSTONE_S
        ids = [self.journal.parsed(_id, row[0]) for row in self.run(f"SELECT relay_id {gone}", before)]
        latest = max(ids, key=made_at, default=None)
        if latest is not None:
            self.run(f"DELETE FROM keys WHERE relay_id IN (SELECT relay_id {gone})", before)
            self.run(f"DELETE {gone}", before)
            if made_at(latest) > self.ids_refused_until():
                self.journal.meta.set(_IDS_UNTIL, latest.bytes)
                self._ids_until.value = made_at(latest)
        return self.run("DELETE FROM shares WHERE deadline < ?", now - LATE_S).rowcount > 0

    def ids_refused_until(self) -> float:
        """Return when the latest relay was made that is not even known as failed or forgotten any more."""
        if self._ids_until.value is None:  # read once: it is asked for with every relay
            latest = self.journal.meta.get(_IDS_UNTIL)
            self._ids_until.value = 0.0 if latest is None else made_at(self.journal.parsed(_id, latest))
        return self._ids_until.value

    # --- shares waiting for link key ---------------------------------------------------------------

    def links_down(self) -> frozenset[str]:
        """Return the peers whose link does not carry."""
        return frozenset(row[0] for row in self.run("SELECT peer FROM down"))

    def turn_link(self, peer: str, *, up: bool) -> None:
        """Keep whether the link to ``peer`` carries."""
        query = "DELETE FROM down WHERE peer = ?" if up else "INSERT OR IGNORE INTO down VALUES (?)"
        self.run(query, peer)

    def wait(self, share: SendShare, origin: str) -> None:
        """Keep a share that came from ``origin`` until its link has key."""
        self._db.execute(
            "INSERT INTO waiting (peer, origin, relay_id, route, plan, deadline, payload, share, threshold)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                share.route[-1],
                origin,
                share.relay_id.bytes,
                route_name(share.route),
                encode_plan(share.plan),
                share.deadline,
                share.payload,
                share.index,
                share.threshold,
            ),
        )

    def waiting(self) -> dict[str, int]:
        """Return how many shares wait, by peer."""
        return dict(self.run("SELECT peer, count(*) FROM waiting GROUP BY peer").fetchall())

    def waiting_room(self) -> list[tuple[str, str, int, int]]:
        """Return what waits as (peer, origin, shares, their bytes)."""
        query = "SELECT peer, origin, count(*), sum(length(payload)) FROM waiting GROUP BY peer, origin"
        return self.run(query).fetchall()

    def waiting_for(self, peer: str, origin: str) -> Iterator[WaitingShare]:
        """Yield the shares from ``origin`` that wait for the link to ``peer``, those that wait longest first."""
        return self._waiting("peer = ? AND origin = ? ORDER BY id", peer, origin)

    def waiting_untold(self, peer: str, reason: str, limit: int) -> list[WaitingShare]:
        """Return shares that wait for the link to ``peer`` and were not reported for ``reason`` yet."""
        return list(self._waiting("peer = ? AND told != ? LIMIT ?", peer, reason, limit))

    def _waiting(self, which: str, *arguments: object) -> Iterator[WaitingShare]:
        query = f"SELECT {_WAITING_COLUMNS} FROM waiting WHERE {which}"
        return (self.journal.parsed(_waiting, row) for row in self.run(query, *arguments))

    def told(self, ids: list[int], reason: str) -> None:
        """Remember that the coordinator was told why these wait."""
        self._db.executemany("UPDATE waiting SET told = ? WHERE id = ?", ((reason, i) for i in ids))

    def wait_no_more(self, ids: list[int]) -> None:
        """Delete shares that were sealed."""
        self._db.executemany("DELETE FROM waiting WHERE id = ?", ((i,) for i in ids))

    def expire_waiting(self, before: float) -> list[tuple[UUID, Route]]:
        """Delete the shares whose deadline was before ``before``; return the relay and the route of each."""
        rows = self.run("DELETE FROM waiting WHERE deadline < ? RETURNING relay_id, route", before)
        return [
            (self.journal.parsed(_id, relay_id), self.journal.parsed(parse_route, route))
            for relay_id, route in rows.fetchall()
        ]


def open_kme_store(path: Path | None, name: str, *, access: Access = "own") -> KmeStore:
    """Open or create the store of the KME called ``name``; None keeps it in memory. Raises StoreError."""
    return KmeStore(Journal(path, f"kme {name}", _SCHEMA, access=access))


def _id(stored: bytes) -> UUID:
    return UUID(bytes=stored)


def _undecided(relay: EndpointRelay) -> bool:
    return relay.state in ("expecting", "pending")


def _key_bytes(relay: EndpointRelay) -> int:
    return relay.key_count * relay.key_size_bits // 8 if relay.state in ("pending", "delivered") else 0


def _keys(relay: EndpointRelay) -> bytes | None:
    return relay.payload.keys if relay.payload else None


def _row(relay: EndpointRelay) -> tuple[object, ...]:
    payload = relay.payload
    return (
        relay.relay_id.bytes,
        relay.role,
        relay.state,
        encode_plan(relay.plan),
        relay.key_count,
        relay.key_size_bits,
        codec.encode(relay.withstand),
        relay.withstand_here,
        relay.deadline,
        payload.source_key if payload else b"",
        payload.target_key if payload else b"",
        relay.peer_valid,
        None if relay.findings is None else codec.encode(relay.findings),
        _BETWEEN_ROUTES.join(map(route_name, relay.equivocating)),
    )


def _relay(row: tuple[object, ...]) -> EndpointRelay:
    (
        relay_id,
        role,
        state,
        plan,
        count,
        size,
        withstand,
        withstand_here,
        deadline,
        keys,
        c_source,
        c_target,
        valid,
        findings,
        equivocating,
    ) = row
    return EndpointRelay(
        UUID(bytes=cast(bytes, relay_id)),
        cast(Role, role),
        cast(EndpointState, state),
        decode_plan(cast(bytes, plan)),
        cast(int, count),
        cast(int, size),
        codec.decode(cast(bytes, withstand), FixedDemand),
        cast(int, withstand_here),
        cast(float, deadline),
        None if keys is None else Payload(cast(bytes, keys), cast(bytes, c_source), cast(bytes, c_target)),
        None if valid is None else bool(valid),
        None if findings is None else codec.decode(cast(bytes, findings), Findings),
        tuple(parse_route(route) for route in cast(str, equivocating).split(_BETWEEN_ROUTES) if route),
    )


def _waiting(row: tuple[object, ...]) -> WaitingShare:
    number, relay_id, route, plan, deadline, payload, index, threshold, told = row
    share = SendShare(
        UUID(bytes=cast(bytes, relay_id)),
        parse_route(cast(str, route)),
        decode_plan(cast(bytes, plan)),
        cast(float, deadline),
        cast(bytes, payload),
        cast(int, index),
        cast(int, threshold),
    )
    return WaitingShare(cast(int, number), share, told != "")
