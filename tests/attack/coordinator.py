"""A coordinator that does not do its part: in any order, to either end, whatever it can sign."""

from __future__ import annotations

from random import Random

import msgspec

from attack.case import Case, any_plan
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.control import Cancel, Command, Confirm, Deliver, Expect, FixedDemand, Start, Terms
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.relay_ids import made_at, new_relay_id
from qkdrelay.messages.reports import Rebuilt, Report
from qkdrelay.network.plan import Hop, Plan

COMMANDS = 16


class Dishonest:
    """Gives both ends plans and terms as it likes, invents tags, repeats itself, gives up early or one."""

    def __init__(self, rng: Random, case: Case, terms: Terms) -> None:
        self._rng, self._case = rng, case
        self._terms = [terms, *self._variants(terms)]
        self._proofs: list[bytes] = []
        self._said: list[tuple[str, Command]] = []
        self.left = COMMANDS

    def hear(self, kme: str, report: Report) -> None:
        """Take the tags out of the reports."""
        if isinstance(report, Rebuilt):
            self._proofs.append(report.proof)

    def next(self) -> tuple[str, Command]:
        """Return one more command and whom it is for."""
        self.left -= 1
        order = (
            self._said[self._rng.randrange(len(self._said))] if self._said and self._rng.random() < 0.1 else self._new()
        )
        self._said.append(order)
        return order

    def _new(self) -> tuple[str, Command]:
        rng, relay_id = self._rng, self._terms[0].relay_id
        source, target = self._case.plan.source, self._case.plan.target
        end = rng.choice((source, target))
        terms = self._terms[0] if rng.random() < 0.75 else rng.choice(self._terms)
        # Mostly what would be next, or hardly a relay would come far.
        if len(self._said) < 2 and rng.random() < 0.9:
            return (target, Expect(terms=terms)) if not self._said else (source, Start(terms=terms))
        if self._proofs and rng.random() < 0.4:
            return source, Confirm(relay_id=relay_id, proof=self._proofs[-1])
        match rng.randrange(8):
            case 0:
                return rng.choice((target, target, source)), Expect(terms=terms)
            case 1:
                return rng.choice((source, source, target)), Start(terms=terms)
            case 2 | 3:
                return end, Confirm(relay_id=relay_id, proof=self._proof())
            case 4 | 5:
                return end, Deliver(relay_id=relay_id)
            case 6:
                return target, Deliver(relay_id=relay_id)
            case _:
                return end, Cancel(relay_id=relay_id)

    def _proof(self) -> bytes:
        """Return a tag of the target's, or one made up."""
        return self._rng.choice(self._proofs) if self._proofs and self._rng.random() < 0.7 else self._rng.randbytes(16)

    def _variants(self, terms: Terms) -> list[Terms]:
        """The same relay with another plan, number or size of keys, deadline; as supply, or as none."""
        rng, plan = self._rng, self._case.plan
        plans = [self._turned(plan) for _ in range(2)]
        if (other := any_plan(rng, self._case.topology, plan.source, plan.target)) is not None:
            plans.append(other)
        replace = msgspec.structs.replace
        return [
            *(replace(terms, plan=encode_plan(other)) for other in plans),
            replace(terms, key_count=terms.key_count + 1),
            replace(terms, key_size_bits=terms.key_size_bits + 8),
            replace(terms, withstand=FixedDemand(compromised=rng.randrange(4), failed=rng.randrange(3), tampering=0)),
            replace(terms, key_count=terms.key_count * 2, key_size_bits=max(64, terms.key_size_bits // 2)),
            replace(terms, deadline=terms.deadline + rng.choice((-20.0, 20.0, 1e6))),
            replace(terms, supply=Supply(until=terms.deadline + rng.choice((1.0, 1e6)), tag_pairs=rng.choice((1, 2)))),
            replace(terms, relay_id=new_relay_id(made_at(terms.relay_id))),
        ]

    def _turned(self, plan: Plan) -> Plan:
        """The plan with successors in another order, or another threshold, at one KME."""
        kme = self._rng.choice(sorted(plan.hops))
        hop = plan.hops[kme]
        successors = self._rng.sample(hop.successors, len(hop.successors))
        threshold = self._rng.choice((hop.threshold, self._rng.randrange(1, len(successors) + 1)))
        return Plan(plan.source, plan.target, {**plan.hops, kme: Hop(tuple(successors), threshold)})
