"""The way of a relay's shares, as its reports tell it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from qkdrelay.messages.answers import RelayView
from qkdrelay.messages.plans import decode_plan
from qkdrelay.network.names import Route
from qkdrelay.network.whereabouts import Whereabouts


@dataclass(frozen=True, slots=True)
class Load:
    """The shares one direction of a QKD link carried, of those the plan has for it."""

    link: tuple[str, str]
    carried: int
    planned: int


class Flow(Whereabouts):
    """The shares of one relay as its view has them."""

    def __init__(self, view: RelayView) -> None:
        super().__init__(
            decode_plan(view.plan),
            split=view.split,
            forwarded=view.forwarded,
            collected=view.collected,
            stuck={s.route: s.reason for s in view.stuck},
        )
        self.view = view

    @property
    def share_messages(self) -> int:
        """Number of shares that crossed a link."""
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
