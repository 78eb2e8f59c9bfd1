"""What a KME knows of the keys it has for applications as the masters' KME: supply, assignments, ready keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

from kme.applications import Route014
from qkdrelay.messages.assignments import Assign
from qkdrelay.messages.keys import KEY_SIZE_BITS_MIN
from qkdrelay.network.directory import LEVEL_MAX
from qkdrelay.network.key_cost import TAG_PAIR_BYTES
from qkdrelay.network.plan import Plan

_LEAST: Final = KEY_SIZE_BITS_MIN // 8


ONLY_DIRECT: Final = LEVEL_MAX + 1
"""The level of a demand that only a direct link satisfies."""


KEYS_LOGGED_MAX: Final = 128
"""key_IDs in one line of the log."""


class Pair(NamedTuple):
    """Two SAEs: who asks for keys, and who fetches them by their ids."""

    master: str
    slave: str


class Want(NamedTuple):
    """What a pair is given: keys of one size that withstand so many compromised KMEs, or more."""

    pair: Pair
    size_bits: int
    level: int

    @property
    def key_bytes(self) -> int:
        """Bytes of one key."""
        return self.size_bits // 8


@dataclass(frozen=True, slots=True)
class SupplyLimits:
    """Limits of what a KME keeps, asks for and lets wait for its applications as masters."""

    wait_s: float = 5.0
    """Seconds that a request waits for keys at most."""
    usable_s: float = 7 * 86_400.0
    """Seconds that keys can be handed out after they were cut."""
    waiters: int = 256
    waiters_each: int = 8
    """Requests that wait: in all, and of one SAE."""
    bytes_all: int = 128 << 20
    bytes_each: int = 16 << 20
    """Bytes that are assigned and not handed out yet: in all, and of one master."""
    bytes_ahead: int = 256 << 10
    """Bytes cut ahead for one size of a pair's keys."""
    supply_bytes: int = 128 << 20
    supply_bytes_each: int = 16 << 20
    """Bytes of supply that are not assigned: in all, and for one target."""
    wants: int = 16_384
    wants_each: int = 512
    """Pairs, by size and level of their keys, that are in use: in all, and of one master."""
    pending: int = 2_048
    """Assignments that are not answered."""
    assigns_per_s: float = 200.0
    """Assignments that are sent a second; in a burst twice as many."""


@dataclass(frozen=True, slots=True)
class SupplyRelay:
    """A relay whose bytes are supply, at its source; nothing before its cursor is cut any more."""

    relay_id: UUID
    target: str
    level: int
    """Compromised KMEs that its plan withstands, by its terms."""
    route: Route014
    until: float
    """Nothing is assigned of it after that, in seconds since the epoch."""
    deadline: float
    """The relay's: one that is not confirmed by then will hardly be."""
    keys: bytes = field(repr=False)
    tag_keys: bytes = field(repr=False)
    """Pairs of tag keys, one after the other."""
    is_confirmed: bool = False
    """Whether the target is known to hold the same bytes."""
    next_byte: int = 0
    next_tag: int = 0

    @property
    def bytes_left(self) -> int:
        """Bytes that can be assigned; 0 if there is no tag key left for them, or less than any key."""
        left = len(self.keys) - self.next_byte
        return left if left >= _LEAST and (self.next_tag + 1) * TAG_PAIR_BYTES <= len(self.tag_keys) else 0

    @property
    def tag_pair(self) -> bytes:
        """The next pair of tag keys."""
        start = self.next_tag * TAG_PAIR_BYTES
        return self.tag_keys[start : start + TAG_PAIR_BYTES]

    def counts(self, now: float, *, confirmed: bool) -> bool:
        """Whether keys may be cut of it now, as of one that is confirmed, or as of one that is not yet."""
        return self.is_confirmed == confirmed and now < self.until and (confirmed or now < self.deadline)

    def satisfies(self, level: int) -> bool:
        """Whether a demand of that level may be met from it."""
        return _satisfies(self.level, self.route, level)


@dataclass(frozen=True, slots=True)
class Block:
    """Keys of one assignment that are not handed out yet."""

    assign: Assign
    """As it was sent, and is sent again."""
    answer_tag: bytes = field(repr=False)
    """What the target's answer is tagged with."""
    keys: bytes = field(repr=False)
    """All that the assignment has, in order."""
    level: int
    route: Route014
    first: int = 0
    """The number of the first key that is not handed out."""

    @property
    def count(self) -> int:
        """Keys left."""
        return self.assign.assignment.key_count - self.first

    @property
    def bytes_left(self) -> int:
        """Bytes of the keys left."""
        return self.count * self.assign.assignment.key_size_bits // 8

    @property
    def pair(self) -> Pair:
        """Whose keys they are."""
        return Pair(self.assign.assignment.master, self.assign.assignment.slave)

    def serves(self, want: Want) -> bool:
        """Whether what is wanted may be taken from it."""
        same = self.pair == want.pair and self.assign.assignment.key_size_bits == want.size_bits
        return same and _satisfies(self.level, self.route, want.level)


def route_of(plan: Plan) -> Route014:
    """Return how keys get to the target over a plan."""
    return "direct" if len(plan.links) == 1 else "relayed"


def rank(level: int, demanded: int) -> int:
    """Return what orders supply and keys for a demand: the lowest level that will do comes first."""
    return level if level >= demanded else 1_000


def _satisfies(level: int, route: Route014, demanded: int) -> bool:
    """Whether keys of this level and route meet a demand; between neighbours nobody is compromised on the way."""
    return route == "direct" or level >= demanded != ONLY_DIRECT
