"""One relay as the coordinator decides on it: pure steps from state to state (protocol, section 6).

What the two ends still have to be told follows from the state alone (`outstanding`), so telling
them first, again after a loss, and after a restart are the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from qkdrelay.codec import decode_plan
from qkdrelay.messages import (
    TERMINAL,
    Command,
    Decide,
    Decided,
    Expect,
    Expected,
    Findings,
    Prove,
    Rebuilt,
    Refused,
    RelayState,
    Report,
    Start,
    Started,
    Terms,
    Verified,
)
from qkdrelay.network.analysis import shortfall
from qkdrelay.network.plan import Plan, Route


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
    at_once: bool = False
    """Whether the source starts without waiting until the target has stored the terms."""
    expected: bool = False
    """Whether the target has stored the terms."""
    source_proof: bytes | None = None
    target_proof: bytes | None = None
    source_verified: bool | None = None
    target_verified: bool | None = None
    """Whether this end found the other's tag valid; None before it said so."""
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
    told: list[tuple[str, Command]] = []
    if relay.state == "failed":
        return [(end, Decide(relay_id=relay_id, confirmed=False)) for end in relay.ends if end not in relay.released]
    if relay.state != "confirmed":
        if not relay.expected:
            told.append((target, Expect(terms=relay.terms)))
        if relay.source_proof is None and (relay.expected or relay.at_once):
            told.append((source, Start(terms=relay.terms)))
    # A tag must not overtake the terms.
    source_proof = relay.source_proof if relay.expected else None
    for kme, proof, verified in (
        (source, relay.target_proof, relay.source_verified),
        (target, source_proof, relay.target_verified),
    ):
        if kme in relay.released or verified is False:
            continue
        if proof is not None and verified is None:
            told.append((kme, Prove(relay_id=relay_id, peer_proof=proof)))
        if relay.state == "confirmed":
            told.append((kme, Decide(relay_id=relay_id, confirmed=True)))
    return told


def reminders(relay: Relay) -> list[tuple[str, Command]]:
    """Return what the ends have to be told again.

    With a decision goes the tag it rests on: an end that came back with an old copy of its store has lost that.
    """
    unverified = replace(relay, source_verified=relay.source_verified and None, target_verified=None)
    return outstanding(unverified if relay.state == "confirmed" else relay)


def advance(relay: Relay, sender: str, report: Report, now: float) -> Relay:
    """Return the relay after ``report`` from ``sender``; unchanged if that KME has no say in it."""
    source, target = relay.ends
    if isinstance(report, Findings):
        return replace(relay, findings=report) if sender == target else relay
    if relay.state in TERMINAL:
        return _advance_ended(relay, sender, report)
    match report:
        case Expected() if sender == target:
            return replace(relay, expected=True)
        case Started(proof=proof) if sender == source:
            state: RelayState = "reconstructed" if relay.target_proof else "started"
            return _confirm_if_proven(replace(relay, source_proof=proof, state=state), now)
        case Rebuilt(proof=proof) if sender == target:
            rebuilt = replace(relay, expected=True, target_proof=proof, state="reconstructed")
            return _confirm_if_proven(rebuilt, now)
        case Verified(valid=False) if sender in (source, target):
            return end(relay, "failed", f"the two ends do not have the same keys, {sender} finds", now)
        case Verified() if sender == source:
            return replace(relay, source_verified=True)
        case Verified() if sender == target:
            return _confirm_if_proven(replace(relay, target_verified=True), now)
        case Refused(reason=reason) if sender in (source, target):
            return end(relay, "failed", f"refused by {reason}", now)
    return relay


def _advance_ended(relay: Relay, sender: str, report: Report) -> Relay:
    """Return the decided relay after ``report``: only who has carried the decision out can change."""
    source, target = relay.ends
    match report:
        case Decided(confirmed=confirmed) if sender in (source, target):
            if confirmed != (relay.state == "confirmed") or sender in relay.released:
                return relay
            return replace(relay, released=(*relay.released, sender))
        case Expected() | Started() | Rebuilt() if sender in relay.released:
            # The decision has overtaken what it decides on, and found nothing: it is told again.
            return replace(relay, released=tuple(end for end in relay.released if end != sender))
        case Verified(valid=False) if relay.state == "confirmed" and sender == source and sender not in relay.released:
            # The target says that it has the source's keys, and proves that it has others.
            reason = f"{source} has released no keys: the tag of {target} is not valid for them"
            return replace(relay, source_verified=False, reason=reason)
    return relay


def _confirm_if_proven(relay: Relay, now: float) -> Relay:
    """Decide as soon as the target knows that it has the source's keys.

    The source finds out from the target's tag, which comes to it with the decision and without which it releases
    nothing; to wait until it has said so, too, would only delay both.
    """
    proven = relay.target_verified and relay.source_proof and relay.target_proof
    return end(relay, "confirmed", "", now) if proven else relay


def end(relay: Relay, state: RelayState, reason: str, now: float) -> Relay:
    """Return the decided relay: a decision is taken once and never changed."""
    return relay if relay.state in TERMINAL else replace(relay, state=state, reason=reason, ended_at=now)


def expire(relay: Relay, collected: frozenset[Route], now: float) -> Relay:
    """Return the relay failed, with what was missing, if its deadline has passed."""
    if relay.state in TERMINAL or now < relay.terms.deadline:
        return relay
    return end(relay, "failed", _what_was_missing(relay, collected), now)


def _what_was_missing(relay: Relay, collected: frozenset[Route]) -> str:
    source, target = relay.ends
    if not relay.expected:
        return f"the target {target} did not answer in time"
    if relay.source_proof is None:
        return f"the source {source} did not answer in time"
    if relay.state == "reconstructed":
        return f"{target} did not confirm in time"
    short = shortfall(relay.plan, collected)
    if short:
        route, present, needed = short[0]
        named = ">".join(route)
        return f"too few shares in time: the split on {named} has {present} of the {needed} it needs"
    findings = relay.findings
    if findings is None:
        return f"enough shares have reached {target}, and yet it has not rebuilt the keys: it may have lost some since"
    if findings.unclear == "ambiguous":
        return "the shares decode to more than one secret: too many KMEs on the way are compromised"
    if findings.unclear == "exhausted":
        return "enough shares came, but so many false ones among them that the search for good ones was given up"
    return "enough shares came, but false ones among them left too few good ones"
