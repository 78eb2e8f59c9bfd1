"""Whereabouts of a relay's shares, as far as the KMEs have reported them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from qkdrelay.network.names import Route
from qkdrelay.network.plan import Plan

REFUSED = "refused: "
"""Beginning of the reason for a share that its receiver did not accept."""
DROPPED = "dropped: "
"""Beginning of it for one that its holder could not even keep."""
LINK_DOWN, NO_KEY, BACKLOG = "link.down", "link.key_exhausted", "link.backlog"
NOT_AGREED = "link.not_agreed"
"""Reasons for which a share waits at its holder."""
_WHY_STUCK = {
    LINK_DOWN: "the QKD link to {} is down",
    NO_KEY: "the QKD link to {} has no key left",
    NOT_AGREED: "{} has not said that it has the key that is to be used next on the QKD link",
    BACKLOG: "{} does not take in what was sent before",
}


@dataclass(frozen=True, slots=True)
class Halt:
    """A place where a share came no further."""

    holder: Route
    """The route to the last KME known to have had it."""
    next: str
    """The KME that did not get it, or did not say so."""
    reason: str
    """The reason a KME reported for it; empty if nothing is known."""
    sent: bool
    """Whether the holder is known to have split or forwarded what it had."""

    def __str__(self) -> str:
        holder, reason = self.holder[-1], self.reason
        if reason.startswith(REFUSED):
            return f"{self.next} refused it: {reason.removeprefix(REFUSED)}"
        if reason.startswith(DROPPED):
            return f"{holder} dropped it: {reason.removeprefix(DROPPED)}"
        if reason:
            return f"waits at {holder}: {_WHY_STUCK[reason].format(self.next) if reason in _WHY_STUCK else reason}"
        return f"no news from {self.next}" if self.sent else f"{holder} has not said that it sent it"


class Whereabouts:
    """The shares of one relay over ``plan``, each named by its route."""

    def __init__(
        self,
        plan: Plan,
        *,
        split: Collection[Route] = (),
        forwarded: Collection[Route] = (),
        collected: Collection[Route] = (),
        stuck: Mapping[Route, str] | None = None,
    ) -> None:
        """Routes to the KMEs that split, forwarded or, as the target, collected; ``stuck``: why one is not there."""
        self.plan = plan
        self.split, self.forwarded, self.collected = frozenset(split), frozenset(forwarded), frozenset(collected)
        self.stuck = dict(stuck or {})
        waiting = [route[:-1] for route in self.stuck]
        # A share that went on has come over every link before.
        self.seen = frozenset(
            route[:n] for route in (*split, *forwarded, *collected, *waiting) for n in range(1, len(route) + 1)
        )
        self._handed_on = frozenset((*split, *forwarded, *waiting, *(route[:-1] for route in self.seen)))

    def halt(self, route: Route) -> Halt:
        """Return where the share on ``route``, which did not arrive, came no further."""
        reached = next((n for n in range(len(route) - 1, 0, -1) if route[:n] in self.seen), 1)
        holder = route[:reached]
        return Halt(holder, route[reached], self.stuck.get(route[: reached + 1], ""), holder in self._handed_on)
