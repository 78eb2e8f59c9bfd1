"""What came of one relay under attack, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from attack import oracle
from attack.case import Case
from kme.model import EndpointRelay
from qkdrelay.messages.reports import Findings
from qkdrelay.network.names import Route


@dataclass
class Outcome:
    """Everything seen from outside; ``wrong`` says what must not be."""

    case: Case
    confirmed: bool = False
    reason: str = ""
    findings: Findings | None = None
    rejected: int = 0
    """Messages that an honest KME refused."""
    drawn: list[bytes] = field(default_factory=list)
    """Keys the source drew."""
    released: dict[str, bytes] = field(default_factory=dict)
    arrived: set[Route] = field(default_factory=set)
    altered: set[Route] = field(default_factory=set)
    """Of those that arrived: other bytes than the source gave on this route."""
    reused: int = 0
    """Slots of link key under which two messages were sealed, or pad bytes drawn twice."""

    def note(self, kme: str, relay: EndpointRelay | None) -> None:
        """Look at an end's keys."""
        if relay is None:
            return
        if relay.role == "source" and relay.is_released and self.drawn:
            # Of supply nothing is left in the store of its source.
            self.released[kme] = self.drawn[-1]
        if relay.payload is None:
            return
        keys = relay.payload.keys
        if relay.role == "source" and keys not in self.drawn:
            self.drawn.append(keys)
        if relay.is_released:
            self.released[kme] = keys

    def wrong_secret(self) -> bool:
        """Whether the source released other keys than it drew, or keys that the target does not have."""
        source, target = self.case.plan.source, self.case.plan.target
        keys = self.released.get(source)
        return keys is not None and (keys not in self.drawn[:1] or keys != self.released.get(target))

    def innocents(self) -> list[Route]:
        """The routes named false, or as equivocating, that have no compromised KME."""
        found = self.findings
        named = () if found is None else (*found.false, *found.equivocating)
        return [route for route in named if not self.case.coalition & set(route)]

    def wrong(self) -> Iterator[str]:
        """Yield what must not be."""
        case, must = self.case, self.case.expected
        if self.wrong_secret():
            yield "a wrong secret was delivered"
        if self.reused:
            yield f"{self.reused} slots or pad bytes were used twice"
        if case.dishonest:
            return
        at_the_source = case.plan.source in self.released
        if at_the_source != self.confirmed:
            yield f"{'confirmed' if self.confirmed else 'failed'}, and keys were released at {sorted(self.released)}"
        if must.must_confirm and not self.confirmed and oracle.withstood(case.plan) >= case.demanded:
            yield f"enough good shares were left, and it failed: {self.reason}"
        if self.confirmed and not must.may_confirm:
            yield "it was confirmed with too few shares"
        if len(case.coalition) <= case.demanded:
            yield from self._wrongly_named()

    def _wrongly_named(self) -> Iterator[str]:
        """Within what is withstood: no innocent is named and, where KMEs only forward, exactly the guilty are."""
        if innocents := self.innocents():
            yield f"innocent routes were named: {innocents}"
        plan, found = self.case.plan, self.findings
        hop = plan.hops[plan.source]
        if not self.confirmed or any(plan.is_split(kme) for kme in plan.hops if kme != plan.source):
            return
        false = set(found.false) if found else set()
        good = len(self.arrived) - len(self.altered)
        if good >= 2 * hop.threshold - 2 and false != self.altered:
            yield f"{sorted(self.altered)} are false, {sorted(false)} are named"
        if good < 2 * hop.threshold - 2 and false:
            yield f"{sorted(self.altered)} can only be disputed, {sorted(false)} are named"
        # With fewer good ones than the threshold, false ones can agree with all of them: nobody can tell.
        if self.altered and good >= hop.threshold and not false and not (found and found.disputed):
            yield f"{sorted(self.altered)} are false, and nothing is said of it"
