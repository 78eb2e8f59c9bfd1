"""What becomes of assignments: the target's answers, its refusals, its starts, and what becomes of their relays."""

from __future__ import annotations

import hmac
from dataclasses import replace
from uuid import UUID

from kme.effects import LogEvent
from kme.supply.asking import TIMES_MAX, Asked
from kme.supply.burning import Burning
from kme.supply.cutting import Cutting
from kme.supply.source_memory import SourceMemory
from qkdrelay.messages.assignments import Assign, Assigned, AssignRefused, PeerStarted
from qkdrelay.service.batch import Batch, BatchDict

_AGAIN_MAX = 64
"""Assignments sent again in one turn."""


class Settling:
    """Settles the assignments of one KME: their keys become ready, or are burned."""

    def __init__(self, batch: Batch, memory: SourceMemory, cutting: Cutting, burning: Burning) -> None:
        self._memory, self._cutting, self._burning = memory, cutting, burning
        self._incarnations: dict[str, bytes] = BatchDict(batch)
        """Of the targets, as the coordinator said last."""

    # --- relays ------------------------------------------------------------------------------------

    def confirmed(self, relay_id: UUID, now: float) -> None:
        """Have a relay's bytes handed out from now on: the target's confirmation tag has shown that it holds them."""
        self._memory.supply.confirm(relay_id)
        for asked in self._of_relay(relay_id):
            self._settle(replace(asked, is_confirmed=True), now)
        self._cutting.retry()

    def failed(self, relay_id: UUID, now: float) -> None:
        """Burn all that there is of a relay that will not be confirmed."""
        if (relay := self._memory.supply.get(relay_id)) is not None:
            self._burning.supply(relay, "failed")
        for asked in self._of_relay(relay_id):
            self._burning.asked(asked, "failed", now)

    def _of_relay(self, relay_id: UUID) -> list[Asked]:
        """Return what is asked for of a relay that is not confirmed."""
        unsure = (asked for asked in self._memory.asking.all() if not asked.is_confirmed)
        return [asked for asked in unsure if asked.block.assign.assignment.relay_id == relay_id]

    # --- messages ----------------------------------------------------------------------------------

    def on_assigned(self, message: Assigned, now: float) -> None:
        """Make keys ready that the target keeps for the slave, if its tag says so and the relay is confirmed."""
        asked = self._asked(message)
        if asked is None:  # answered before, given up, or of an earlier start
            return
        if not hmac.compare_digest(message.tag, asked.block.answer_tag):
            fields: dict[str, object] = {"assign_id": message.assign_id, "peer": message.target}
            self._burning.events.append(LogEvent("assignment.forged", "error", fields))
            return
        self._settle(replace(asked, is_answered=True), now)

    def on_refused(self, message: AssignRefused, now: float) -> None:
        """Burn what is refused. Nobody vouches for a refusal: all that can come of it is less."""
        asked = self._asked(message)
        if asked is None:
            return
        memory, pair, target = self._memory, asked.block.pair, message.target
        self._burning.asked(asked, message.reason, now)
        relay = memory.supply.get(message.relay_id)
        if relay is not None and message.reason == "unknown-relay":
            self._burning.supply(relay, message.reason)
        elif relay is not None:
            burned = memory.supply.raise_cursor(relay.relay_id, message.first_free_byte, message.first_free_tag)
            self._burning.note(target, burned, message.reason)
        if message.reason == "sae":
            self._burning.ready(memory.ready.of(pair), message.reason, now)
            memory.rests.begin(pair, f"{target} does not have both SAEs in its directory, or allows them no keys", now)
        elif message.reason == "full":
            memory.rests.begin(target, f"{target} has no room for more keys", now)
        self._cutting.retry()

    def on_peer_started(self, message: PeerStarted, now: float) -> None:
        """Hold back what is ready for a KME that has started, or has changed its directory, and ask for it again.

        It may have come back with an old copy of its store, which does not know these keys.
        """
        kme, memory = message.kme, self._memory
        if self._incarnations.get(kme) == message.incarnation or kme not in memory.peers():
            return
        self._incarnations[kme] = message.incarnation
        for asked in tuple(memory.asking.all()):
            if asked.block.assign.assignment.target == kme:
                memory.asking.keep(replace(asked, is_answered=False, is_due=True))
        held = [block for block in memory.ready.all() if block.assign.assignment.target == kme]
        memory.ready.remove(held)
        for block in held:
            memory.asking.keep(Asked(block, now, 0, is_confirmed=True, is_due=True))
        if held:
            fields: dict[str, object] = {"peer": kme, "assignments": len(held)}
            self._burning.events.append(LogEvent("keys.held_back", "info", fields))

    def _asked(self, message: Assigned | AssignRefused) -> Asked | None:
        """Return what the message answers, if it was asked for."""
        asked = self._memory.asking.get(message.assign_id)
        if asked is None:
            return None
        assignment = asked.block.assign.assignment
        named = message.relay_id, message.source, message.target
        return asked if named == (assignment.relay_id, assignment.source, assignment.target) else None

    def _settle(self, asked: Asked, now: float) -> None:
        """Make keys ready once their relay is confirmed and their assignment answered."""
        memory = self._memory
        if not (asked.is_confirmed and asked.is_answered):
            memory.asking.keep(asked)
        elif asked.block.assign.assignment.usable_until <= now:
            self._burning.asked(asked, "expired", now)
        else:
            memory.asking.remove(asked)
            memory.ready.add(asked.block)

    # --- time --------------------------------------------------------------------------------------

    def ask_again(self, now: float) -> list[Assign]:
        """Return assignments to send once more, those same bytes; give up what was sent often enough."""
        again = []
        for asked in self._memory.asking.due(now)[:_AGAIN_MAX]:
            if asked.times >= TIMES_MAX and not asked.is_due:
                self._burning.asked(asked, "unanswered", now)
            elif self._cutting.allowance.take(now):
                self._memory.asking.sent_again(asked, now)
                again.append(asked.block.assign)
        return again

    def expire(self, now: float) -> None:
        """Burn what must not be handed out, or assigned, any more."""
        memory = self._memory
        for relay in memory.supply.expired(now):
            self._burning.supply(relay, "expired")
        over = [block for block in memory.ready.all() if block.assign.assignment.usable_until <= now]
        self._burning.ready(over, "expired", now)
