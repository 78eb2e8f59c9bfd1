"""Blocks of link key that a KME holds at the receiving ends of its links, as far as they were not used."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from qkdrelay.link.blocks.receiver import ENDED_S, HeldKey
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import BLOCK_ID_BYTES, HELD_MAX, BlockId, Facts
from qkdrelay.service.journal import Journal
from qkdrelay.service.tables import Table

# Of each sender the newest block that was ever held is kept for ever: none that is not newer is held again.
SCHEMA = """
CREATE TABLE held_newest (peer TEXT PRIMARY KEY, block BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE held_keys (peer TEXT NOT NULL, block BLOB NOT NULL, facts BLOB NOT NULL, tag BLOB NOT NULL,
                        slots BLOB NOT NULL, pad BLOB NOT NULL, finished BLOB NOT NULL, used BLOB NOT NULL,
                        until REAL, PRIMARY KEY (peer, block)) WITHOUT ROWID;
CREATE INDEX held_keys_by_until ON held_keys (until) WHERE until IS NOT NULL;
"""
_NONE: Final = bytes(BLOCK_ID_BYTES)
_FINISHED: Final = struct.Struct("<I16s")
_SPAN: Final = struct.Struct("<II")
_PUT: Final = (
    "INSERT INTO held_keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL) ON CONFLICT DO UPDATE SET slots = excluded.slots,"
    " pad = excluded.pad, finished = excluded.finished, used = excluded.used"
)


class HeldKeys(Table):
    """Blocks by the peer that seals under them; what is used of them is wiped in the transaction that uses it."""

    def __init__(self, store: Journal) -> None:
        """``store`` has the tables of `SCHEMA`."""
        super().__init__(store)
        self._blocks: dict[str, dict[BlockId, HeldKey]] = store.batch.cache({})
        self._newest: dict[str, BlockId] = store.batch.cache({})
        self._changed: dict[tuple[str, BlockId], HeldKey | None] = store.batch.scratch({})
        """What is to be written; None where a block is used up."""

    def flush(self) -> None:
        """Write what was used."""
        if not self._changed:
            return
        changed = {key: held for key, held in self._changed.items() if held is not None}
        self._db.executemany("DELETE FROM held_keys WHERE peer = ? AND block = ?", self._changed.keys() - changed)
        self._db.executemany(_PUT, [_row(peer, held) for (peer, _), held in changed.items()])
        self._changed.clear()

    def of(self, peer: str) -> Mapping[BlockId, HeldKey]:
        """Return the blocks of a peer that are held."""
        blocks = self._blocks.get(peer)
        if blocks is None:
            rows = self.all(
                "SELECT facts, tag, slots, pad, finished, used FROM held_keys WHERE peer = ? ORDER BY block", peer
            )
            held = (self._store.parsed(_parsed, row) for row in rows)
            blocks = self._blocks[peer] = {each.facts.block: each for each in held}
        return blocks

    def newest(self, peer: str) -> BlockId:
        """Return the newest block of a peer that was ever held; zeros if none was."""
        newest = self._newest.get(peer)
        if newest is None:
            row = self.one("SELECT block FROM held_newest WHERE peer = ?", peer)
            newest = self._newest[peer] = _NONE if row is None else bytes(row[0])
        return newest

    def latest(self, peer: str) -> list[HeldKey]:
        """Return the `HELD_MAX` newest blocks of a peer that are held."""
        blocks = self.of(peer)
        return [blocks[name] for name in sorted(blocks)[-HELD_MAX:]]

    def hold(self, peer: str, held: HeldKey, now: float) -> None:
        """Hold a block, and those below its floor for `ENDED_S` more: nothing is sealed under them any more."""
        name, floor = held.facts.block, held.facts.floor
        self.of(peer)
        self._put(peer, held)
        self._newest[peer] = max(self.newest(peer), name)
        self.run("INSERT OR REPLACE INTO held_newest VALUES (?, ?)", peer, self._newest[peer])
        until = "UPDATE held_keys SET until = ? WHERE peer = ? AND block < ? AND until IS NULL"
        self.run(until, now + ENDED_S, peer, floor)

    def use(self, peer: str, after: Mapping[BlockId, HeldKey]) -> None:
        """Keep blocks as they are after a message was opened; those that are used up go."""
        for held in after.values():
            self._put(peer, held)

    def purge(self, now: float) -> bool:
        """Delete blocks whose time is over; return whether there were any."""
        # Distances, so that a clock that was far ahead for a while keeps nothing for ever.
        gone = self.run("DELETE FROM held_keys WHERE until < ? OR until > ?", now, now + 2 * ENDED_S).rowcount > 0
        if gone:
            self._blocks.clear()
        return gone

    def _put(self, peer: str, held: HeldKey) -> None:
        name, blocks = held.facts.block, self._blocks.setdefault(peer, {})
        if held.is_used_up:
            blocks.pop(name, None)
            self._changed[peer, name] = None
        else:
            blocks[name] = held
            self._changed[peer, name] = held


def _row(peer: str, held: HeldKey) -> tuple[object, ...]:
    facts = held.facts
    finished = b"".join(_FINISHED.pack(*each) for each in held.finished)
    used = b"".join(_SPAN.pack(*span) for span in held.used)
    return peer, facts.block, codec.encode(facts), held.tag, held.slots, held.pad, finished, used


def _parsed(row: tuple[bytes, ...]) -> HeldKey:
    facts, tag, slots, pad, finished, used = row
    return HeldKey(
        codec.decode(facts, Facts),
        tag,
        slots,
        pad,
        tuple((index, bytes(tag)) for index, tag in _unpacked(_FINISHED, finished)),
        tuple((first, after) for first, after in _unpacked(_SPAN, used)),
    )


def _unpacked(form: struct.Struct, data: bytes) -> Iterator[tuple[Any, ...]]:
    if len(data) % form.size:
        raise ValueError("it is no whole number of entries")
    return form.iter_unpack(data)
