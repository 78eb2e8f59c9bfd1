"""Relays by the decisions alone, without broker, seals or stores: fast, so tens of thousands of them.

The honest KMEs and the honest coordinator are the real ones (`kme.forwarding`, `kme.endpoint`,
`coordinator.lifecycle`); messages arrive in any order across links. What a link's seal guarantees is
taken for granted: who the sender is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from attack.case import Case
from attack.coalition import Coalition
from attack.coordinator import Dishonest
from attack.outcome import Outcome
from coordinator import lifecycle
from kme.effects import Effect, SendReport, SendShare, SupplyChanged, TryRebuild
from kme.endpoint import Endpoint
from kme.forwarding import Forwarding, RejectedShareError
from kme.model import LATE_S, NodeSettings
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.blocks import SlotName
from qkdrelay.messages.control import Command, Terms
from qkdrelay.messages.link import ShareHeader
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.reports import Report
from qkdrelay.network.names import Route
from qkdrelay.network.whereabouts import Whereabouts
from support.kme import NOW, Memory

TIMEOUT_S = 30.0


@dataclass
class Kme:
    """An honest KME."""

    forwarding: Forwarding
    endpoint: Endpoint
    memory: Memory = field(default_factory=Memory)


class Direct:
    """One relay of ``case``; `run` returns what came of it."""

    def __init__(self, case: Case, coalition: Coalition, rng: Random) -> None:
        self.case, self.coalition, self.rng = case, coalition, rng
        self.now = NOW
        self.kmes = {}
        for kme in case.kmes:
            me = NodeSettings(kme, frozenset(case.neighbours[kme]), case.demanded, has_applications=True)
            self.kmes[kme] = Kme(Forwarding(me, rng.randbytes), Endpoint(me, rng.randbytes))
        terms = Terms(
            relay_id=new_relay_id(NOW),
            plan=encode_plan(case.plan),
            key_count=rng.choice((1, 1, 2, 5)),
            key_size_bits=rng.choice((64, 128, 256)),
            withstand=case.demand,
            supply=rng.choice((None, Supply(until=NOW + 1e5, tag_pairs=rng.choice((1, 3))))),
            deadline=NOW + TIMEOUT_S,
        )
        self.relay = lifecycle.Relay(terms=terms, policy="", protected=True, created_at=NOW)
        self.told: list[tuple[str, Command]] = []
        self.shares: list[tuple[str, ShareHeader, bytes]] = []
        self.sent: dict[Route, bytes] = {}
        """What honest KMEs sent, by route."""
        self.arrived: dict[Route, bytes] = {}
        """What the target took."""
        self.unsettled = False
        self.outcome = Outcome(case)
        self.dishonest = Dishonest(rng, case, terms) if case.dishonest else None

    def run(self) -> Outcome:
        """Carry the relay to its end, and on until nobody sends any more."""
        self.tell()
        self.drain()
        for step_s in (0.0, 0.0, TIMEOUT_S + 1.0, 0.0, LATE_S + 1.0):
            self.now += step_s
            if self.dishonest is None:
                self.advance(
                    lifecycle.fail_if_overdue(self.relay, Whereabouts(self.case.plan, collected=self.arrived), self.now)
                )
            for member, effects in self.coalition.later():
                self.carry_out(member, effects)
            self.drain()
        return self.finished()

    def drain(self) -> None:
        """Let everything happen that can, in any order."""
        while self.shares or self.unsettled or (self.dishonest and self.dishonest.left):
            if self.dishonest and self.dishonest.left and self.rng.random() < 0.5:
                self.obey(*self.dishonest.next())
            elif self.unsettled and (not self.shares or self.rng.random() < 0.3):
                self.settle()
            elif self.shares:
                sender, header, payload = self.shares.pop(self.rng.randrange(len(self.shares)))
                self.deliver(sender, header, payload)

    def deliver(self, sender: str, header: ShareHeader, payload: bytes) -> None:
        receiver = header.link[1]
        if receiver in self.case.silent or frozenset(header.link) in self.case.cut:
            return
        if receiver in self.coalition.members:
            self.carry_out(receiver, self.coalition.act(receiver, header, payload))
            return
        kme = self.kmes[receiver]
        before = set(kme.memory.collected)
        try:
            effects = kme.forwarding.on_share(sender, header, payload, kme.memory, self.now)
        except RejectedShareError:
            self.outcome.rejected += 1
            return
        self.carry_out(receiver, effects)
        for relay_id, route in set(kme.memory.collected) - before:
            if relay_id == self.relay.relay_id:
                self.arrived[route] = payload

    def carry_out(self, kme: str, effects: list[Effect]) -> None:
        """Do what a KME decided."""
        honest = kme not in self.coalition.members
        if honest:
            self.kmes[kme].memory.carry_out(effects)
        for effect in effects:
            match effect:
                case SendShare(route=route) if route and route[-1] in self.case.neighbours[kme]:
                    if honest:
                        self.sent.setdefault(route, effect.payload)
                    self.shares.append((kme, self.header(kme, effect), effect.payload))
                case SendReport(report=report):
                    self.report(kme, report)
                case TryRebuild():
                    self.unsettled = True
                case SupplyChanged(relay=relay) if relay.relay_id == self.relay.relay_id:
                    # It has the payload here for the last time: from now on who keeps supply has it.
                    self.outcome.note(kme, relay)
        if honest:
            self.watch(kme)

    def header(self, sender: str, share: SendShare) -> ShareHeader:
        return ShareHeader(
            link=(sender, share.route[-1]),
            slot=SlotName(bytes(16), 0),
            pad=(),
            relay_id=share.relay_id,
            route=share.route,
            plan=encode_plan(share.plan),
            deadline=share.deadline,
        )

    def settle(self) -> None:
        self.unsettled = False
        target = self.case.plan.target
        kme = self.kmes[target]
        self.carry_out(target, kme.endpoint.rebuilder.try_rebuild(self.relay.relay_id, kme.memory))

    def watch(self, kme: str) -> None:
        """Take note of the keys at an end as they are now."""
        if kme in (self.case.plan.source, self.case.plan.target):
            self.outcome.note(kme, self.kmes[kme].memory.relays.get(self.relay.relay_id))

    # --- the coordinator ---------------------------------------------------------------------------

    def report(self, kme: str, report: Report) -> None:
        if self.dishonest is not None:
            self.dishonest.hear(kme, report)
        else:
            self.advance(lifecycle.advance(self.relay, kme, report, self.now))

    def advance(self, after: lifecycle.Relay) -> None:
        if after != self.relay:
            before, self.relay = self.relay, after
            for order in lifecycle.told_once(before, after):
                self.obey(*order)
            self.tell()

    def tell(self) -> None:
        if self.dishonest is None:
            for order in lifecycle.outstanding(self.relay):
                if order not in self.told:
                    self.told.append(order)
                    self.obey(*order)

    def obey(self, kme: str, command: Command) -> None:
        self.carry_out(kme, self.kmes[kme].endpoint.on_command(command, self.kmes[kme].memory, self.now))

    def finished(self) -> Outcome:
        out = self.outcome
        out.confirmed, out.reason = self.relay.state == "confirmed", self.relay.reason
        kept = self.kmes[self.case.plan.target].memory.relays.get(self.relay.relay_id)
        out.findings = self.relay.findings or (kept.findings if kept else None)
        out.altered = {route for route, payload in self.arrived.items() if self.sent_by_source(route) != payload}
        out.arrived = set(self.arrived)
        return out

    def sent_by_source(self, route: Route) -> bytes | None:
        """What the source gave on this route, which, if all others on it only forward, is what must arrive."""
        return self.sent.get(route[:2])
