"""The shares that wait for their links, and the links that are down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from kme.effects import SendShare
from kme.store.relay_record import parse_id
from qkdrelay.messages.plans import decode_plan, encode_plan
from qkdrelay.network.names import Route, parse_route, route_name
from qkdrelay.service.tables import Table

# Its column ``told`` has the reason for which a share was last reported to wait.
SCHEMA = """
CREATE TABLE down (peer TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE waiting (id INTEGER PRIMARY KEY AUTOINCREMENT, peer TEXT NOT NULL, origin TEXT NOT NULL,
                      relay_id BLOB NOT NULL, route TEXT NOT NULL, plan BLOB NOT NULL, deadline REAL NOT NULL,
                      payload BLOB NOT NULL, share INTEGER NOT NULL, threshold INTEGER NOT NULL,
                      told TEXT NOT NULL DEFAULT '');
CREATE INDEX waiting_by_peer ON waiting (peer, origin, id);
CREATE INDEX waiting_by_deadline ON waiting (deadline);
"""
_COLUMNS = "id, relay_id, route, plan, deadline, payload, share, threshold, told"


@dataclass(frozen=True, slots=True)
class WaitingShare:
    """A share that is not sealed yet, because its link is down or has too little key."""

    id: int
    share: SendShare
    is_reported: bool
    """Whether the coordinator heard that it waits."""


class WaitingShares(Table):
    """Shares in the order in which they came, by the peer they are for and the origin they came from."""

    def links_down(self) -> frozenset[str]:
        """Return the peers whose link does not carry."""
        return frozenset(row[0] for row in self.all("SELECT peer FROM down"))

    def switch_link(self, peer: str, *, up: bool) -> None:
        """Keep whether the link to ``peer`` carries."""
        self.run("DELETE FROM down WHERE peer = ?" if up else "INSERT OR IGNORE INTO down VALUES (?)", peer)

    def add(self, share: SendShare, origin: str) -> None:
        """Keep a share that came from ``origin`` until its link has key."""
        self.run(
            "INSERT INTO waiting (peer, origin, relay_id, route, plan, deadline, payload, share, threshold)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            share.route[-1],
            origin,
            share.relay_id.bytes,
            route_name(share.route),
            encode_plan(share.plan),
            share.deadline,
            share.payload,
            share.index,
            share.threshold,
        )

    def counts(self) -> dict[str, int]:
        """Return how many shares wait, by peer."""
        return dict(self.all("SELECT peer, count(*) FROM waiting GROUP BY peer"))

    def sizes(self) -> list[tuple[str, str, int, int]]:
        """Return what waits as (peer, origin, shares, their bytes)."""
        return self.all("SELECT peer, origin, count(*), sum(length(payload)) FROM waiting GROUP BY peer, origin")

    def queue(self, peer: str, origin: str) -> Iterator[WaitingShare]:
        """Yield the shares from ``origin`` that wait for the link to ``peer``, those that wait longest first."""
        return self._select("peer = ? AND origin = ? ORDER BY id", peer, origin)

    def unreported(self, peer: str, reason: str, limit: int) -> list[WaitingShare]:
        """Return shares that wait for the link to ``peer`` and were not reported to wait for ``reason`` yet."""
        return list(self._select("peer = ? AND told != ? LIMIT ?", peer, reason, limit))

    def _select(self, which: str, *arguments: object) -> Iterator[WaitingShare]:
        query = f"SELECT {_COLUMNS} FROM waiting WHERE {which}"
        return (self._store.parsed(_parse, row) for row in self.run(query, *arguments))

    def note_reported(self, ids: list[int], reason: str) -> None:
        """Remember that the coordinator hears why these wait."""
        self._db.executemany("UPDATE waiting SET told = ? WHERE id = ?", ((reason, i) for i in ids))

    def remove(self, ids: list[int]) -> None:
        """Delete shares that were sealed."""
        self._db.executemany("DELETE FROM waiting WHERE id = ?", ((i,) for i in ids))

    def drop(self, relay_id: UUID) -> None:
        """Delete the shares of a relay."""
        self.run("DELETE FROM waiting WHERE relay_id = ?", relay_id.bytes)

    def expire(self, before: float) -> list[tuple[UUID, Route]]:
        """Delete the shares whose deadline was before ``before``; return the relay and the route of each."""
        rows = self.all("DELETE FROM waiting WHERE deadline < ? RETURNING relay_id, route", before)
        parsed = self._store.parsed
        return [(parsed(parse_id, relay_id), parsed(parse_route, route)) for relay_id, route in rows]


def _parse(row: tuple[Any, ...]) -> WaitingShare:
    number, relay_id, route, plan, deadline, payload, index, threshold, reported = row
    share = SendShare(parse_id(relay_id), parse_route(route), decode_plan(plan), deadline, payload, index, threshold)
    return WaitingShare(number, share, reported != "")
