"""One relay as the coordinator follows it: pure steps from state to state (protocol, section 6.1).

What the two ends still have to be told follows from the state alone (`outstanding`), so telling
them first, again after a loss, and after a restart are the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from coordinator.reasons import unrebuilt
from qkdrelay.messages.control import Cancel, Command, Confirm, Deliver, Expect, Start, Terms
from qkdrelay.messages.plans import decode_plan
from qkdrelay.messages.reports import Confirmed, Expected, Findings, Rebuilt, Refused, Report, Started
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
    """Whether the target has said that it has the terms."""
    started: bool = False
    """Whether the source has said that it has begun."""
    target_proof: bytes | None = None
    """The confirmation tag: the target has released the keys."""
    released: tuple[str, ...] = ()
    """The ends that have released the keys."""
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
    """Return what the ends have to be told in this state and have not answered: (KME, command).

    The target answers once it has rebuilt: what it said of that may be lost, and is heard if it is told again.
    """
    source, target = relay.ends
    if relay.state == "failed":
        return []
    if relay.target_proof is not None:
        confirm = Confirm(relay_id=relay.relay_id, proof=relay.target_proof)
        return [] if source in relay.released else [(source, confirm)]
    told: list[tuple[str, Command]] = [(target, Expect(terms=relay.terms))]
    if not relay.started:
        told.append((source, Start(terms=relay.terms)))
    return told


def told_once(before: Relay, after: Relay) -> list[tuple[str, Command]]:
    """Return what the ends are told of this change, and nothing rests on: (KME, command)."""
    source, target = after.ends
    if after.state == "failed" and before.state not in TERMINAL:
        return [(end, Cancel(relay_id=after.relay_id)) for end in (source, target)]
    if source in after.released and source not in before.released and after.terms.supply is None:
        return [(target, Deliver(relay_id=after.relay_id))]
    return []


def told_again(relay: Relay, sender: str, report: Report) -> list[tuple[str, Command]]:
    """Return what an end is told that reports on a relay as if it had not failed: it came back, or was overtaken."""
    if relay.state == "failed" and sender in relay.ends and isinstance(report, Expected | Started):
        return [(sender, Cancel(relay_id=relay.relay_id))]
    return []


def advance(relay: Relay, sender: str, report: Report, now: float) -> Relay:
    """Return the relay after ``report`` from ``sender``; unchanged if that KME has no say in it."""
    source, target = relay.ends
    if isinstance(report, Findings):
        return replace(relay, findings=report) if sender == target else relay
    if relay.state == "failed":
        return relay
    if relay.state == "confirmed":
        return _after_the_answer(relay, report, now) if sender == source else relay
    match report:
        case Expected() if sender == target:
            return replace(relay, expected=True)
        case Started() if sender == source:
            return replace(relay, started=True, state="started")
        case Rebuilt(proof=proof) if sender == target:
            # Who has rebuilt has stored the terms, and has shares of one who has begun, whether or not it was heard of.
            done = replace(relay, expected=True, started=True, target_proof=proof, released=(target,))
            return ended(done, "confirmed", "", now)
        case Refused(reason=reason) if sender in (source, target):
            # Whoever it says refused: it was the sender.
            return ended(relay, "failed", f"refused by {sender}: {reason.removeprefix(f'{sender}: ')}", now)
    return relay


def _after_the_answer(relay: Relay, report: Report, now: float) -> Relay:
    """Return the relay, which the target has confirmed, after a report of its source."""
    source, target = relay.ends
    match report:
        case Confirmed() if source not in relay.released:
            return replace(relay, released=(target, source))
        case Started() if source in relay.released:
            # It came back with an old copy of its store, or this has been overtaken: it is told again.
            return replace(relay, released=(target,))
        case Refused(reason=reason) if source not in relay.released:
            said = f"confirmed by {target}, but refused by {source}: {reason.removeprefix(f'{source}: ')}"
            return replace(relay, state="failed", reason=said[:REASON_LENGTH_MAX], ended_at=now)
    return relay


def ended(relay: Relay, state: RelayState, reason: str, now: float) -> Relay:
    """Return the relay that has ended, if it has not yet."""
    if relay.state in TERMINAL:
        return relay
    return replace(relay, state=state, reason=reason[:REASON_LENGTH_MAX], ended_at=now)


def fail_if_overdue(relay: Relay, shares: Whereabouts, now: float) -> Relay:
    """Return the relay failed, with what was missing, if its deadline has passed."""
    if relay.state in TERMINAL or now < relay.terms.deadline:
        return relay
    return ended(relay, "failed", _what_was_missing(relay, shares), now)


def _what_was_missing(relay: Relay, shares: Whereabouts) -> str:
    silent = [f"{role} {end}" for role, end, heard in _heard(relay) if not heard]
    if silent:
        begun = ", although it has begun" if shares.seen and not relay.started else ""
        return f"the {' and the '.join(silent)} did not answer in time{begun}"
    return unrebuilt(shares, relay.findings)


def _heard(relay: Relay) -> tuple[tuple[str, str, bool], ...]:
    source, target = relay.ends
    return ("source", source, relay.started), ("target", target, relay.expected)
