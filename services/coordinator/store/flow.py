"""The flow of the shares of each relay."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from coordinator.lifecycle import Relay
from qkdrelay.network.names import Route, parse_route, route_name
from qkdrelay.network.whereabouts import Whereabouts
from qkdrelay.service.batch import Cell
from qkdrelay.service.tables import Store, Table

Step = Literal["split", "forwarded", "collected"]

SCHEMA = """
CREATE TABLE flow (relay_id BLOB NOT NULL, route TEXT NOT NULL, step TEXT NOT NULL,
                   PRIMARY KEY (relay_id, route, step)) WITHOUT ROWID;
CREATE TABLE stuck (relay_id BLOB NOT NULL, route TEXT NOT NULL, reason TEXT NOT NULL,
                    PRIMARY KEY (relay_id, route)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class ShareFlow:
    """A relay's shares as far as they are known, each by the route to its holder."""

    split: tuple[Route, ...] = ()
    forwarded: tuple[Route, ...] = ()
    collected: tuple[Route, ...] = ()
    stuck: tuple[tuple[Route, str], ...] = ()


class FlowTable(Table):
    """The steps of shares, and why those that are not there are not; written once a batch."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._steps: dict[tuple[bytes, str, Step], None] = store.batch.scratch({})
        self._stuck: dict[tuple[bytes, str], str] = store.batch.scratch({})
        """Of this transaction, yet to be written."""
        self._any_stuck = Cell(store.batch, value=True)

    def flush(self) -> None:
        """Write what became of shares."""
        if not self._steps and not self._stuck:
            return
        self._db.executemany("INSERT OR IGNORE INTO flow VALUES (?, ?, ?)", self._steps)
        if self._stuck:
            self._any_stuck.value = True
            rows = [(*place, reason) for place, reason in self._stuck.items()]
            self._db.executemany("INSERT OR REPLACE INTO stuck VALUES (?, ?, ?)", rows)
            # What a sender says may come after what the receiver says of the same share.
            arrived = "SELECT 1 FROM flow WHERE relay_id = stuck.relay_id AND route = stuck.route"
            over = f"DELETE FROM stuck WHERE relay_id = ? AND route = ? AND (reason = '' OR EXISTS ({arrived}))"
            self._db.executemany(over, self._stuck.keys())
        if self._any_stuck.value:
            gone = [(relay_id, route) for relay_id, route, _ in self._steps]
            self._db.executemany("DELETE FROM stuck WHERE relay_id = ? AND route = ?", gone)
            self._any_stuck.value = self._db.one("SELECT 1 FROM stuck LIMIT 1") is not None
        self._steps.clear()
        self._stuck.clear()

    def add_step(self, relay_id: UUID, route: Route, step: Step) -> None:
        """Remember what became of the share on ``route``."""
        self._steps[relay_id.bytes, route_name(route), step] = None

    def add_stuck(self, relay_id: UUID, route: Route, reason: str) -> None:
        """Remember why the share for ``route`` is not there; of one that is there already, nothing. Empty: it left."""
        self._stuck[relay_id.bytes, route_name(route)] = reason

    def of(self, relay_id: UUID) -> ShareFlow:
        """Return everything known of a relay's shares."""
        steps = self.all("SELECT route, step FROM flow WHERE relay_id = ? ORDER BY route", relay_id.bytes)
        stuck = self.all("SELECT route, reason FROM stuck WHERE relay_id = ? ORDER BY route", relay_id.bytes)
        return self._store.parsed(_flow, (steps, stuck))

    def whereabouts(self, relay: Relay) -> Whereabouts:
        """Return where a relay's shares are."""
        flow = self.of(relay.relay_id)
        return Whereabouts(
            relay.plan, split=flow.split, forwarded=flow.forwarded, collected=flow.collected, stuck=dict(flow.stuck)
        )

    def forget(self, relay_ids: Collection[UUID]) -> None:
        """Delete what is known of the shares of these relays."""
        if relay_ids:
            self.flush()
            for table in ("flow", "stuck"):
                self._db.executemany(f"DELETE FROM {table} WHERE relay_id = ?", [(each.bytes,) for each in relay_ids])


def _flow(stored: tuple[list[tuple[str, Step]], list[tuple[str, str]]]) -> ShareFlow:
    steps: dict[Step, list[Route]] = {"split": [], "forwarded": [], "collected": []}
    for route, step in stored[0]:
        steps[step].append(parse_route(route))
    stuck = tuple((parse_route(route), reason) for route, reason in stored[1])
    return ShareFlow(tuple(steps["split"]), tuple(steps["forwarded"]), tuple(steps["collected"]), stuck)
