"""The shares that a KME has collected as the target of relays; early ones, too, whose relay it does not expect yet."""

from __future__ import annotations

from uuid import UUID

from kme.effects import KeepShare
from kme.model import LATE_S
from kme.store.relay_record import parse_id
from kme.store.relays import CACHED_BYTES_MAX, RELAYS_CACHED, Relays
from qkdrelay.network.names import Route, parse_route, route_name
from qkdrelay.service.batch import Cell
from qkdrelay.service.journal import Journal
from qkdrelay.service.lru import LruCache
from qkdrelay.service.tables import Table

SCHEMA = """
CREATE TABLE shares (relay_id BLOB NOT NULL, route TEXT NOT NULL, deadline REAL NOT NULL, payload BLOB NOT NULL,
                     PRIMARY KEY (relay_id, route));
CREATE INDEX shares_by_deadline ON shares (deadline);
"""
_KEEP = "INSERT INTO shares VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET deadline = excluded.deadline"


class Shares(Table):
    """Shares by relay and route: written behind, and those of the latest relays kept in memory, too."""

    def __init__(self, journal: Journal, relays: Relays) -> None:
        """``journal`` has the tables of `SCHEMA`; ``relays`` are those that shares are for."""
        super().__init__(journal, relays)
        self._relays, batch = relays, journal.batch
        self._collected: dict[tuple[bytes, str], tuple[float, bytes]] = batch.scratch({})
        """What is to be written: deadline and payload by relay and route."""
        self._cached: LruCache[UUID, dict[Route, bytes]] = batch.cache(LruCache(RELAYS_CACHED, CACHED_BYTES_MAX))
        self._early = Cell[tuple[int, int] | None](batch, None)
        """What `early` says, if it was counted: whoever sends such a share must not have all counted anew."""

    def flush(self) -> None:
        """Write shares that are in memory only."""
        if self._collected:
            self._db.executemany(_KEEP, [(*key, *value) for key, value in self._collected.items()])
            self._collected.clear()

    def of(self, relay_id: UUID) -> dict[Route, bytes]:
        """Return the shares of a relay."""
        shares = self._cached.get(relay_id)
        if shares is None:
            rows = self.all("SELECT route, payload FROM shares WHERE relay_id = ?", relay_id.bytes)
            shares = {self._store.parsed(parse_route, route): payload for route, payload in rows}
            self._cached.keep(relay_id, shares, sum(map(len, shares.values())))
        return shares

    def count(self, relay_id: UUID) -> int:
        """Return how many shares of a relay there are; reads none of them."""
        if (shares := self._cached.get(relay_id)) is not None:
            return len(shares)
        return int(self.one("SELECT count(*) FROM shares WHERE relay_id = ?", relay_id.bytes)[0])

    def get(self, relay_id: UUID, route: Route) -> bytes | None:
        """Return one share."""
        if (shares := self._cached.get(relay_id)) is not None:
            return shares.get(route)
        key = (relay_id.bytes, route_name(route))
        # What the store has came first, and stays. Not through `run`: what is yet to be written is looked at below.
        row = self._db.one("SELECT payload FROM shares WHERE relay_id = ? AND route = ?", key)
        if row is not None:
            return bytes(row[0])
        return self._collected[key][1] if key in self._collected else None

    def relays_with(self, limit: int) -> list[UUID]:
        """Return relays that shares were collected for: all that are not rebuilt yet, and the latest ``limit``."""
        expecting = "SELECT DISTINCT relay_id FROM shares JOIN relays USING (relay_id) WHERE state = 'expecting'"
        latest = "SELECT DISTINCT relay_id FROM shares ORDER BY deadline DESC LIMIT ?"
        rows = [*self.all(expecting), *self.all(latest, limit)]
        return [self._store.parsed(parse_id, relay_id) for relay_id in dict.fromkeys(row[0] for row in rows)]

    def early(self) -> tuple[int, int]:
        """Return how many shares of relays that are not expected are kept, and their bytes."""
        if self._early.value is None:
            query = "SELECT count(*), coalesce(sum(length(payload)), 0) FROM shares"
            row = self.one(f"{query} WHERE relay_id NOT IN (SELECT relay_id FROM relays)")
            self._early.value = row[0], row[1]
        return self._early.value

    def expected(self, relay_id: UUID) -> None:
        """Note that a relay is expected from now on: what came for it is early no more."""
        if self._early.value is not None and self._early.value[0]:
            shares = self.of(relay_id).values()
            self._early.value = self._early.value[0] - len(shares), self._early.value[1] - sum(map(len, shares))

    def keep(self, share: KeepShare) -> None:
        """Keep a share that reached the target; of one that is here already, only for how long."""
        if self._early.value is not None and self._relays.get(share.relay_id) is None:
            new = self.get(share.relay_id, share.route) is None
            self._early.value = self._early.value[0] + new, self._early.value[1] + new * len(share.payload)
        key = (share.relay_id.bytes, route_name(share.route))
        kept = self._collected.get(key)
        self._collected[key] = share.deadline, share.payload if kept is None else kept[1]
        shares = self._cached.get(share.relay_id)
        if shares is not None and share.route not in shares:
            shares[share.route] = share.payload
            self._cached.grow(share.relay_id, len(share.payload))

    def drop(self, relay_id: UUID) -> None:
        """Delete the shares of a relay."""
        self._cached.drop(relay_id)
        self.run("DELETE FROM shares WHERE relay_id = ?", relay_id.bytes)

    def purge(self, now: float) -> bool:
        """Delete the shares that have outlived their deadline; return whether there were any."""
        self._cached.clear()
        self._early.value = None
        return self.run("DELETE FROM shares WHERE deadline < ?", now - LATE_S).rowcount > 0
