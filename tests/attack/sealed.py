"""Relays on the whole stack in one process: real services, stores, seals and signatures, on the in-process broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from random import Random
from uuid import UUID

from attack.case import Case
from attack.coalition import Coalition
from attack.coordinator import Dishonest
from attack.outcome import Outcome
from kme.effects import Effect, SendShare, SupplyChanged
from kme.service import KmeService
from qkdrelay.errors import InvalidPlanError
from qkdrelay.messages import signing
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.control import Commands, Terms
from qkdrelay.messages.link import ShareHeader
from qkdrelay.messages.plans import decode_plan, encode_plan
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.reports import Rebuilt
from qkdrelay.network.names import COORDINATOR, Route
from qkdrelay.service.loop import Loop
from support.network import Network

TIMEOUT_S = 30.0


class Compromised:
    """In place of a member's `kme.forwarding.Forwarding`; the member's store, seals and numbers are the real ones."""

    def __init__(self, coalition: Coalition, member: str) -> None:
        self._coalition, self._member = coalition, member

    def on_share(self, sender: str, header: ShareHeader, payload: bytes, memory: object, now: float) -> list[Effect]:
        """Decide on a share."""
        return sendable(self._coalition, self._member, self._coalition.act(self._member, header, payload))


def sendable(coalition: Coalition, member: str, shares: list[SendShare]) -> list[Effect]:
    """Those for a KME it has a link with; a member's own program sends none without two KMEs on its route."""
    return [share for share in shares if len(share.route) > 1 and share.route[-1] in coalition.neighbours[member]]


def readable(add: Callable[[SendShare, str], None]) -> Callable[[SendShare, str], None]:
    """A member keeps nothing waiting that its own store would take for damage: a plan that is none."""

    def added(share: SendShare, origin: str) -> None:
        with suppress(InvalidPlanError):
            decode_plan(encode_plan(share.plan))
            add(share, origin)

    return added


def send_late(loop: Loop, member: str, coalition: Coalition, shares: list[SendShare]) -> None:
    """Have a member send what it kept back."""
    service: KmeService = loop.service
    with service.journal.transaction():
        service.carry_out(sendable(coalition, member, shares))
    loop._publish()


class Sealed:
    """A network of a case; it can carry several relays, each under attack."""

    def __init__(self, case: Case, rng: Random, **options: object) -> None:
        self.case, self.rng = case, rng
        wishes = {"withstand_compromised": case.demanded, "random": rng.randbytes, **options}
        self.network = Network(case.topology, **wishes)
        self.past: list[bytes] = []
        self.sent: dict[tuple[UUID, Route], bytes] = {}
        self.number, self.epoch = 0, rng.randbytes(16)
        self.outcome: Outcome | None = None
        self.watched: UUID | None = None
        """The relay that ``outcome`` is of; old messages may be of others."""
        self.signed: list[tuple[str, bytes]] = []
        for name, service in self.services():
            if name not in case.coalition:
                service.links.send = self.recorded(service.links.send)
                service.carry_out = self.noting(name, service.carry_out)
            else:
                waiting = self.network.stores[name].waiting
                waiting.add = readable(waiting.add)
        for a, b in map(sorted, case.cut):
            self.network.cut(a, b)

    def services(self) -> Iterator[tuple[str, object]]:
        return ((kme, self.network.service(kme)) for kme in self.case.kmes)

    def noting(self, kme, carry_out):
        """Supply is in no relay any more once it is released: its bytes are seen as they are handed on."""

        def carried_out(effects: list[Effect]) -> None:
            for effect in effects:
                if isinstance(effect, SupplyChanged) and effect.relay.relay_id == self.watched:
                    self.outcome.note(kme, effect.relay)
            carry_out(effects)

        return carried_out

    def recorded(self, send):
        def sent(share: SendShare) -> bool:
            self.sent.setdefault((share.relay_id, share.route), share.payload)
            return send(share)

        return sent

    def relay(self) -> Outcome:
        """Carry one relay to its end, and on until nobody sends any more."""
        case, network = self.case, self.network
        coalition = Coalition(self.rng, case.coalition, case.plan, case.neighbours, case.tricks, self.past)
        for member in case.coalition:
            network.service(member).forwarding = Compromised(coalition, member)
        outcome, before = Outcome(case), len(network.dead_letters())
        self.outcome = outcome
        network.stop(*case.silent)
        if case.dishonest:
            relay_id = self.misled(outcome)
        else:
            wishes = {"key_count": 2, "key_size_bits": 128, "timeout_s": TIMEOUT_S, "allow_unprotected": True}
            relay_id = network.relay(case.plan.source, case.plan.target, policy=case.policy, **wishes).relay_id
            # The coordinator's own plan, which spreads the load: another one, perhaps, than the first of its policy.
            plan = decode_plan(network.coordinator_store.relays.get(relay_id).terms.plan)
            outcome.case = replace(case, plan=plan)
        for step_s in (0.0, 0.0, TIMEOUT_S + 1.0, 11.0):
            self.look(outcome, relay_id)
            network.later(step_s)
            self.release(coalition)
        self.look(outcome, relay_id)
        network.resume(*case.silent)
        self.past = coalition.past
        outcome.rejected = len(network.dead_letters()) - before
        return outcome

    def release(self, coalition: Coalition) -> None:
        """Let the members send what they kept back."""
        for member, shares in coalition.later():
            send_late(self.network.loops[member], member, coalition, shares)
        self.network.settle()

    def look(self, outcome: Outcome, relay_id: UUID) -> None:
        """Take note of everything there is to see of a relay now."""
        plan = outcome.case.plan
        for end in (plan.source, plan.target):
            outcome.note(end, self.network.stores[end].relays.get(relay_id))
        shares = self.network.stores[plan.target].shares.of(relay_id)
        if shares:
            outcome.arrived = set(shares)
            outcome.altered = {r for r, payload in shares.items() if self.sent.get((relay_id, r[:2])) != payload}
        kept = self.network.coordinator_store.relays.get(relay_id)
        if kept is not None:
            outcome.confirmed, outcome.reason, outcome.findings = kept.state == "confirmed", kept.reason, kept.findings

    def misled(self, outcome: Outcome) -> UUID:
        """Have a coordinator of the coalition's say what it likes, and now and then repeat an old signed message."""
        network, rng, plan = self.network, self.rng, self.case.plan
        network.stop(COORDINATOR)
        keys = network.service(COORDINATOR)._keys
        terms = Terms(
            relay_id=new_relay_id(network.clock()),
            plan=encode_plan(plan),
            key_count=2,
            key_size_bits=128,
            withstand=self.case.demand,
            supply=rng.choice((None, Supply(until=network.clock() + 1e5, tag_pairs=1))),
            deadline=network.clock() + TIMEOUT_S,
        )
        self.watched = terms.relay_id
        dishonest = Dishonest(rng, self.case, terms)
        while dishonest.left:
            kme, command = dishonest.next()
            body = Commands(items=(command,))
            message = signing.sign(keys[kme], COORDINATOR, kme, epoch=self.epoch, number=self.number, body=body)
            self.number += 1
            self.signed.append((kme, message))
            network.as_coordinator(kme, message)
            if rng.random() < 0.2:
                network.as_coordinator(*rng.choice(self.signed))
            network.settle()
            for end in (plan.source, plan.target):
                kept = network.stores[end].relays.get(terms.relay_id)
                outcome.note(end, kept)
                if kept is not None and kept.proof is not None:
                    dishonest.hear(end, Rebuilt(relay_id=terms.relay_id, proof=kept.proof))
        network.resume(COORDINATOR)
        return terms.relay_id

    def reused(self) -> int:
        """Count slots that sealed two messages, and pad bytes drawn twice, from what went over the links."""
        pads = self.network.pads()
        return sum(len(bodies) - 1 for bodies in self.network.slots().values()) + len(pads) - len(set(pads))
