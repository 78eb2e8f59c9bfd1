"""One relay as the coordinator decides on it: pure steps from state to state (protocol, section 6.1).

What the two ends still have to be told follows from the state alone (`outstanding`), so telling
them first, again after a loss, and after a restart are the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from coordinator.reasons import unrebuilt
from qkdrelay.messages.control import Command, Decide, Expect, Prove, Start, Terms
from qkdrelay.messages.plans import decode_plan
from qkdrelay.messages.reports import Decided, Expected, Findings, Rebuilt, Refused, Report, Started, Verified
from qkdrelay.messages.states import TERMINAL, RelayState
from qkdrelay.network.plan import Plan
from qkdrelay.network.whereabouts import Whereabouts

REASON_LENGTH_MAX = 500
"""Characters: routes may be long, and a thousand relays are listed in one message."""


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay as the coordinator keeps it."""

    terms: Terms
    policy: str
    protected: bool
    """Whether the plan withstands one compromised KME."""
    created_at: float
    relies_on: tuple[str, ...] = ()
    """Trusted KMEs on whose honesty the protection asked for rests."""
    state: RelayState = "planned"
    reason: str = ""
    ended_at: float | None = None
    expected: bool = False
    """Whether the target has stored the terms."""
    source_proof: bytes | None = None
    target_proof: bytes | None = None
    source_verified: bool = False
    target_verified: bool = False
    released: tuple[str, ...] = ()
    """The ends that have carried the decision out."""
    findings: Findings | None = None

    @property
    def relay_id(self) -> UUID:
        """The relay's id."""
        return self.terms.relay_id

    @property
    def plan(self) -> Plan:
        """The relay's plan."""
        return decode_plan(self.terms.plan)

    @property
    def ends(self) -> tuple[str, str]:
        """Source and target."""
        plan = self.plan
        return plan.source, plan.target


def outstanding(relay: Relay) -> list[tuple[str, Command]]:
    """Return what the ends have to be told in this state and have not answered: (KME, command)."""
    source, target = relay.ends
    relay_id = relay.relay_id
    if relay.state in TERMINAL:
        decision = Decide(relay_id=relay_id, confirmed=relay.state == "confirmed")
        return [(end, decision) for end in (source, target) if end not in relay.released]
    if not relay.expected:
        return [(target, Expect(terms=relay.terms))]
    if relay.source_proof is None:
        return [(source, Start(terms=relay.terms))]
    if relay.target_proof is None:
        return []
    proofs: list[tuple[str, Command]] = []
    if not relay.source_verified:
        proofs.append((source, Prove(relay_id=relay_id, peer_proof=relay.target_proof)))
    if not relay.target_verified:
        proofs.append((target, Prove(relay_id=relay_id, peer_proof=relay.source_proof)))
    return proofs


def reminders(relay: Relay) -> list[tuple[str, Command]]:
    """Return what the ends have to be told again.

    With a decision goes the proof it rests on: an end that came back with an old copy of its store has lost that.
    """
    told: list[tuple[str, Command]] = []
    for kme, command in outstanding(relay):
        proof = relay.target_proof if kme == relay.ends[0] else relay.source_proof
        if relay.state == "confirmed" and proof is not None:
            told.append((kme, Prove(relay_id=relay.relay_id, peer_proof=proof)))
        told.append((kme, command))
    return told


def advance(relay: Relay, sender: str, report: Report, now: float) -> Relay:
    """Return the relay after ``report`` from ``sender``; unchanged if that KME has no say in it."""
    source, target = relay.ends
    match report:
        case Decided(confirmed=confirmed) if relay.state in TERMINAL and sender in (source, target):
            if confirmed != (relay.state == "confirmed") or sender in relay.released:
                return relay
            return replace(relay, released=(*relay.released, sender))
        case Findings() if sender == target:
            return replace(relay, findings=report)
        case Expected() | Started() | Rebuilt() if relay.state in TERMINAL and sender in relay.released:
            # The decision has overtaken what it decides on, and found nothing: it is told again.
            return replace(relay, released=tuple(end for end in relay.released if end != sender))
        case _ if relay.state in TERMINAL:
            return relay
        case Expected() if sender == target:
            return replace(relay, expected=True)
        # The first proof counts: an end that gives another one has nothing else to say, however often it does.
        case Started(proof=proof) if sender == source and relay.expected and relay.source_proof is None:
            return replace(relay, source_proof=proof, state="reconstructed" if relay.target_proof else "started")
        case Rebuilt(proof=proof) if sender == target and relay.target_proof is None:
            # Who has rebuilt has stored the terms, whether or not it was heard of.
            return replace(relay, expected=True, target_proof=proof, state="reconstructed")
        case Verified(valid=False) if sender in (source, target):
            return decide(relay, "failed", f"the two ends do not have the same keys, {sender} finds", now)
        # Before both proofs are there it is of one that is not known here: the end is asked again once they are.
        case Verified() if sender in (source, target) and relay.source_proof and relay.target_proof:
            return _verified(relay, now, by_source=sender == source)
        case Refused(reason=reason) if sender in (source, target):
            # Whoever it says refused: it was the sender.
            return decide(relay, "failed", f"refused by {sender}: {reason.removeprefix(f'{sender}: ')}", now)
    return relay


def _verified(relay: Relay, now: float, *, by_source: bool) -> Relay:
    relay = replace(relay, source_verified=True) if by_source else replace(relay, target_verified=True)
    return decide(relay, "confirmed", "", now) if relay.source_verified and relay.target_verified else relay


def decide(relay: Relay, state: RelayState, reason: str, now: float) -> Relay:
    """Return the decided relay: a decision is taken once and never changed."""
    if relay.state in TERMINAL:
        return relay
    return replace(relay, state=state, reason=reason[:REASON_LENGTH_MAX], ended_at=now)


def fail_if_overdue(relay: Relay, shares: Whereabouts, now: float) -> Relay:
    """Return the relay failed, with what was missing, if its deadline has passed."""
    if relay.state in TERMINAL or now < relay.terms.deadline:
        return relay
    return decide(relay, "failed", _what_was_missing(relay, shares), now)


def _what_was_missing(relay: Relay, shares: Whereabouts) -> str:
    source, target = relay.ends
    if not relay.expected:
        return f"the target {target} did not answer in time"
    if relay.source_proof is None:
        begun = ", although it has begun" if shares.seen else ""
        return f"the source {source} did not answer in time{begun}"
    if relay.state == "reconstructed":
        missing = [end for end, _ in outstanding(relay)]
        return f"{' and '.join(missing)} did not confirm in time"
    return unrebuilt(shares, relay.findings)
