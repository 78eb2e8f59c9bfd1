"""Searches for the secret among false shares, in parts: a target does a little of one in each turn.

What is begun is in memory only. After a crash the shares are still in the store, and the search begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from kme.model import EndpointRelay
from qkdrelay.network.names import Route
from qkdrelay.schemes.recursive import RELAY_SEARCH_MAX, RebuildResult, rebuilding
from qkdrelay.service.lru import LruCache
from qkdrelay.sharing.work import Budget, Steps, run_within

_SEARCHES_KEPT, _ROUTES_KEPT = 10_000, 512
"""Relays whose searches are remembered, and routes in what is remembered of one."""


@dataclass(slots=True)
class _Search:
    """What searching has left of a relay's budget, and what came of it; None if that is not known yet."""

    budget: Budget
    shares: int = 0
    result: RebuildResult | None = None
    rebuilt: bool = False
    """Whether there was a secret; it is not kept here."""

    def note(self, shares: int, result: RebuildResult) -> None:
        """Keep what came of so many shares, unless it is long."""
        self.shares, self.rebuilt = shares, result.secret is not None
        routes = sum(len(agreeing) for dispute in result.disputed for agreeing in dispute.sets)
        self.result = replace(result, secret=None) if routes <= _ROUTES_KEPT else None


@dataclass(frozen=True, slots=True)
class _Begun:
    relay_id: UUID
    shares: int
    steps: Steps[RebuildResult] = field(repr=False)


class Searches:
    """The searches of one KME. A relay's shares are only ever added to, so their number says whether some are new."""

    def __init__(self) -> None:
        self._begun: _Begun | None = None
        self._searches: LruCache[UUID, _Search] = LruCache(_SEARCHES_KEPT)

    def rebuild(
        self,
        relay: EndpointRelay,
        shares: int,
        held: Callable[[], Mapping[Route, bytes]],
        may_name: Callable[[str], bool],
        turn: Budget,
        *,
        keep: bool,
    ) -> RebuildResult | None:
        """Return what so many ``shares``, those ``held``, amount to; None if it takes more than is left of ``turn``.

        ``keep``: then it goes on at the next call with the same shares. One is kept, the last; it holds the shares.
        """
        search = self._searches.get(relay.relay_id) or _Search(Budget(RELAY_SEARCH_MAX))
        if search.result and search.shares == shares and not (search.rebuilt and relay.state == "expecting"):
            return search.result
        begun = self._begun
        if begun is None or (begun.relay_id, begun.shares) != (relay.relay_id, shares):
            steps = rebuilding(relay.plan, held(), relay.payload_length, budget=search.budget, may_name=may_name)
            begun = _Begun(relay.relay_id, shares, steps)
        done = run_within(begun.steps, turn)
        if done:
            self.drop(relay.relay_id)
            search.note(shares, done[0])
        elif keep:
            self._begun = begun
        if search.budget.left < RELAY_SEARCH_MAX:
            self._searches.keep(relay.relay_id, search)
        return done[0] if done else None

    def drop(self, relay_id: UUID) -> None:
        """Give up what is begun for this relay, if it is that one."""
        if self._begun and self._begun.relay_id == relay_id:
            self._begun = None
