"""What a KME keeps for its applications as slaves: supply that is not assigned, assignments, keys to be fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from kme.store.application_records import ASSIGNMENT, KEY, SUPPLY, HeldSupply, KeptAssignment, SlaveKey
from kme.store.relay_record import stored_id
from qkdrelay.network.directory import Sae
from qkdrelay.service.batch import Cell
from qkdrelay.service.tables import Store, Table

_ENDED_AT_ONCE: Final = 4_096
"""Keys, or assignments, that are deleted in one turn because their time is over."""
_IDS_AT_ONCE: Final = 500


SCHEMA = f"""
CREATE TABLE supplies ({SUPPLY.schema});
CREATE TABLE assignments (assign_id BLOB PRIMARY KEY, master TEXT NOT NULL, slave TEXT NOT NULL, {ASSIGNMENT.schema});
CREATE INDEX assignments_by_end ON assignments (keep_until);
CREATE INDEX assignments_by_pair ON assignments (master, slave);
CREATE TABLE application_keys ({KEY.schema});
CREATE INDEX application_keys_by_end ON application_keys (keep_until);
CREATE INDEX application_keys_by_pair ON application_keys (master, slave);
CREATE INDEX application_keys_fetched ON application_keys (fetched_at) WHERE fetched_at IS NOT NULL;
CREATE TABLE application_saes (sae TEXT PRIMARY KEY, kme TEXT NOT NULL, pin TEXT) WITHOUT ROWID;
CREATE TABLE application_pairs (master TEXT NOT NULL, slave TEXT NOT NULL, state TEXT NOT NULL, keys INTEGER NOT NULL,
                                PRIMARY KEY (master, slave, state)) WITHOUT ROWID;
"""
CountedState = Literal["assigned", "fetched", "expired", "destroyed"]
"""What became of keys for slaves; destroyed are those of an SAE that was struck off."""


class PairCount(NamedTuple):
    """How many keys of a pair of SAEs have come into a state here."""

    master: str
    slave: str
    state: CountedState
    keys: int


class Applications(Table):
    """Supply, assignments and keys at the slaves' KME, and counts of them."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._held: Cell[dict[str, int] | None] = Cell(store.batch, None)
        """Bytes of keys that wait to be fetched, by the masters' KME, once they were counted."""

    # --- supply ------------------------------------------------------------------------------------

    def keep_supply(self, supply: HeldSupply) -> None:
        """Keep supply as it is now."""
        names = SUPPLY.names
        changing = ", ".join(f"{name} = excluded.{name}" for name in SUPPLY.changing)
        insert = f"INSERT INTO supplies ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        self.run(f"{insert} ON CONFLICT DO UPDATE SET {changing}", *SUPPLY.row(supply))

    def supply(self, relay_id: UUID) -> HeldSupply | None:
        """Return the supply of one relay."""
        row = self.one(f"SELECT {', '.join(SUPPLY.names)} FROM supplies WHERE relay_id = ?", stored_id(relay_id))
        return None if row is None else self._store.parsed(SUPPLY.read, row)

    def drop_supply(self, relay_id: UUID) -> bool:
        """Delete the supply of one relay; return whether there was any."""
        return self.run("DELETE FROM supplies WHERE relay_id = ?", stored_id(relay_id)).rowcount > 0

    def supply_bytes(self) -> list[tuple[str, int, int]]:
        """Return the bytes that are not assigned: (source, level, bytes)."""
        return self.all("SELECT source, level, sum(length(keys)) FROM supplies GROUP BY source, level")

    # --- assignments -------------------------------------------------------------------------------

    def assignment(self, assign_id: UUID) -> KeptAssignment | None:
        """Return an assignment that was accepted."""
        names = ", ".join(ASSIGNMENT.names)
        row = self.one(f"SELECT {names} FROM assignments WHERE assign_id = ?", stored_id(assign_id))
        return None if row is None else self._store.parsed(ASSIGNMENT.read, row)

    def keep_assignment(self, kept: KeptAssignment) -> None:
        """Keep an assignment."""
        about = stored_id(kept.assign_id), kept.assignment.master, kept.assignment.slave
        self.run("INSERT INTO assignments VALUES (?, ?, ?, ?, ?, ?)", *about, *ASSIGNMENT.row(kept))

    # --- keys --------------------------------------------------------------------------------------

    def add(self, keys: Sequence[SlaveKey]) -> None:
        """Keep keys."""
        self._change_held(keys, 1)
        self._db.executemany(
            f"INSERT INTO application_keys VALUES ({', '.join('?' * len(KEY.names))})", map(KEY.row, keys)
        )

    def get(self, key_ids: Iterable[UUID]) -> dict[UUID, SlaveKey]:
        """Return those of these keys that are here."""
        found: dict[UUID, SlaveKey] = {}
        ids = [stored_id(key_id) for key_id in key_ids]
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[start : start + _IDS_AT_ONCE]
            for key in self._keys(f"key_id IN ({', '.join('?' * len(some))})", *some):
                found[key.key_id] = key
        return found

    def delete(self, keys: Sequence[SlaveKey]) -> None:
        """Delete keys."""
        self._change_held(keys, -1)
        self._db.executemany("DELETE FROM application_keys WHERE key_id = ?", [(stored_id(k.key_id),) for k in keys])

    def note_fetched(self, keys: Sequence[SlaveKey], by: str, now: float) -> None:
        """Note that keys were fetched, by whoever has this certificate: they are kept for it a little longer."""
        rows = [(now, by, stored_id(key.key_id)) for key in keys if key.fetched_at is None]
        self._db.executemany("UPDATE application_keys SET fetched_at = ?, fetched_by = ? WHERE key_id = ?", rows)

    def ended(self, now: float) -> list[SlaveKey]:
        """Return keys that nobody has fetched in time; at most so many that a turn is not held up."""
        return self._keys("keep_until < ? AND fetched_at IS NULL ORDER BY keep_until LIMIT ?", now, _ENDED_AT_ONCE)

    def fetched_before(self, then: float, now: float) -> list[SlaveKey]:
        """Return keys that were fetched before ``then``, or after ``now``: a clock that was stepped back keeps none."""
        condition = "fetched_at IS NOT NULL AND (fetched_at <= ? OR fetched_at > ?) LIMIT ?"
        return self._keys(condition, then, now, _ENDED_AT_ONCE)

    def of_pair(self, master: str, slave: str) -> list[SlaveKey]:
        """Return the keys of a pair, at most so many that a turn is not held up."""
        return self._keys("master = ? AND slave = ? LIMIT ?", master, slave, _ENDED_AT_ONCE)

    def pairs(self) -> list[tuple[str, str]]:
        """Return the pairs of SAEs that have keys here, or had them assigned."""
        return self.all("SELECT master, slave FROM application_keys UNION SELECT master, slave FROM assignments")

    def latest(self, limit: int) -> list[SlaveKey]:
        """Return the keys that wait to be fetched, those kept longest first."""
        return self._keys("fetched_at IS NULL ORDER BY keep_until DESC, key_id LIMIT ?", limit)

    def saes(self) -> dict[str, Sae]:
        """Return the SAEs that keys are kept by: those of the directory that was adopted last."""
        return {row[0]: Sae(*row) for row in self.all("SELECT sae, kme, pin FROM application_saes")}

    def set_saes(self, saes: Mapping[str, Sae]) -> None:
        """Keep the SAEs that keys are kept by."""
        self.run("DELETE FROM application_saes")
        rows = [(sae.sae_id, sae.kme, sae.pin) for sae in saes.values()]
        self._db.executemany("INSERT INTO application_saes VALUES (?, ?, ?)", rows)

    def _keys(self, condition: str, *values: object) -> list[SlaveKey]:
        rows = self.all(f"SELECT {', '.join(KEY.names)} FROM application_keys WHERE {condition}", *values)
        return [self._store.parsed(KEY.read, row) for row in rows]

    def forget_assignments(self, master: str, slave: str) -> bool:
        """Delete assignments of a pair, at most so many that a turn is not held up; return whether there were any.

        Whoever asks for them again is refused.
        """
        some = "SELECT assign_id FROM assignments WHERE master = ? AND slave = ? LIMIT ?"
        done = self.run(f"DELETE FROM assignments WHERE assign_id IN ({some})", master, slave, _ENDED_AT_ONCE)
        return done.rowcount > 0

    def purge(self, now: float) -> None:
        """Delete assignments of keys that nobody hands out any more."""
        old = "SELECT assign_id FROM assignments WHERE keep_until < ? ORDER BY keep_until LIMIT ?"
        self.run(f"DELETE FROM assignments WHERE assign_id IN ({old})", now, _ENDED_AT_ONCE)

    # --- how much there is -------------------------------------------------------------------------

    def held(self) -> dict[str, int]:
        """Return the bytes of keys that wait to be fetched, by the masters' KME."""
        if self._held.value is None:  # counted once: it is asked for with every assignment
            rows = self.all("SELECT source, sum(length(key)) FROM application_keys GROUP BY source")
            self._held.value = dict(rows)
        return self._held.value

    def _change_held(self, keys: Sequence[SlaveKey], sign: int) -> None:
        held = dict(self.held())
        for key in keys:
            held[key.source] = held.get(key.source, 0) + sign * len(key.key)
        self._held.value = held

    def count(self, master: str, slave: str, state: CountedState, keys: int) -> None:
        """Count keys of a pair that have come into a state."""
        self.run(
            "INSERT INTO application_pairs VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET keys = keys + excluded.keys",
            *(master, slave, state, keys),
        )

    def counts(self) -> list[PairCount]:
        """Return all that was counted."""
        rows: list[Any] = self.all("SELECT master, slave, state, keys FROM application_pairs ORDER BY 1, 2, 3")
        return [PairCount(*row) for row in rows]
