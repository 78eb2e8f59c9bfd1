"""The slaves' side of keys for applications at one KME: assignments are checked and kept, keys fetched once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final
from uuid import UUID

from kme.applications import NOT_FOUND, ApplicationKey, BadRequestError, Caller, TryLaterError
from kme.effects import Effect, LogEvent, SendReport, WipeDeleted
from kme.model import EndpointRelay
from kme.rates import STILL, Rate
from kme.store.application_records import HeldSupply, KeptAssignment, SlaveKey
from kme.store.applications import Applications
from kme.supply.directory_changes import struck_off
from kme.supply.model import Pair, route_of
from kme.supply.slave_keys import CLOCKS_S, SlaveKeys, SlaveLimits
from qkdrelay.link.assignment import assign_tag_is_valid, assigned_tag
from qkdrelay.messages.assignments import Assign, Assignment, AssignRefusal, IncomingSupply
from qkdrelay.messages.keys import key_id
from qkdrelay.messages.relay_ids import made_at
from qkdrelay.network.directory import NO_SAES, Directory
from qkdrelay.service.allowance import Allowance
from qkdrelay.service.batch import Batch, BatchDict, Cell

USABLE_S_MAX: Final = 31 * 86_400.0
"""Seconds ahead that keys may be usable."""
_KEEP_HOUSE_S: Final = 5.0
_NOTHING: Final = HeldSupply(UUID(int=0), "", 0, "relayed", 0.0, b"", b"")


class TargetSide:
    """Keeps keys for the slaves at one KME."""

    def __init__(
        self,
        name: str,
        batch: Batch,
        store: Applications,
        *,
        is_expected: Callable[[UUID], bool],
        random: Callable[[int], bytes],
        limits: SlaveLimits,
    ) -> None:
        """``name`` is the KME's; ``is_expected`` says whether a relay of supply that ends here is not rebuilt yet.

        ``random`` draws keys of two SAEs here.
        """
        self._name, self._store, self._is_expected, self._limits = name, store, is_expected, limits
        self._keys = SlaveKeys(name, batch, store, random, limits)
        self._directory = Cell(batch, NO_SAES)
        self._early: dict[UUID, tuple[Assign, ...]] = BatchDict(batch)
        """Assignments that wait for their relay to be rebuilt."""
        self._rates: dict[tuple[str, int], Rate] = BatchDict(batch)
        """Bytes assigned, by source and level."""
        self._allowance = Allowance(batch, limits.assigns_per_s)
        self._kept_house_at = Cell(batch, 0.0)
        self._over: dict[Pair, None] = BatchDict(batch)
        """Pairs whose keys are to be destroyed, a little in each turn."""

    # --- relays of supply --------------------------------------------------------------------------

    def relay_changed(self, relay: EndpointRelay, now: float) -> list[Effect]:
        """Take note of a relay of supply that ends here: its bytes are here now, or will not be any more."""
        if relay.state == "expecting":
            return []
        early = self._early.pop(relay.relay_id, ())
        if relay.is_released and relay.payload is not None and relay.supply is not None:
            stored = sum(length for _, _, length in self._store.supply_bytes())
            if stored + len(relay.payload.keys) > self._limits.supply_bytes:
                fields: dict[str, object] = {"relay_id": relay.relay_id, "peer": relay.peer}
                return [LogEvent("supply.left_out", "warning", fields), *_all_refused(early)]
            if self._store.supply(relay.relay_id) is None:
                self._store.keep_supply(
                    HeldSupply(
                        relay.relay_id,
                        relay.peer,
                        relay.withstand.compromised,
                        route_of(relay.plan),
                        relay.supply.until,
                        relay.payload.keys,
                        relay.payload.tag_keys,
                    )
                )
            return [effect for message in early for effect in self.on_assign(message, now)]
        if self._store.drop_supply(relay.relay_id):
            self._keys.must_wipe.value = True
        return _all_refused(early)

    # --- assignments -------------------------------------------------------------------------------

    def on_assign(self, message: Assign, now: float) -> list[Effect]:
        """Keep keys for a slave, or refuse to; what is said goes out as reports."""
        assignment = message.assignment
        if Pair(assignment.master, assignment.slave) in self._over:
            return [_refused(assignment, "sae", self._store.supply(assignment.relay_id) or _NOTHING)]
        known = self._store.assignment(assignment.assign_id)
        if known is not None:
            # The same bytes, or nothing: no key tags two messages.
            if known.assignment == assignment:
                return [SendReport(assignment.answered(known.answer_tag))]
            return [_refused(assignment, "reused", self._store.supply(assignment.relay_id) or _NOTHING)]
        supply = self._store.supply(assignment.relay_id)
        if supply is None and self._is_expected(assignment.relay_id):
            return self._keep_early(message)
        if supply is None or (assignment.source, assignment.target) != (supply.source, self._name):
            return [_refused(assignment, "unknown-relay", _NOTHING)]
        refusal = self._refusal(message, supply, now)
        if refusal is not None:
            return [_refused(assignment, refusal, supply)]
        return self._keep(message, supply, now)

    def _keep_early(self, message: Assign) -> list[Effect]:
        """Have an assignment wait for its relay; one that comes again waits once."""
        relay_id = message.assignment.relay_id
        waiting = self._early.get(relay_id, ())
        if message in waiting:
            return []
        limits = self._limits
        if len(waiting) >= limits.early_each or sum(map(len, self._early.values())) >= limits.early:
            return [_refused(message.assignment, "full", _NOTHING)]
        self._early[relay_id] = (*waiting, message)
        return []

    def _refusal(self, message: Assign, supply: HeldSupply, now: float) -> AssignRefusal | None:
        """Return why an assignment is not accepted; nothing has been changed by it then."""
        assignment, directory = message.assignment, self._directory.value
        length = assignment.length
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
        return None if self._keys.has_room(supply.source, length) else "full"

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
        self._store.count(assignment.master, assignment.slave, "assigned", assignment.key_count)
        about = (supply.source, supply.level)
        self._rates[about] = self._rates.get(about, STILL).plus(assignment.length, now)
        self._keys.must_wipe.value = True
        fields: dict[str, object] = {
            "relay_id": assignment.relay_id,
            "assign_id": assignment.assign_id,
            "master": assignment.master,
            "slave": assignment.slave,
            "keys": assignment.key_count,
        }
        return [SendReport(assignment.answered(answer_tag)), LogEvent("keys.assigned", "debug", fields)]

    # --- keys --------------------------------------------------------------------------------------

    def fetch(self, caller: Caller, master: str, key_ids: Sequence[UUID], now: float) -> list[ApplicationKey]:
        """Give a slave all of these keys, in this order, once. Raises ApplicationError, and then gives none."""
        if Pair(master, caller.sae_id) in self._over:
            raise BadRequestError(NOT_FOUND)
        return self._keys.fetch(caller, master, key_ids, now)

    def draw_local(self, pair: Pair, number: int, size_bits: int, now: float) -> list[ApplicationKey]:
        """Draw keys for two SAEs of this KME, and keep them for the slave. Raises ApplicationError."""
        if pair in self._over:
            raise TryLaterError(f"keys that {pair.slave} had before are being destroyed")
        return self._keys.draw_local(pair, number, size_bits, now)

    # --- the directory -----------------------------------------------------------------------------

    def adopt(self, directory: Directory, is_over: Callable[[Pair], bool]) -> list[Effect]:
        """Go by another directory; destroy what is kept for pairs to which, by it, that must not be given."""
        self._directory.value = directory
        # Also what has changed while this KME did not run: whoever has an id now must not inherit keys.
        changed = struck_off(self._store.saes(), directory.saes)
        for ends in self._store.pairs():
            if is_over(Pair(*ends)) or not changed.isdisjoint(ends):
                self._over[Pair(*ends)] = None
        return self._destroy_over()

    def _destroy_over(self) -> list[Effect]:
        """Destroy keys of pairs that are over, and forget their assignments: none is answered for any more."""
        effects: list[Effect] = []
        for pair in tuple(self._over):
            # Those of which everything was fetched, too: else a master is given what one that was struck off has.
            forgotten = self._store.forget_assignments(*pair)
            if keys := self._store.of_pair(*pair):
                effects += self._keys.delete(keys, "destroyed")
            elif not forgotten:
                del self._over[pair]
        # Not before all is destroyed: a start in between goes on with that.
        saes = self._directory.value.saes
        if not self._over and self._store.saes() != saes:
            self._store.set_saes(saes)
        return effects

    # --- the batch as a whole ----------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """Delete what is over."""
        effects = self._destroy_over() if self._over else []
        # A distance, not a difference: the clock may be stepped back.
        if abs(now - self._kept_house_at.value) < _KEEP_HOUSE_S:
            return effects
        self._kept_house_at.value = now
        effects += self._keys.tick(now)
        self._store.purge(now)
        if self._keys.must_wipe.value:
            self._keys.must_wipe.value = False
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


def _all_refused(messages: Iterable[Assign]) -> list[Effect]:
    return [_refused(message.assignment, "unknown-relay", _NOTHING) for message in messages]


def _refused(assignment: Assignment, reason: AssignRefusal, supply: HeldSupply) -> SendReport:
    return SendReport(assignment.refused(reason, supply.first_free_byte, supply.first_free_tag))
