"""What a relay's reports say about the way of its shares."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from qkdrelay.codec import decode_plan
from qkdrelay.inquiries import RelayView
from qkdrelay.network.plan import Plan, Route

_WHY_STUCK = {
    "link.down": "the QKD link to {} is down",
    "link.key_exhausted": "the QKD link to {} has no key left",
    "link.backlog": "{} does not take in what was sent before",
}


@dataclass(frozen=True, slots=True)
class Load:
    """The shares one direction of a QKD link carried, of those the plan has for it."""

    link: tuple[str, str]
    carried: int
    planned: int


@dataclass(frozen=True, slots=True)
class Halt:
    """Where a share came no further."""

    holder: Route
    """To the last KME known to have had it."""
    next: str
    """The KME that did not get it, or did not say so."""
    reason: str
    """Why it waits at the holder; empty if nothing is known."""
    sent: bool
    """Whether the holder said that it split or forwarded what it had."""

    def __str__(self) -> str:
        if self.reason:
            why = _WHY_STUCK[self.reason].format(self.next) if self.reason in _WHY_STUCK else self.reason
            return f"waits at {self.holder[-1]}: {why}"
        return f"no news from {self.next}" if self.sent else f"{self.holder[-1]} has not sent it"


class Flow:
    """The shares of one relay as its view has them."""

    def __init__(self, view: RelayView) -> None:
        self.view = view
        self.plan: Plan = decode_plan(view.plan)
        self.stuck = {s.route: s.reason for s in view.stuck}
        self.collected = frozenset(view.collected)
        handed_on = (*view.split, *view.forwarded)
        waiting = [route[:-1] for route in self.stuck]
        # A share that went on has come over every link before.
        self.seen = frozenset(
            route[:n] for route in (*handed_on, *view.collected, *waiting) for n in range(1, len(route) + 1)
        )
        self.split = frozenset(view.split)
        self.forwarded = frozenset(view.forwarded)

    @property
    def share_messages(self) -> int:
        """How many shares crossed a link."""
        return sum(len(route) > 1 for route in self.seen)

    def loads(self) -> list[Load]:
        """Return what each link of the plan carried, from the source outwards."""
        carried = Counter(route[-2:] for route in self.seen if len(route) > 1)
        counts = self.plan.path_counts
        outwards = [self.plan.source]
        for kme in outwards:  # grows while it is read
            outwards += [s for s in self.plan.successors(kme) if s not in outwards]
        return [
            Load((kme, successor), carried[kme, successor], counts[kme])
            for kme in outwards
            for successor in self.plan.successors(kme)
        ]

    def halt(self, route: Route) -> Halt:
        """Return where the share on ``route``, which did not arrive, came no further."""
        reached = next((n for n in range(len(route) - 1, 0, -1) if route[:n] in self.seen), 1)
        holder = route[:reached]
        sent = holder in self.split or holder in self.forwarded
        return Halt(holder, route[reached], self.stuck.get(route[: reached + 1], ""), sent)

    def marks(self, route: Route) -> list[str]:
        """Return what is held against the share on ``route``."""
        marks = []
        if route in self.view.false_shares:
            marks.append("FALSE")
        if any(route in group for dispute in self.view.disputed for group in dispute.sets):
            marks.append("disputed")
        if route in self.view.equivocating:
            marks.append("EQUIVOCATING")
        return marks
