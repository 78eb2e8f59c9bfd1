"""Keys that wait at one KME for their slaves: fetched once, deleted once their time is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from kme.applications import (
    KEYS_PER_REQUEST_MAX,
    NOT_FOUND,
    ApplicationKey,
    BadRequestError,
    Caller,
    NotAllowedError,
    TryLaterError,
)
from kme.effects import Effect, LogEvent
from kme.store.application_records import SlaveKey
from kme.store.applications import Applications, CountedState
from kme.supply.model import KEYS_LOGGED_MAX, Pair
from qkdrelay.messages.keys import key_id
from qkdrelay.network.directory import LEVEL_MAX
from qkdrelay.service.batch import Batch, Cell

CLOCKS_S: Final = 86_400.0 + 7_200.0
"""Seconds that a key can be fetched after it can be handed out: clocks may be off by as much as deadlines allow."""


@dataclass(frozen=True, slots=True)
class SlaveLimits:
    """Limits of what a KME keeps for its applications as slaves."""

    bytes_all: int = 256 << 20
    bytes_each: int = 64 << 20
    """Bytes of keys that wait to be fetched: in all, and from one KME."""
    supply_bytes: int = 256 << 20
    """Bytes of supply that are not assigned."""
    assigns_per_s: float = 400.0
    """Assignments that are taken a second; in a burst twice as many."""
    early: int = 512
    early_each: int = 8
    """Assignments that wait for their relay: in all, and of one relay."""
    usable_s: float = 7 * 86_400.0
    """Seconds that keys of two SAEs here are kept for the slave."""
    fetch_again_s: float = 0.0
    """Seconds for which the certificate that has fetched a key may fetch it again; 0: not at all."""


class SlaveKeys:
    """The keys of the slaves at one KME."""

    def __init__(
        self, name: str, batch: Batch, store: Applications, random: Callable[[int], bytes], limits: SlaveLimits
    ) -> None:
        """``name`` is the KME's; ``random`` draws keys of two SAEs here."""
        self._name, self._store, self._random, self._limits = name, store, random, limits
        self.must_wipe = Cell(batch, value=False)
        """Whether deleted keys have left something behind on disk."""

    def has_room(self, source: str, length: int) -> bool:
        """Whether so many bytes more may be kept of keys whose masters are at ``source``."""
        held = self._store.held()
        each, everything = held.get(source, 0) + length, sum(held.values()) + length
        return each <= self._limits.bytes_each and everything <= self._limits.bytes_all

    def fetch(self, caller: Caller, master: str, key_ids: Sequence[UUID], now: float) -> list[ApplicationKey]:
        """Give a slave all of these keys, in this order, once. Raises ApplicationError, and then gives none."""
        if not 1 <= len(key_ids) <= KEYS_PER_REQUEST_MAX:
            raise BadRequestError(f"{len(key_ids)} key_IDs; 1 to {KEYS_PER_REQUEST_MAX} can be asked for at once")
        found = self._store.get(set(key_ids))
        if any(key.slave != caller.sae_id for key in found.values()):
            raise NotAllowedError(f"{caller.sae_id} is not the slave of all keys specified")
        may_be_given = [key for key in found.values() if self._may_be_given(key, caller, master, now)]
        if len(may_be_given) != len(key_ids):
            raise BadRequestError(NOT_FOUND)
        first_time = [key for key in may_be_given if key.fetched_at is None]
        if self._limits.fetch_again_s > 0:
            self._store.note_fetched(first_time, caller.fingerprint, now)
        else:
            self._store.delete(first_time)
            self.must_wipe.value = True
        if first_time:
            self._store.count(master, caller.sae_id, "fetched", len(first_time))
        return [_handed_out(found[key_id], now) for key_id in key_ids]

    def _may_be_given(self, key: SlaveKey, caller: Caller, master: str, now: float) -> bool:
        if key.master != master or now >= key.keep_until:
            return False
        if key.fetched_at is None:
            return True
        return key.fetched_by == caller.fingerprint and 0 <= now - key.fetched_at < self._limits.fetch_again_s

    def draw_local(self, pair: Pair, number: int, size_bits: int, now: float) -> list[ApplicationKey]:
        """Draw keys for two SAEs of this KME, and keep them for the slave. Raises ApplicationError."""
        size, length = size_bits // 8, number * size_bits // 8
        if not self.has_room(self._name, length):
            raise TryLaterError(f"there is no room for more keys that {pair.slave} has to fetch", retry_after_s=60)
        data, namespace = self._random(length), UUID(bytes=self._random(16))
        keys = [
            SlaveKey(
                key_id(namespace, index),
                None,
                self._name,
                pair.master,
                pair.slave,
                data[index * size : (index + 1) * size],
                LEVEL_MAX,
                "local",
                now,
                now + self._limits.usable_s + CLOCKS_S,
            )
            for index in range(number)
        ]
        self._store.add(keys)
        self._store.count(pair.master, pair.slave, "assigned", number)
        return [_handed_out(key, now) for key in keys]

    def delete(self, keys: Sequence[SlaveKey], state: CountedState) -> list[Effect]:
        """Delete keys that nobody will have, and say so."""
        self._store.delete(keys)
        self.must_wipe.value = True
        effects: list[Effect] = []
        for (master, slave), number in Counter((key.master, key.slave) for key in keys).items():
            self._store.count(master, slave, state, number)
            ids = [str(key.key_id) for key in keys if (key.master, key.slave) == (master, slave)]
            for start in range(0, len(ids), KEYS_LOGGED_MAX):
                some = ids[start : start + KEYS_LOGGED_MAX]
                about: dict[str, object] = {"master": master, "slave": slave, "keys": len(some), "key_ids": some}
                effects.append(LogEvent(f"keys.{state}", "warning", about))
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Delete keys whose time is over, and those that were fetched."""
        effects: list[Effect] = []
        if ended := self._store.ended(now):
            effects += self.delete(ended, "expired")
        if fetched := self._store.fetched_before(now - self._limits.fetch_again_s, now):
            self._store.delete(fetched)
            self.must_wipe.value = True
        return effects


def _handed_out(key: SlaveKey, now: float) -> ApplicationKey:
    return ApplicationKey(key.key_id, key.key, key.level, key.route, max(0.0, now - key.made_at))
