"""Blocks of link key that a KME holds at the receiving ends of its links, as far as they were not used."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from typing import Final

from qkdrelay.link.blocks import receiver
from qkdrelay.link.blocks.content import KeyBlock
from qkdrelay.link.blocks.receiver import BLOCKS_MAX, ENDED_S, HeldKey
from qkdrelay.link.blocks.spans import Span
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import BLOCK_ID_BYTES, HELD_MAX, BlockId, Facts, SlotName
from qkdrelay.service.batch import BatchDict, Cell
from qkdrelay.service.journal import Journal
from qkdrelay.service.tables import Table

# Of each sender the newest block that was ever held is kept for ever: none that is not newer is held again.
SCHEMA = """
CREATE TABLE held_newest (peer TEXT PRIMARY KEY, block BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE held_keys (peer TEXT NOT NULL, block BLOB NOT NULL, facts BLOB NOT NULL, tag BLOB NOT NULL,
                        slots BLOB NOT NULL, pad BLOB NOT NULL, used_slots BLOB NOT NULL, used_pad BLOB NOT NULL,
                        until REAL, PRIMARY KEY (peer, block)) WITHOUT ROWID;
CREATE INDEX held_keys_by_until ON held_keys (until) WHERE until IS NOT NULL;
CREATE TABLE opened (peer TEXT NOT NULL, block BLOB NOT NULL, slot INTEGER NOT NULL, tag BLOB NOT NULL,
                     PRIMARY KEY (peer, block, slot)) WITHOUT ROWID;
"""
OPENED_MAX: Final = 32_768
"""Messages of each peer whose tags are remembered: far more than a broker may deliver again by itself."""
_FORGET_EVERY: Final = 4_096
_NONE: Final = bytes(BLOCK_ID_BYTES)
_SPAN: Final = struct.Struct("<II")
_PUT: Final = (
    "INSERT INTO held_keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL) ON CONFLICT DO UPDATE SET slots = excluded.slots,"
    " pad = excluded.pad, used_slots = excluded.used_slots, used_pad = excluded.used_pad"
)
# The oldest blocks' go first: their ids sort by time.
_FORGET: Final = (
    "DELETE FROM opened WHERE peer = ?1 AND block < (SELECT block FROM opened WHERE peer = ?1"
    " ORDER BY block DESC, slot DESC LIMIT 1 OFFSET ?2)"
)
Computed = Callable[[Facts], bytes | None]
"""Returns the key of a block that is computed; None if it is not to be had so (any more)."""


def _never(_facts: Facts) -> None:
    return None


class HeldKeys(Table):
    """Blocks by the peer that seals under them; what is used of them is wiped in the transaction that uses it.

    What can be computed is not stored, but computed again.
    """

    def __init__(self, store: Journal) -> None:
        """``store`` has the tables of `SCHEMA`."""
        super().__init__(store)
        self._blocks: dict[str, dict[BlockId, HeldKey]] = store.batch.cache({})
        self._key_ids: dict[str, set[str]] = store.batch.cache({})
        """Of the keys of those blocks: whoever has the broker may ask often whether one is among them."""
        self._newest: dict[str, BlockId] = store.batch.cache({})
        self._changed: dict[tuple[str, BlockId], HeldKey | None] = store.batch.scratch({})
        """What is to be written; None where a block is used up."""
        self._opened: dict[tuple[str, BlockId, int], bytes] = store.batch.scratch({})
        self._computed: dict[str, Computed] = {}
        self._has_wiped = Cell(store.batch, value=False)
        self._remembered: dict[str, int] = BatchDict(store.batch)
        """Messages of each peer since some were forgotten; at a start it is not known how many there are."""

    def compute_with(self, peer: str, computed: Computed) -> None:
        """Have the key of a peer's blocks computed where it was not stored."""
        self._computed[peer] = computed

    def flush(self) -> None:
        """Write what was used."""
        if self._opened:
            opened = [(*where, tag) for where, tag in self._opened.items()]
            self._db.executemany("INSERT OR REPLACE INTO opened VALUES (?, ?, ?, ?)", opened)
            for peer, count in Counter(peer for peer, _, _ in self._opened).items():
                self._remembered[peer] = self._remembered.get(peer, _FORGET_EVERY) + count
            self._opened.clear()
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
            columns = "facts, tag, slots, pad, used_slots, used_pad"
            rows = self.all(f"SELECT {columns} FROM held_keys WHERE peer = ? ORDER BY block", peer)
            stored = (self._store.parsed(_parsed, row) for row in rows)
            held = (self._whole(peer, each) for each in stored)
            blocks = self._blocks[peer] = {each.facts.block: each for each in held if each is not None}
            self._key_ids[peer] = {key_id for each in blocks.values() for key_id in each.facts.key_ids}
        return blocks

    def key_ids(self, peer: str) -> Set[str]:
        """Return the ids of the keys of all blocks of a peer that are held."""
        self.of(peer)
        return self._key_ids[peer]

    def _whole(self, peer: str, held: HeldKey) -> HeldKey | None:
        """Return a block with its key; None if it was computed, and cannot be any more."""
        if not held.is_computed:
            return held
        key = self._computed.get(peer, _never)(held.facts)
        if key is None:
            return None
        block = KeyBlock(held.facts, key)
        # Another secret since: what was sealed under the one before is lost.
        return replace(held, slots=block.slots, pad=block.pad) if block.held_tag() == held.tag else None

    def opened(self, peer: str, name: SlotName) -> bytes | None:
        """Return the tag of the message that a slot has opened, as far as that is remembered."""
        now = self._opened.get((peer, name.block, name.index))
        if now is not None:
            return now
        row = self.one("SELECT tag FROM opened WHERE peer = ? AND block = ? AND slot = ?", peer, name.block, name.index)
        return None if row is None else bytes(row[0])

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
        """Hold a block, and those below its floor for `ENDED_S` more: nothing is sealed under them any more.

        Or shorter, where `BLOCKS_MAX` are kept.
        """
        name, floor = held.facts.block, held.facts.floor
        self._put(peer, held)
        self._key_ids[peer].update(held.facts.key_ids)
        blocks = self._blocks[peer]
        if len(blocks) > BLOCKS_MAX and (ended := receiver.oldest_ended(blocks, floor)) is not None:
            self._delete(peer, ended)
        self._newest[peer] = max(self.newest(peer), name)
        self.run("INSERT OR REPLACE INTO held_newest VALUES (?, ?)", peer, self._newest[peer])
        until = "UPDATE held_keys SET until = ? WHERE peer = ? AND block < ? AND until IS NULL"
        self.run(until, now + ENDED_S, peer, floor)

    def use(self, peer: str, name: SlotName, tag: bytes, after: Mapping[BlockId, HeldKey]) -> None:
        """Keep blocks as they are after a slot has opened the message with this tag; those that are used up go."""
        self._opened[peer, name.block, name.index] = tag
        for held in after.values():
            self._put(peer, held)
            self._has_wiped.value = self._has_wiped.value or not held.is_computed

    def purge(self, now: float) -> bool:
        """Delete blocks whose time is over, and forget the oldest messages.

        Return whether key was deleted, or wiped since this was asked last: the write-ahead log may still hold it.
        """
        for peer in [peer for peer, count in self._remembered.items() if count >= _FORGET_EVERY]:
            self._remembered[peer] = 0
            self.run(_FORGET, peer, OPENED_MAX)
        # Distances, so that a clock that was far ahead for a while keeps nothing for ever.
        gone = self.run("DELETE FROM held_keys WHERE until < ? OR until > ?", now, now + 2 * ENDED_S).rowcount > 0
        if gone:
            self._blocks.clear()
        gone, self._has_wiped.value = gone or self._has_wiped.value, False
        return gone

    def _put(self, peer: str, held: HeldKey) -> None:
        self.of(peer)
        name = held.facts.block
        if held.is_used_up:
            self._delete(peer, name)
        else:
            self._blocks[peer][name] = self._changed[peer, name] = held

    def _delete(self, peer: str, name: BlockId) -> None:
        if (held := self._blocks[peer].pop(name, None)) is not None:
            self._key_ids[peer].difference_update(held.facts.key_ids)
        self._changed[peer, name] = None


def _row(peer: str, held: HeldKey) -> tuple[object, ...]:
    facts = held.facts
    key = (b"", b"") if held.is_computed else (held.slots, held.pad)
    return peer, facts.block, codec.encode(facts), held.tag, *key, _packed(held.used_slots), _packed(held.used_pad)


def _parsed(row: tuple[bytes, ...]) -> HeldKey:
    facts, tag, slots, pad, used_slots, used_pad = row
    return HeldKey(codec.decode(facts, Facts), tag, slots, pad, _unpacked(used_slots), _unpacked(used_pad))


def _packed(spans: Iterable[Span]) -> bytes:
    return b"".join(_SPAN.pack(*span) for span in spans)


def _unpacked(data: bytes) -> tuple[Span, ...]:
    if len(data) % _SPAN.size:
        raise ValueError("it is no whole number of entries")
    return tuple((first, after) for first, after in _SPAN.iter_unpack(data))
