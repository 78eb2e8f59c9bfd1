"""Supply, assignments and keys at the slaves' KME as the store keeps them: a new field is one more line here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from uuid import UUID

from kme.applications import Route014
from kme.store.relay_record import parse_id, stored_id
from qkdrelay.messages import codec
from qkdrelay.messages.assignments import Assignment
from qkdrelay.network.key_cost import TAG_PAIR_BYTES
from qkdrelay.service.records import Column, Record


@dataclass(frozen=True, slots=True)
class HeldSupply:
    """Supply at its target: what is not assigned yet. What was is deleted here, and never assigned again."""

    relay_id: UUID
    source: str
    level: int
    """Compromised KMEs that its plan withstands, by its terms."""
    route: Route014
    until: float
    """Until then it may be assigned, in seconds since the epoch."""
    keys: bytes = field(repr=False)
    """The key bytes from the first free one on."""
    tag_keys: bytes = field(repr=False)
    """The pairs of tag keys from the first free one on."""
    first_free_byte: int = 0
    first_free_tag: int = 0
    """They only ever rise, for as long as anything of the relay is kept."""

    @property
    def end(self) -> int:
        """Bytes of supply that the relay brought."""
        return self.first_free_byte + len(self.keys)

    @property
    def tags_end(self) -> int:
        """Pairs of tag keys that it brought."""
        return self.first_free_tag + len(self.tag_keys) // TAG_PAIR_BYTES

    def tag_pair(self, number: int) -> bytes:
        """Return a pair of tag keys that is free."""
        start = (number - self.first_free_tag) * TAG_PAIR_BYTES
        return self.tag_keys[start : start + TAG_PAIR_BYTES]

    def cut(self, offset: int, length: int) -> bytes:
        """Return key bytes that are free."""
        start = offset - self.first_free_byte
        return self.keys[start : start + length]

    def after(self, assignment: Assignment) -> HeldSupply:
        """Return what is left when this is assigned: nothing before its end."""
        free_byte, free_tag = assignment.offset + assignment.length, assignment.tag_number + 1
        return replace(
            self,
            keys=self.keys[free_byte - self.first_free_byte :],
            tag_keys=self.tag_keys[(free_tag - self.first_free_tag) * TAG_PAIR_BYTES :],
            first_free_byte=free_byte,
            first_free_tag=free_tag,
        )


@dataclass(frozen=True, slots=True)
class KeptAssignment:
    """An assignment that was accepted, and the answer to it: the same, however often it is asked for."""

    assignment: Assignment
    answer_tag: bytes
    keep_until: float

    @property
    def assign_id(self) -> UUID:
        """Its id."""
        return self.assignment.assign_id


@dataclass(frozen=True, slots=True)
class SlaveKey:
    """A key that its slave has to fetch."""

    key_id: UUID
    assign_id: UUID | None
    """None for a key of two SAEs at this KME."""
    source: str
    """The KME of the master."""
    master: str
    slave: str
    key: bytes = field(repr=False)
    level: int
    route: Route014
    made_at: float
    """When its relay was made, in seconds since the epoch."""
    keep_until: float
    fetched_at: float | None = None
    fetched_by: str | None = None
    """The fingerprint of the certificate that has fetched it."""


def _assignment(stored: bytes) -> Assignment:
    return codec.decode(stored, Assignment)


def _stored_id_or_none(found: UUID | None) -> bytes | None:
    return None if found is None else stored_id(found)


def _id_or_none(stored: bytes | None) -> UUID | None:
    return None if stored is None else parse_id(stored)


_TEXT, _BLOB, _REAL, _INTEGER = "TEXT NOT NULL", "BLOB NOT NULL", "REAL NOT NULL", "INTEGER NOT NULL"
SUPPLY = Record(
    HeldSupply,
    Column("relay_id", "BLOB PRIMARY KEY", stored_id, parse_id),
    Column("source", _TEXT),
    Column("level", _INTEGER),
    Column("route", _TEXT),
    Column("until", _REAL),
    Column("keys", _BLOB, changes=True),
    Column("tag_keys", _BLOB, changes=True),
    Column("first_free_byte", _INTEGER, changes=True),
    Column("first_free_tag", _INTEGER, changes=True),
)
ASSIGNMENT = Record(
    KeptAssignment,
    Column("assignment", _BLOB, codec.encode, _assignment),
    Column("answer_tag", _BLOB),
    Column("keep_until", _REAL),
)
KEY = Record(
    SlaveKey,
    Column("key_id", "BLOB PRIMARY KEY", stored_id, parse_id),
    Column("assign_id", "BLOB", _stored_id_or_none, _id_or_none),
    Column("source", _TEXT),
    Column("master", _TEXT),
    Column("slave", _TEXT),
    Column("key", _BLOB),
    Column("level", _INTEGER),
    Column("route", _TEXT),
    Column("made_at", _REAL),
    Column("keep_until", _REAL),
    Column("fetched_at", "REAL", changes=True),
    Column("fetched_by", "TEXT", changes=True),
)
