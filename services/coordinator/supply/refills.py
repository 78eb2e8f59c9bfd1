"""Refills: which relays of supply are begun, when, how large and over what. The coordinator alone sees all links' key.

By prices: a byte of supply is worth the more to a place the less of what it should have is there, and link key the more
the less of a link's buffer is left (`qkdrelay.network.prices`). A refill takes the cheapest disjoint paths there are at
that moment, as few as its level needs, and begins if what it brings is worth more than what it takes. So places share
the network by time, over paths that change, and rates need not be known. No path is held in case another fails: the
next refill goes around what is down, silent, or was of a relay that failed a moment ago.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from coordinator.admission import Admission, RelaySpec
from coordinator.lifecycle import Relay
from coordinator.store.relays import RelayTable
from coordinator.supply.accounts import Accounts, Place
from coordinator.supply.key_left import KeyDrawn, KeyLeft
from coordinator.supply.suspicions import Suspicions
from coordinator.supply.under_way import Refill, UnderWay
from coordinator.supply.wants import KEY_BYTES, KEY_SIZE_BITS, Turn, Wants
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.assignments import SUPPLY_BYTES_PER_TAG_PAIR, NoSupply, Supply
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.reports import LinkReport
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.demand import Demand
from qkdrelay.network.names import link_name
from qkdrelay.network.refusals import NoPlanError
from qkdrelay.service.allowance import Allowance
from qkdrelay.service.batch import Batch, BatchDict

LEAST_BYTES: Final = 1 << 10
"""Key bytes of the smallest relay, unless less is wanted: smaller ones take twice the link key a byte."""
SUPPLY_S: Final = 7 * 86_400.0
"""Seconds for which supply may be assigned."""
TIMEOUT_S: Final = 30.0
LEFT_OVER: Final = 0.05
"""Part of a link's buffer that refills leave to relays of people, unless applications wait."""
PLANNED_PER_S: Final = 100.0
"""Refills that are planned in a second, each in about one millisecond where there are 50 KMEs; the rest wait."""
_REST_S, _REST_MAX_S = 1.0, 60.0
_TEXT_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Rest:
    """A place that is not refilled for a while, since that failed or was not worth it."""

    times: int
    since: float
    why: str
    has_failed: bool = True
    """Else it was not worth it, as things were."""

    @property
    def seconds(self) -> float:
        """How long."""
        return min(_REST_MAX_S, _REST_S * 1.5 ** (self.times - 1))


class Refills:
    """Decides on relays of supply: those who wait first, then in turns; few, and large."""

    def __init__(
        self,
        accounts: Accounts,
        admission: Admission,
        relays: RelayTable,
        batch: Batch,
        weight: Callable[[Place], float],
    ) -> None:
        """``weight`` says how much of what is there a place may have, against the others."""
        self._accounts, self._admission, self._relays = accounts, admission, relays
        self.under_way = UnderWay(batch)
        self._wants = Wants(accounts, self.under_way, weight, batch)
        self.rests: dict[Place, Rest] = BatchDict(batch)
        self._planned = Allowance(batch, PLANNED_PER_S)
        self._suspicions, self._drawn = Suspicions(batch), KeyDrawn(batch)
        for relay in relays.undecided():
            self.adopt(relay)

    def adopt(self, relay: Relay) -> None:
        """Reckon with a relay that is under way, if it is of supply: it was not begun here."""
        if relay.terms.supply is not None:
            place = Place(*relay.ends, relay.terms.withstand.compromised)
            refill = Refill(place, relay.terms.key_count * KEY_BYTES, relay.created_at, "begun before this start")
            self.under_way.add(relay.relay_id, refill)
            self._drawn.begun(relay.relay_id, self._admission.link_key_bytes(relay), relay.created_at)

    # --- what has ended ----------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Take note of what has ended; what failed is not tried again at once."""
        for relay_id, refill in self.under_way.all():
            relay = self._relays.get(relay_id)
            if relay is not None and relay.state not in TERMINAL:
                if self.under_way.becomes_late(relay_id, now):
                    self._suspicions.failed(relay.plan, now)
                continue
            was_late = self.under_way.end(relay_id)
            self._drawn.ended(relay_id)
            if relay is not None and relay.state == "failed":
                self._rest(refill.place, relay.reason, now)
                if not was_late:
                    self._suspicions.failed(relay.plan, now)
                continue
            if relay is not None:
                self._suspicions.arrived(relay.plan, now)
            if refill.place in self.rests:
                del self.rests[refill.place]

    def _rest(self, place: Place, why: str, now: float) -> None:
        before = self.rests.get(place)
        times = before.times + 1 if before is not None and before.has_failed else 1
        self.rests[place] = Rest(times, now, why)

    def wait_s(self, now: float) -> float:
        """Return in how many seconds a place that rests may be refilled."""
        return min((max(0.0, rest.seconds - abs(now - rest.since)) for rest in self.rests.values()), default=60.0)

    def why(self, place: Place, now: float) -> tuple[str, str]:
        """Return why a place is refilled now, or needs no refill; and what is in the way.

        What is in the way is said until a refill has ended well, also while it is tried again.
        """
        rest, begun = self.rests.get(place), self.under_way.of(place)
        in_the_way = rest.why if rest is not None and (self._rests(place, now) or begun) else ""
        reason = begun[-1].why if begun else ""
        said = self._accounts.of(place, now)
        if said is not None and not begun and not in_the_way:
            size = self._wants.size(place, said, now)
            reason = size if isinstance(size, str) else "its turn comes"
        return reason[:_TEXT_MAX], in_the_way[:_TEXT_MAX]

    # --- what is next ------------------------------------------------------------------------------

    def next(
        self, reports: Iterable[tuple[str, float, LinkReport]], now: float
    ) -> Iterator[Relay | tuple[str, NoSupply]]:
        """Yield the relays to begin, or what a source is to be told of a place: (source, why there is none).

        ``reports`` are as of `KeyDrawn.left`.
        """
        links = self._drawn.left(reports, now)
        for turn in self._wants.turns(now):
            place = turn.place
            if self._rests(place, now):
                continue
            if self.under_way.is_full(now) or not self._planned.take(now):
                return
            try:
                relay = self._fitting(turn, links, now)
            except QkdRelayError as error:
                self._rest(place, str(error), now)
                best = error.nearest.resilience.compromised if isinstance(error, NoPlanError) else None
                text = str(error)[:_TEXT_MAX]
                yield place.source, NoSupply(target=place.target, level=place.level, best=best, reason=text)
                continue
            if isinstance(relay, str):
                self.rests[place] = Rest(1, now, relay, has_failed=False)
                continue
            if place in self.rests and not self.rests[place].has_failed:
                del self.rests[place]
            given = relay.terms.key_count * KEY_BYTES
            self.under_way.add(relay.relay_id, Refill(place, given, now, turn.why))
            self._wants.given(place, given, now)
            yield relay

    def _rests(self, place: Place, now: float) -> bool:
        rest = self.rests.get(place)
        return rest is not None and abs(now - rest.since) < rest.seconds

    def _fitting(self, turn: Turn, links: KeyLeft, now: float) -> Relay | str:
        """Return the largest relay for a place that leaves links what they are to keep; its key is drawn.

        Or why there is none now. Where somebody waits the smallest one begins in any case: its shares wait for key.
        """
        size, keep = turn.size, 0.0 if turn.is_first else LEFT_OVER
        costs = links.costs(lambda link: self._suspicions.cost(link, now))
        candidate = self._admission.supply_candidate(*turn.place, costs)
        while True:
            spec = _spec(turn.place, size, now)
            relay = self._admission.admit(spec, now, supply=_supply(size, now), candidate=candidate)
            drawn = self._admission.link_key_bytes(relay)
            is_least = size <= LEAST_BYTES
            if (stuck := links.unusable(drawn)) is not None:
                return f"there is no way around the QKD link {link_name(*stuck)}, which carries nothing now"
            if not turn.is_first and links.worth(drawn) > turn.worth * size:
                return "its key is worth less now than that of the links it would take"
            if links.has(drawn, keep) or (turn.is_first and is_least):
                links.draw(drawn)
                self._drawn.begun(relay.relay_id, drawn, now)
                return relay
            if is_least:
                return "the links it would take have too little key left"
            size = max(LEAST_BYTES, size // 2 // KEY_BYTES * KEY_BYTES)


def _supply(size: int, now: float) -> Supply:
    return Supply(until=now + SUPPLY_S, tag_pairs=math.ceil(size / SUPPLY_BYTES_PER_TAG_PAIR))


def _spec(place: Place, size: int, now: float) -> RelaySpec:
    return RelaySpec(
        relay_id=new_relay_id(now),
        source=place.source,
        target=place.target,
        key_count=size // KEY_BYTES,
        key_size_bits=KEY_SIZE_BITS,
        demand=Demand(compromised=place.level, failed=0),
        timeout_s=TIMEOUT_S,
        allow_unprotected=place.level == 0,
    )
