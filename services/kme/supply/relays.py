"""Supply at a source: what relays have brought and nobody was assigned yet, and how it is cut (protocol, section 6).

It is in memory only. A start burns it, so that an old copy of a store hands nothing out again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final
from uuid import UUID

from kme.supply.model import Block, SupplyLimits, SupplyRelay, Want, rank
from qkdrelay.link.assignment import assign_tag, assigned_tag
from qkdrelay.messages.assignments import Assign, Assignment
from qkdrelay.messages.keys import KEY_COUNT_MAX
from qkdrelay.service.batch import Batch, BatchDict

FIRST_MAX: Final = 8
"""Assignments from a relay that is not confirmed yet: the target has to keep them until it is rebuilt."""


class SourceSupply:
    """The relays that have brought supply to one KME as their source, or are about to."""

    def __init__(self, name: str, batch: Batch, random: Callable[[int], bytes], limits: SupplyLimits) -> None:
        """``name`` is the KME's; ``random`` draws assign_ids."""
        self._name, self._random, self._limits = name, random, limits
        self._relays: dict[UUID, SupplyRelay] = BatchDict(batch)
        self._of: dict[str, tuple[UUID, ...]] = BatchDict(batch)
        """By target, in the order in which they began."""

    def get(self, relay_id: UUID) -> SupplyRelay | None:
        """Return a relay, if it has anything left."""
        return self._relays.get(relay_id)

    def targets(self) -> list[str]:
        """Return the KMEs for which there is any."""
        return list(self._of)

    def of(self, target: str) -> Iterator[SupplyRelay]:
        """Yield the relays to one KME."""
        return (self._relays[relay_id] for relay_id in self._of.get(target, ()))

    def room(self, target: str) -> int:
        """Return how many bytes more there may be for a target."""
        each = self._limits.supply_bytes_each - sum(relay.bytes_left for relay in self.of(target))
        return max(0, min(each, self._limits.supply_bytes - sum(relay.bytes_left for relay in self._relays.values())))

    def add(self, relay: SupplyRelay) -> None:
        """Take in a relay that begins here."""
        if relay.relay_id not in self._relays:
            self._relays[relay.relay_id] = relay
            self._of[relay.target] = (*self._of.get(relay.target, ()), relay.relay_id)

    def confirm(self, relay_id: UUID) -> SupplyRelay | None:
        """Take note that the target holds the same bytes; return the relay, if it is here."""
        relay = self._relays.get(relay_id)
        return None if relay is None else self._keep(replace(relay, is_confirmed=True))

    def drop(self, relay_id: UUID) -> int:
        """Forget a relay; return how many bytes that burns."""
        relay = self._relays.pop(relay_id, None)
        if relay is None:
            return 0
        left = tuple(each for each in self._of[relay.target] if each != relay_id)
        if left:
            self._of[relay.target] = left
        else:
            del self._of[relay.target]
        return relay.bytes_left

    def expired(self, now: float) -> list[SupplyRelay]:
        """Return the relays of which nothing may be assigned any more."""
        return [relay for relay in self._relays.values() if relay.until <= now]

    def raise_cursor(self, relay_id: UUID, first_free_byte: int, first_free_tag: int) -> int:
        """Heed a hint of the target's, which nobody vouches for: never go back; return how many bytes that burns."""
        relay = self._relays.get(relay_id)
        if relay is None:
            return 0
        before = relay.bytes_left
        at = max(relay.next_byte, min(first_free_byte, len(relay.keys)))
        after = self._keep(replace(relay, next_byte=at, next_tag=max(relay.next_tag, first_free_tag)))
        return before - after.bytes_left

    def left(self, target: str, level: int, now: float, *, confirmed: bool) -> int:
        """Return how many bytes can be assigned for a demand of that level, of relays (not) confirmed."""
        fitting = (relay for relay in self.of(target) if relay.satisfies(level))
        return sum(relay.bytes_left for relay in fitting if relay.counts(now, confirmed=confirmed))

    def keys_left(self, target: str, want: Want, now: float) -> int:
        """Return how many keys can be cut now."""
        fitting = (relay for relay in self.of(target) if relay.satisfies(want.level))
        return sum(relay.bytes_left // want.key_bytes for relay in fitting if relay.counts(now, confirmed=True))

    def cut(self, target: str, want: Want, count: int, now: float, *, confirmed: bool) -> Block | None:
        """Cut up to ``count`` keys of one relay, confirmed or not; None if no relay has one left.

        The relay's cursor is past them from now on, whatever becomes of the assignment.
        """
        fitting = (
            relay
            for relay in self.of(target)
            if relay.counts(now, confirmed=confirmed)
            and relay.satisfies(want.level)
            and relay.bytes_left >= want.key_bytes
            and (confirmed or relay.next_tag < FIRST_MAX)
        )
        # The lowest level that will do; of a level, what was begun first.
        relay = min(fitting, key=lambda each: rank(each.level, want.level), default=None)
        if relay is None:
            return None
        count = min(count, relay.bytes_left // want.key_bytes, KEY_COUNT_MAX)
        assignment = Assignment(
            assign_id=UUID(bytes=self._random(16)),
            relay_id=relay.relay_id,
            source=self._name,
            target=target,
            tag_number=relay.next_tag,
            offset=relay.next_byte,
            master=want.pair.master,
            slave=want.pair.slave,
            key_size_bits=want.size_bits,
            key_count=count,
            usable_until=now + self._limits.usable_s,
        )
        end = relay.next_byte + assignment.length
        pair = relay.tag_pair
        block = Block(
            Assign(assignment=assignment, tag=assign_tag(pair, assignment)),
            assigned_tag(pair, assignment),
            relay.keys[relay.next_byte : end],
            relay.level,
            relay.route,
        )
        self._keep(replace(relay, next_byte=end, next_tag=relay.next_tag + 1))
        return block

    def _keep(self, relay: SupplyRelay) -> SupplyRelay:
        """Keep a relay as it is now, or forget it if nothing is left that can be assigned."""
        self._relays[relay.relay_id] = relay
        if not relay.bytes_left and relay.is_confirmed:
            self.drop(relay.relay_id)
        return relay
