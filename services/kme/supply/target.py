"""The slaves' side of keys for applications at one KME: assignments are checked and kept, keys fetched once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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
from kme.effects import Effect, LogEvent, SendReport, WipeDeleted
from kme.model import EndpointRelay
from kme.store.applications import Applications, CountedState, HeldSupply, KeptAssignment, SlaveKey
from kme.supply.model import Pair
from kme.supply.rates import STILL, Allowance, Rate
from qkdrelay.link.assignment import assign_tag_is_valid, assigned_tag
from qkdrelay.messages.assignments import Assign, Assigned, Assignment, AssignRefusal, AssignRefused, IncomingSupply
from qkdrelay.messages.keys import key_id
from qkdrelay.messages.relay_ids import made_at
from qkdrelay.network.directory import LEVEL_MAX, NO_SAES, Directory
from qkdrelay.service.batch import Batch, BatchDict, Cell

CLOCKS_S: Final = 86_400.0 + 7_200.0
"""Seconds that a key can be fetched after it can be handed out: clocks may be off by as much as deadlines allow."""
USABLE_S_MAX: Final = 31 * 86_400.0
"""Seconds ahead that keys may be usable."""
KEYS_LOGGED_MAX: Final = 128
"""key_IDs in one line of the log."""
_KEEP_HOUSE_S: Final = 5.0
_NOTHING: Final = HeldSupply(UUID(int=0), "", 0, "relayed", 0.0, b"", b"")


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


class TargetSide:
    """Keeps keys for the slaves at one KME (a `kme.supply.slaves.SlavesSide`)."""

    def __init__(
        self, name: str, batch: Batch, store: Applications, random: Callable[[int], bytes], limits: SlaveLimits
    ) -> None:
        """``name`` is the KME's; ``random`` draws keys of two SAEs here."""
        self._name, self._store, self._random, self._limits = name, store, random, limits
        self._directory = Cell(batch, NO_SAES)
        self._expecting: dict[UUID, tuple[Assign, ...]] = BatchDict(batch)
        """Relays of supply that are not rebuilt yet, and the assignments that wait for them."""
        self._rates: dict[tuple[str, int], Rate] = BatchDict(batch)
        """Bytes assigned, by source and level."""
        self._allowance = Allowance(batch, limits.assigns_per_s)
        self._kept_house_at = Cell(batch, 0.0)
        self._must_wipe = Cell(batch, value=False)
        self._over: dict[Pair, None] = BatchDict(batch)
        """Pairs whose keys are to be destroyed, a little in each turn."""

    # --- relays of supply --------------------------------------------------------------------------

    def relay_changed(self, relay: EndpointRelay, now: float) -> list[Effect]:
        """Take note of a relay of supply that ends here: its bytes are here now, or will not be any more."""
        if relay.state == "expecting":
            self._expecting.setdefault(relay.relay_id, ())
            return []
        early = self._expecting.pop(relay.relay_id, ())
        if relay.is_released and relay.payload is not None and relay.supply is not None:
            if self._store.supply(relay.relay_id) is None:
                self._store.keep_supply(
                    HeldSupply(
                        relay.relay_id,
                        relay.peer,
                        relay.withstand.compromised,
                        "direct" if len(relay.plan.links) == 1 else "relayed",
                        relay.supply.until,
                        relay.payload.keys,
                        relay.payload.tag_keys,
                    )
                )
            return [effect for message in early for effect in self.on_assign(message, now)]
        if self._store.drop_supply(relay.relay_id):
            self._must_wipe.value = True
        return [_refused(message.assignment, "unknown-relay", _NOTHING) for message in early]

    # --- assignments -------------------------------------------------------------------------------

    def on_assign(self, message: Assign, now: float) -> list[Effect]:
        """Keep keys for a slave, or refuse to; what is said goes out as reports."""
        assignment = message.assignment
        known = self._store.assignment(assignment.assign_id)
        if known is not None:
            # The same bytes, or nothing: no key tags two messages.
            if known.assignment == assignment:
                return [_answer(assignment, known.answer_tag)]
            return self._refuse(assignment, "reused", self._store.supply(assignment.relay_id) or _NOTHING)
        if assignment.relay_id in self._expecting:
            return self._keep_early(message)
        supply = self._store.supply(assignment.relay_id)
        if supply is None or (assignment.source, assignment.target) != (supply.source, self._name):
            return self._refuse(assignment, "unknown-relay", _NOTHING)
        refusal = self._refusal(message, supply, now)
        if refusal is not None:
            return self._refuse(assignment, refusal, supply)
        return self._keep(message, supply, now)

    def _keep_early(self, message: Assign) -> list[Effect]:
        """Have an assignment wait for its relay; one that comes again waits once."""
        relay_id = message.assignment.relay_id
        waiting = self._expecting[relay_id]
        if message in waiting:
            return []
        limits = self._limits
        if len(waiting) >= limits.early_each or sum(map(len, self._expecting.values())) >= limits.early:
            return self._refuse(message.assignment, "full", _NOTHING)
        self._expecting[relay_id] = (*waiting, message)
        return []

    def _refusal(self, message: Assign, supply: HeldSupply, now: float) -> AssignRefusal | None:
        """Return why an assignment is not accepted; nothing has been changed by it then."""
        assignment, directory = message.assignment, self._directory.value
        length, held = assignment.length, self._store.held()
        ends = (directory.kme_of(assignment.master), directory.kme_of(assignment.slave))
        if not (
            supply.first_free_byte <= assignment.offset <= supply.end - length
            and supply.first_free_tag <= assignment.tag_number < supply.tags_end
        ):
            return "range"
        if not self._allowance.take(now):
            return "full"
        if not assign_tag_is_valid(supply.tag_pair(assignment.tag_number), assignment, message.tag):
            return "tag"
        if not now < assignment.usable_until <= now + USABLE_S_MAX + CLOCKS_S or now > supply.until + CLOCKS_S:
            return "expired"
        if ends != (supply.source, self._name) or not directory.allows(assignment.master, assignment.slave):
            return "sae"
        each, everything = held.get(supply.source, 0) + length, sum(held.values()) + length
        return "full" if each > self._limits.bytes_each or everything > self._limits.bytes_all else None

    def _keep(self, message: Assign, supply: HeldSupply, now: float) -> list[Effect]:
        """Keep the keys and raise the first free byte and tag number, in one commit; answer."""
        assignment = message.assignment
        answer_tag = assigned_tag(supply.tag_pair(assignment.tag_number), assignment)
        keep_until, size = assignment.usable_until + CLOCKS_S, assignment.key_size_bits // 8
        data = supply.cut(assignment.offset, assignment.length)
        self._store.keep_supply(supply.after(assignment))
        self._store.keep_assignment(KeptAssignment(assignment, answer_tag, keep_until))
        self._store.add(
            [
                SlaveKey(
                    key_id(assignment.assign_id, number),
                    assignment.assign_id,
                    assignment.source,
                    assignment.master,
                    assignment.slave,
                    data[number * size : (number + 1) * size],
                    supply.level,
                    supply.route,
                    made_at(supply.relay_id),
                    keep_until,
                )
                for number in range(assignment.key_count)
            ]
        )
        self._store.count(assignment.master, assignment.slave, "slave", "assigned", assignment.key_count)
        about = (supply.source, supply.level)
        self._rates[about] = self._rates.get(about, STILL).plus(assignment.length, now)
        self._must_wipe.value = True
        fields: dict[str, object] = {
            "relay_id": assignment.relay_id,
            "assign_id": assignment.assign_id,
            "master": assignment.master,
            "slave": assignment.slave,
            "keys": assignment.key_count,
        }
        return [_answer(assignment, answer_tag), LogEvent("keys.assigned", "debug", fields)]

    def _refuse(self, assignment: Assignment, reason: AssignRefusal, supply: HeldSupply) -> list[Effect]:
        return [_refused(assignment, reason, supply)]

    # --- keys --------------------------------------------------------------------------------------

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
            self._must_wipe.value = True
        if first_time:
            self._store.count(master, caller.sae_id, "slave", "fetched", len(first_time))
        return [_handed_out(found[key_id], now) for key_id in key_ids]

    def _may_be_given(self, key: SlaveKey, caller: Caller, master: str, now: float) -> bool:
        if key.master != master or now >= key.keep_until:
            return False
        if key.fetched_at is None:
            return True
        return key.fetched_by == caller.fingerprint and 0 <= now - key.fetched_at < self._limits.fetch_again_s

    def draw_local(self, pair: Pair, number: int, size_bits: int, now: float) -> list[ApplicationKey]:
        """Draw keys for two SAEs of this KME, and keep them for the slave. Raises ApplicationError."""
        held, size = self._store.held(), size_bits // 8
        length = number * size
        if held.get(self._name, 0) + length > self._limits.bytes_each:
            raise TryLaterError(f"{pair.slave} has not fetched what is kept for it", retry_after_s=60)
        if sum(held.values()) + length > self._limits.bytes_all:
            raise TryLaterError("there is no room for more keys", retry_after_s=60)
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
        self._store.count(pair.master, pair.slave, "slave", "assigned", number)
        return [_handed_out(key, now) for key in keys]

    # --- the directory -----------------------------------------------------------------------------

    def adopt(self, directory: Directory, is_over: Callable[[Pair], bool]) -> list[Effect]:
        """Go by another directory; destroy what is kept for pairs to which, by it, that must not be given."""
        self._directory.value = directory
        for ends in self._store.pairs():
            if is_over(Pair(*ends)):
                self._over[Pair(*ends)] = None
        return self._destroy_over()

    def _destroy_over(self) -> list[Effect]:
        """Destroy keys of pairs that are over, and forget their assignments: none is answered for any more."""
        effects: list[Effect] = []
        for pair in tuple(self._over):
            keys = self._store.of_pair(*pair)
            if not keys:
                del self._over[pair]
                continue
            self._store.forget_assignments({key.assign_id for key in keys if key.assign_id is not None})
            effects += self._delete(keys, "destroyed", "warning")
        return effects

    def _delete(self, keys: Sequence[SlaveKey], state: CountedState, level: str) -> list[Effect]:
        self._store.delete(keys)
        self._must_wipe.value = True
        effects: list[Effect] = []
        for (master, slave), number in Counter((key.master, key.slave) for key in keys).items():
            self._store.count(master, slave, "slave", state, number)
            ids = [str(key.key_id) for key in keys if (key.master, key.slave) == (master, slave)]
            fields: dict[str, object] = {
                "master": master,
                "slave": slave,
                "keys": number,
                "key_ids": ids[:KEYS_LOGGED_MAX],
            }
            effects.append(LogEvent(f"keys.{state}", "warning" if level == "warning" else "info", fields))
        return effects

    # --- the batch as a whole ----------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Delete what is over."""
        effects = self._destroy_over() if self._over else []
        # A distance, not a difference: the clock may be stepped back.
        if abs(now - self._kept_house_at.value) < _KEEP_HOUSE_S:
            return effects
        self._kept_house_at.value = now
        if ended := self._store.ended(now):
            effects += self._delete(ended, "expired", "warning")
        if fetched := self._store.fetched_before(now - self._limits.fetch_again_s, now):
            self._store.delete(fetched)
            self._must_wipe.value = True
        self._store.purge(now)
        if self._must_wipe.value:
            self._must_wipe.value = False
            effects.append(WipeDeleted())
        return effects

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is due."""
        return 0.0 if self._over else _KEEP_HOUSE_S - abs(now - self._kept_house_at.value)

    def incoming(self, now: float) -> Iterable[IncomingSupply]:
        """Return what there is of supply from each KME, by level."""
        stored = {(source, level): length for source, level, length in self._store.supply_bytes()}
        for source, level in sorted(stored.keys() | self._rates.keys()):
            rate = self._rates.get((source, level), STILL).now(now)
            length = stored.get((source, level), 0)
            yield IncomingSupply(source=source, level=level, stored_bytes=length, assigned_bytes_per_s=rate)


def _answer(assignment: Assignment, tag: bytes) -> SendReport:
    return SendReport(
        Assigned(
            assign_id=assignment.assign_id,
            relay_id=assignment.relay_id,
            source=assignment.source,
            target=assignment.target,
            tag=tag,
        )
    )


def _refused(assignment: Assignment, reason: AssignRefusal, supply: HeldSupply) -> SendReport:
    return SendReport(
        AssignRefused(
            assign_id=assignment.assign_id,
            relay_id=assignment.relay_id,
            source=assignment.source,
            target=assignment.target,
            reason=reason,
            first_free_byte=supply.first_free_byte,
            first_free_tag=supply.first_free_tag,
        )
    )


def _handed_out(key: SlaveKey, now: float) -> ApplicationKey:
    return ApplicationKey(key.key_id, key.key, key.level, key.route, max(0.0, now - key.made_at))
