"""The coordinator's whole memory, in SQLite: relays, the flow of their shares, the network's state."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast
from uuid import UUID

from coordinator.lifecycle import Relay
from qkdrelay.messages import codec
from qkdrelay.messages.control import Terms
from qkdrelay.messages.reports import DEAD_LETTER_BODY_MAX, Findings
from qkdrelay.messages.states import RelayState
from qkdrelay.network.names import Route, parse_route, route_name
from qkdrelay.network.whereabouts import Whereabouts
from qkdrelay.service.batch import BatchDict, Cell
from qkdrelay.service.journal import Journal
from qkdrelay.service.lru import LruCache
from qkdrelay.service.tables import Table

RELAYS_MAX = 100_000
"""Ended relays beyond this many are forgotten, oldest first."""
DEAD_LETTERS_MAX = 1_000
Step = Literal["split", "forwarded", "collected"]

_SCHEMA = """
CREATE TABLE relays (relay_id BLOB PRIMARY KEY, terms BLOB NOT NULL, policy TEXT NOT NULL, protected INTEGER NOT NULL,
                     relies_on TEXT NOT NULL, created_at REAL NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
                     ended_at REAL, expected INTEGER NOT NULL, source_proof BLOB, target_proof BLOB,
                     source_verified INTEGER NOT NULL, target_verified INTEGER NOT NULL, released TEXT NOT NULL,
                     findings BLOB, source TEXT NOT NULL, target TEXT NOT NULL, deadline REAL NOT NULL,
                     source_due REAL, target_due REAL, source_wait_s REAL NOT NULL, target_wait_s REAL NOT NULL);
CREATE INDEX relays_undecided ON relays (deadline) WHERE ended_at IS NULL;
CREATE INDEX relays_by_source_due ON relays (source, source_due) WHERE source_due IS NOT NULL;
CREATE INDEX relays_by_target_due ON relays (target, target_due) WHERE target_due IS NOT NULL;
CREATE INDEX relays_by_age ON relays (created_at);
CREATE TABLE flow (relay_id BLOB NOT NULL, route TEXT NOT NULL, step TEXT NOT NULL,
                   PRIMARY KEY (relay_id, route, step)) WITHOUT ROWID;
CREATE TABLE stuck (relay_id BLOB NOT NULL, route TEXT NOT NULL, reason TEXT NOT NULL,
                    PRIMARY KEY (relay_id, route)) WITHOUT ROWID;
CREATE TABLE down (a TEXT NOT NULL, b TEXT NOT NULL, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE dead_letters (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kme TEXT NOT NULL,
                           queue TEXT NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX dead_letters_by_kme ON dead_letters (kme);
"""
_RELAY = (
    "SELECT terms, policy, protected, relies_on, created_at, state, reason, ended_at, expected, source_proof,"
    " target_proof, source_verified, target_verified, released, findings FROM relays"
)
_LETTER = "SELECT id, at, kme, queue, reason, body FROM dead_letters"
_CHANGING = (
    "state", "reason", "ended_at", "expected", "source_proof", "target_proof", "source_verified", "target_verified",
    "released", "findings", "source_due", "target_due", "source_wait_s", "target_wait_s",
)  # fmt: skip
# Not REPLACE, which writes the row and all its indexes anew.
_KEEP = (
    "INSERT INTO relays VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in _CHANGING)
)
RELAYS_CACHED, CACHED_PLAN_BYTES_MAX = 2_000, 16_384
"""Relays kept in memory beside the store, and the longest plan that one of them may have."""
_TELL_AGAIN_S, _TELL_AGAIN_MAX_S = 5.0, 300.0
_TELL_AGAIN_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class ShareFlow:
    """What is known of a relay's shares, each by the route to its holder."""

    split: tuple[Route, ...] = ()
    forwarded: tuple[Route, ...] = ()
    collected: tuple[Route, ...] = ()
    stuck: tuple[tuple[Route, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A message that nobody accepted."""

    id: int
    at: float
    """When the coordinator got it, in seconds since the epoch."""
    kme: str
    """Who gave it up: a KME, the coordinator; empty for the broker."""
    queue: str
    reason: str
    body: bytes = field(repr=False)
    """Cut at `DEAD_LETTER_BODY_MAX`; one of just that length counts as cut."""

    @property
    def whole(self) -> bool:
        """Whether nothing was cut off."""
        return len(self.body) < DEAD_LETTER_BODY_MAX


class CoordinatorStore(Table):
    """The durable memory of the coordinator. No key, share or confirmation key ever comes here."""

    def __init__(self, journal: Journal) -> None:
        """``journal`` has the tables of `_SCHEMA` (see `open_coordinator_store`)."""
        super().__init__(journal)
        self.journal, batch = journal, journal.batch
        self._relays: LruCache[UUID, Relay] = batch.cache(LruCache(RELAYS_CACHED))
        self._kept: dict[UUID, tuple[object, ...]] = batch.scratch({})
        self._steps: dict[tuple[bytes, str, Step], None] = batch.scratch({})
        self._stuck: dict[tuple[bytes, str], str] = batch.scratch({})
        """What this transaction has yet to write: relays, and what became of shares."""
        self._any_stuck = Cell(batch, value=True)
        self._undecided: BatchDict[UUID, None] = BatchDict(batch)
        """The relays under way; read when the store is opened."""
        rows = self.run("SELECT relay_id FROM relays WHERE ended_at IS NULL")
        self._undecided.update((journal.parsed(_id, row[0]), None) for row in rows)

    def flush(self) -> None:
        """Write relays, and what became of shares, that are in memory only."""
        if not self._kept and not self._steps and not self._stuck:
            return
        self._db.executemany(_KEEP, self._kept.values())
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
            self._any_stuck.value = self._db.execute("SELECT 1 FROM stuck LIMIT 1").fetchone() is not None
        self._kept.clear()
        self._steps.clear()
        self._stuck.clear()

    # --- relays ------------------------------------------------------------------------------------

    def relay(self, relay_id: UUID) -> Relay | None:
        """Return a relay."""
        relay = self._relays.get(relay_id)
        if relay is None:
            row = self.run(f"{_RELAY} WHERE relay_id = ?", relay_id.bytes).fetchone()
            if row is not None:
                self._cache(relay := self.journal.parsed(_relay, row))
        return relay

    def _cache(self, relay: Relay) -> None:
        """Keep a relay in memory, too, unless it is large: what its target finds may be a megabyte."""
        if relay.findings is None and len(relay.terms.plan) <= CACHED_PLAN_BYTES_MAX:
            self._relays.keep(relay.relay_id, relay)
        else:
            self._relays.drop(relay.relay_id)

    def relays_named(self, digits: str, limit: int) -> list[UUID]:
        """Return the ids that begin with ``digits`` (hexadecimal, no hyphens), at most ``limit``."""
        first, last = (bytes.fromhex(digits.ljust(32, filler)) for filler in "0f")
        query = "SELECT relay_id FROM relays WHERE relay_id BETWEEN ? AND ? ORDER BY relay_id LIMIT ?"
        return [self.journal.parsed(_id, row[0]) for row in self.run(query, first, last, limit)]

    def latest(self, limit: int) -> list[Relay]:
        """Return the latest relays, newest first."""
        rows = self.run(f"{_RELAY} ORDER BY created_at DESC LIMIT ?", limit)
        return [self.journal.parsed(_relay, row) for row in rows]

    def relay_count(self) -> int:
        """Return how many relays are known."""
        return int(self.run("SELECT count(*) FROM relays").fetchone()[0])

    def undecided_count(self) -> int:
        """Return how many relays are under way."""
        return len(self._undecided)

    def overdue(self, now: float) -> list[Relay]:
        """Return the undecided relays whose deadline has passed."""
        rows = self.run(f"{_RELAY} WHERE ended_at IS NULL AND deadline <= ? LIMIT 1000", now)
        return [self.journal.parsed(_relay, row) for row in rows]

    def to_tell_again(self, kme: str, now: float) -> list[Relay]:
        """Return relays that wait for an answer of ``kme`` long enough to tell it again, and back off.

        Each end has its own back-off: one that is alive and one that is not do not take turns. What is due later
        than any back-off lasts is due: the clock was stepped back.
        """
        found: list[Relay] = []
        for end in ("source", "target"):
            is_due = f"({end}_due <= ? OR {end}_due > ?)"
            due = f"SELECT relay_id FROM relays WHERE {end} = ? AND {is_due} ORDER BY {end}_due LIMIT ?"
            chosen = (kme, now, now + _TELL_AGAIN_MAX_S, _TELL_AGAIN_AT_ONCE)
            found += [
                self.journal.parsed(_relay, row) for row in self.run(f"{_RELAY} WHERE relay_id IN ({due})", *chosen)
            ]
            self._db.execute(
                f"UPDATE relays SET {end}_wait_s = min({end}_wait_s * 2, ?), {end}_due = ? + min({end}_wait_s * 2, ?)"
                f" WHERE relay_id IN ({due})",
                (_TELL_AGAIN_MAX_S, now, _TELL_AGAIN_MAX_S, *chosen),
            )
        return found

    def keep(self, relay: Relay, now: float, *, told: Collection[str]) -> None:
        """Keep a relay as it is now.

        ``told`` are the ends that were told something and have not answered.
        """
        source, target = relay.ends
        if relay.ended_at is None:
            self._undecided[relay.relay_id] = None
        else:
            self._undecided.pop(relay.relay_id, None)
        self._cache(relay)
        self._kept[relay.relay_id] = (
            relay.relay_id.bytes,
            codec.encode(relay.terms),
            relay.policy,
            relay.protected,
            " ".join(relay.relies_on),
            relay.created_at,
            relay.state,
            relay.reason,
            relay.ended_at,
            relay.expected,
            relay.source_proof,
            relay.target_proof,
            relay.source_verified,
            relay.target_verified,
            " ".join(relay.released),
            None if relay.findings is None else codec.encode(relay.findings),
            source,
            target,
            relay.terms.deadline,
            now + _TELL_AGAIN_S if source in told else None,
            now + _TELL_AGAIN_S if target in told else None,
            _TELL_AGAIN_S,
            _TELL_AGAIN_S,
        )

    def purge(self) -> None:
        """Forget the oldest ended relays beyond the limit, but none that an end still has to be told of."""
        surplus = self.relay_count() - RELAYS_MAX
        if surplus > 0:
            self._relays.clear()
            settled = "ended_at IS NOT NULL AND source_due IS NULL AND target_due IS NULL"
            old = f"SELECT relay_id FROM relays WHERE {settled} ORDER BY created_at LIMIT ?"
            for table in ("flow", "stuck", "relays"):
                self.run(f"DELETE FROM {table} WHERE relay_id IN ({old})", surplus)

    # --- the flow of shares ------------------------------------------------------------------------

    def add_step(self, relay_id: UUID, route: Route, step: Step) -> None:
        """Remember what became of the share on ``route``."""
        self._steps[relay_id.bytes, route_name(route), step] = None

    def add_stuck(self, relay_id: UUID, route: Route, reason: str) -> None:
        """Remember why the share for ``route`` is not there; of one that is there already, nothing. Empty: it left."""
        self._stuck[relay_id.bytes, route_name(route)] = reason

    def flow(self, relay_id: UUID) -> ShareFlow:
        """Return everything known of a relay's shares."""
        steps: dict[str, list[Route]] = {"split": [], "forwarded": [], "collected": []}
        query = "SELECT route, step FROM flow WHERE relay_id = ? ORDER BY route"
        for route, step in self.run(query, relay_id.bytes):
            steps[step].append(self.journal.parsed(parse_route, route))
        query = "SELECT route, reason FROM stuck WHERE relay_id = ? ORDER BY route"
        stuck = [(self.journal.parsed(parse_route, route), why) for route, why in self.run(query, relay_id.bytes)]
        return ShareFlow(tuple(steps["split"]), tuple(steps["forwarded"]), tuple(steps["collected"]), tuple(stuck))

    def whereabouts(self, relay: Relay) -> Whereabouts:
        """Return where a relay's shares are."""
        flow = self.flow(relay.relay_id)
        return Whereabouts(
            relay.plan, split=flow.split, forwarded=flow.forwarded, collected=flow.collected, stuck=dict(flow.stuck)
        )

    # --- the network and what went wrong -----------------------------------------------------------

    def links_down(self) -> tuple[tuple[str, str], ...]:
        """Return the QKD links that were told to stop carrying."""
        return tuple(self.run("SELECT a, b FROM down ORDER BY a, b").fetchall())

    def turn_link(self, link: tuple[str, str], *, up: bool) -> None:
        """Keep whether a QKD link carries."""
        query = "DELETE FROM down WHERE a = ? AND b = ?" if up else "INSERT OR IGNORE INTO down VALUES (?, ?)"
        self.run(query, *link)

    @property
    def requests_until(self) -> float:
        """No request that was taken was sent later (`qkdrelay.messages.dialogue`), in seconds since the epoch."""
        with self.journal.reading():
            return float(self.journal.meta.get("requests_until") or 0)

    @requests_until.setter
    def requests_until(self, at: float) -> None:
        self.journal.meta.set("requests_until", repr(at).encode())

    def add_dead_letter(self, at: float, kme: str, queue: str, reason: str, body: bytes) -> None:
        """Keep a message that somebody did not accept, cut if it is long.

        Beyond the limit the oldest goes of those of whom there are most: who floods drives out nobody else's.
        """
        row = (at, kme, queue, reason, body[:DEAD_LETTER_BODY_MAX])
        self._db.execute("INSERT INTO dead_letters VALUES (NULL, ?, ?, ?, ?, ?)", row)
        if self.dead_letter_count() > DEAD_LETTERS_MAX:
            most = "SELECT kme FROM dead_letters GROUP BY kme ORDER BY count(*) DESC LIMIT 1"
            oldest = f"SELECT min(id) FROM dead_letters WHERE kme = ({most})"
            self._db.execute(f"DELETE FROM dead_letters WHERE id = ({oldest})")

    def dead_letter_count(self) -> int:
        """Return how many dead letters are kept."""
        return int(self.run("SELECT count(*) FROM dead_letters").fetchone()[0])

    def dead_letters(self, limit: int = DEAD_LETTERS_MAX) -> list[StoredDeadLetter]:
        """Return the latest, newest first."""
        return [StoredDeadLetter(*row) for row in self.run(f"{_LETTER} ORDER BY id DESC LIMIT ?", limit)]

    def dead_letter(self, letter_id: int) -> StoredDeadLetter | None:
        """Return one dead letter."""
        row = self.run(f"{_LETTER} WHERE id = ?", letter_id).fetchone()
        return None if row is None else StoredDeadLetter(*row)

    def drop_dead_letters(self, ids: Iterable[int] | None) -> None:
        """Delete these dead letters; None: all."""
        if ids is None:
            self._db.execute("DELETE FROM dead_letters")
        else:
            self._db.executemany("DELETE FROM dead_letters WHERE id = ?", ((i,) for i in ids))


def open_coordinator_store(path: Path | None) -> CoordinatorStore:
    """Open or create the coordinator's store; None keeps it in memory. Raises StoreError (see `Journal`)."""
    return CoordinatorStore(Journal(path, "coordinator", _SCHEMA))


def _id(stored: bytes) -> UUID:
    return UUID(bytes=stored)


def _relay(row: tuple[object, ...]) -> Relay:
    return Relay(
        terms=codec.decode(cast(bytes, row[0]), Terms),
        policy=cast(str, row[1]),
        protected=bool(row[2]),
        relies_on=tuple(cast(str, row[3]).split()),
        created_at=cast(float, row[4]),
        state=cast(RelayState, row[5]),
        reason=cast(str, row[6]),
        ended_at=cast("float | None", row[7]),
        expected=bool(row[8]),
        source_proof=cast("bytes | None", row[9]),
        target_proof=cast("bytes | None", row[10]),
        source_verified=bool(row[11]),
        target_verified=bool(row[12]),
        released=tuple(cast(str, row[13]).split()),
        findings=None if row[14] is None else codec.decode(cast(bytes, row[14]), Findings),
    )
