"""Refills: which relays of supply are begun, when, how large and over what. The coordinator alone sees all links' key.

By prices: a byte of supply is worth the more to a place the less of what it should have is there, and link key the more
the less of a link's buffer is left (`qkdrelay.network.prices`). A refill takes the cheapest disjoint paths there are at
that moment, as few as its level needs, and begins if what it brings is worth more than what it takes. So places share
the network by time, over paths that change, and rates need not be known. No path is held in case another fails: the
next refill goes around what is down, silent, or was of a relay that failed a moment ago.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from coordinator.admission import Admission, RelaySpec
from coordinator.lifecycle import Relay
from coordinator.store.relays import RelayTable
from coordinator.supply.accounts import Accounts, Place, Said
from coordinator.supply.key_left import KeyLeft
from coordinator.supply.suspicions import Suspicions
from coordinator.supply.under_way import Refill, UnderWay
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.assignments import SUPPLY_BYTES_PER_TAG_PAIR, NoSupply, OutgoingSupply, Supply
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.demand import Demand
from qkdrelay.network.names import link_name
from qkdrelay.network.prices import price
from qkdrelay.network.refusals import NoPlanError
from qkdrelay.service.allowance import Allowance
from qkdrelay.service.batch import Batch, BatchDict

SUPPLY_BYTES_MAX: Final = 128 << 10
"""Key bytes of one relay of supply: larger ones take hardly less link key a byte."""
KEY_SIZE_BITS: Final = 256
_KEY_BYTES: Final = KEY_SIZE_BITS // 8
SUPPLY_S: Final = 7 * 86_400.0
"""Seconds for which supply may be assigned."""
TIMEOUT_S: Final = 30.0
UNDER_WAY_EACH: Final = 2
"""Relays of supply that are under way of one place, late ones aside."""
TOP_UP: Final = 0.25
"""Part of the largest refill, and of what a place should have, below which it waits until it wants more."""
AHEAD_S: Final = 60.0
"""Seconds of use, as both ends see it, for which there may be supply beyond the first refill."""
FIRST_BYTES: Final = 64 << 10
"""Supply that a source may have for a place of which nothing was used yet."""
LEFT_OVER: Final = 0.05
"""Part of a link's buffer that refills leave to relays of people, unless applications wait."""
WORTH: Final = 64.0
"""What a byte is worth to a place that has half of what it should have, over what one is of a link half full."""
HAD_S: Final = 600.0
"""Seconds after which half of what a place had counts against it."""
PLANNED_PER_S: Final = 100.0
"""Refills that are planned in a second, each in about one millisecond where there are 50 KMEs; the rest wait."""
_REST_S, _REST_MAX_S = 1.0, 60.0
_TEXT_MAX: Final = 200
WAITS_HAD_MAX: Final = 1.1
"""What a place may have had lately, over the mean of those that want some, to come first because requests wait."""


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
        return min(_REST_MAX_S, _REST_S * 2.0 ** (self.times - 1))


@dataclass(frozen=True, slots=True)
class Turn:
    """What a place wants now."""

    place: Place
    size: int
    emptiness: float
    """How much of what it should have is neither there nor coming, 0 to 1."""
    worth: float
    """What a byte is worth to it."""
    is_first: bool
    """Whether requests wait for it, and it did not have far more than others already."""

    @property
    def why(self) -> str:
        """Why it is refilled."""
        if self.is_first:
            return "requests wait and nothing is there"
        return f"{1.0 - self.emptiness:.0%} of what it should have is there or on its way"


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
        self._accounts, self._admission, self._relays, self.weight = accounts, admission, relays, weight
        self.under_way = UnderWay(batch)
        self.rests: dict[Place, Rest] = BatchDict(batch)
        self._had: dict[tuple[str, str], tuple[float, float]] = BatchDict(batch)
        """Bytes that each source had lately for a target, by weight, and when that was reckoned."""
        self._planned = Allowance(batch, PLANNED_PER_S)
        self._suspicions = Suspicions(batch)
        for relay in relays.undecided():
            if relay.terms.supply is not None:
                place = Place(*relay.ends, relay.terms.withstand.compromised)
                refill = Refill(place, relay.terms.key_count * _KEY_BYTES, relay.created_at, "begun before this start")
                self.under_way.add(relay.relay_id, refill)

    # --- what has ended ----------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Take note of what has ended; what failed is not tried again at once."""
        for relay_id, refill in self.under_way.all():
            relay = self._relays.get(relay_id)
            if relay is not None and relay.state not in TERMINAL:
                if refill.is_late(now):
                    self._suspicions.failed(relay.plan, refill.begun_at, now)
                continue
            self.under_way.end(relay_id)
            if relay is not None and relay.state == "failed":
                self._rest(refill.place, relay.reason, now)
                self._suspicions.failed(relay.plan, refill.begun_at, now)
                continue
            if relay is not None:
                self._suspicions.confirmed(relay.plan)
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
            size = self._size(place, said, now)
            reason = size if isinstance(size, str) else "its turn comes"
        return reason[:_TEXT_MAX], in_the_way[:_TEXT_MAX]

    # --- what is next ------------------------------------------------------------------------------

    def next(self, links: KeyLeft, now: float) -> Iterator[Relay | tuple[str, NoSupply]]:
        """Yield the relays to begin, or what a source is to be told of a place: (source, why there is none)."""
        self._suspicions.forget(now)
        fresh = self._accounts.fresh(now)
        for turn in self._turns(fresh, now):
            place = turn.place
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
            given = relay.terms.key_count * _KEY_BYTES
            self.under_way.add(relay.relay_id, Refill(place, given, now, turn.why))
            self._had[place[:2]] = self._had_now(place, now) + given / self.weight(place), now
            yield relay

    def _turns(self, fresh: Mapping[Place, Said], now: float) -> list[Turn]:
        """Return the places that want something: dry ones, then the worthiest.

        What a byte is worth, and who had more lately than others that want some, decide together: a place that is
        always empty, or says so, gets no more than its turn, and comes no sooner.
        """
        ends = {place[:2] for place in fresh}
        for gone in [pair for pair in self._had if pair not in ends]:
            del self._had[gone]
        sizes = {place: self._size(place, said, now) for place, said in fresh.items()}
        wanting = {place: size for place, size in sizes.items() if not isinstance(size, str)}
        mean = sum(self._had_now(place, now) for place in wanting) / max(1, len(wanting))
        turns = []
        for place, size in wanting.items():
            if self._rests(place, now):
                continue
            had = self._had_now(place, now) / mean if mean else 1.0
            emptiness = self._emptiness(place, fresh[place], now)
            worth = self.weight(place) * WORTH * price(1.0 - emptiness) / max(1.0, had) ** 2
            said = fresh[place].outgoing
            comes = said.pending_bytes + self.under_way.coming(place, fresh[place].at, now)
            is_first = said.waiting > 0 and not comes and had <= WAITS_HAD_MAX
            turns.append(Turn(place, size, emptiness, worth, is_first=is_first))
        return sorted(turns, key=lambda turn: (not turn.is_first, -turn.worth, turn.place))

    def _emptiness(self, place: Place, said: Said, now: float) -> float:
        """Return how much of what a place should have is neither there nor coming, 0 to 1."""
        has = said.outgoing.stored_bytes + said.outgoing.pending_bytes
        coming = self.under_way.coming(place, said.at, now)
        should = has + said.outgoing.wanted_bytes
        return max(0.0, 1.0 - (has + coming) / should) if should else 0.0

    def _had_now(self, place: Place, now: float) -> float:
        had, at = self._had.get(place[:2], (0.0, now))
        return had * math.exp2(-abs(now - at) / HAD_S)

    def _rests(self, place: Place, now: float) -> bool:
        rest = self.rests.get(place)
        return rest is not None and abs(now - rest.since) < rest.seconds

    def _size(self, place: Place, said: Said, now: float) -> int | str:
        """Return how many bytes a relay for a place may have now, or why there is to be none."""
        mine = self.under_way.of(place)
        if sum(not refill.is_late(now) for refill in mine) >= UNDER_WAY_EACH or len(mine) >= 2 * UNDER_WAY_EACH:
            return "as many relays are under way as there may be"
        coming = self.under_way.coming(place, said.at, now)
        has = said.outgoing.stored_bytes + said.outgoing.pending_bytes + coming
        # Of both ends' accounts the lesser counts: no KME draws the network's key alone.
        may_have = FIRST_BYTES + AHEAD_S * self._accounts.assigned_bytes_per_s(place, now)
        wanted = said.outgoing.wanted_bytes - coming
        if wanted <= 0:
            return "it has what it should have"
        if said.outgoing.wanted_bytes < TOP_UP * min(SUPPLY_BYTES_MAX, has + said.outgoing.wanted_bytes):
            return "it has nearly what it should have"
        if has >= int(may_have):
            return "it has as much as both ends say that they use"
        size = min(wanted, int(may_have) - has, SUPPLY_BYTES_MAX)
        return math.ceil(size / _KEY_BYTES) * _KEY_BYTES

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
            smaller = size // 4 // _KEY_BYTES * _KEY_BYTES
            is_least = smaller < _KEY_BYTES
            if (stuck := links.unusable(drawn)) is not None:
                return f"there is no way around the QKD link {link_name(*stuck)}, which carries nothing now"
            if not turn.is_first and links.worth(drawn) > turn.worth * size:
                return "its key is worth less now than that of the links it would take"
            if links.has(drawn, keep) or (turn.is_first and is_least):
                links.draw(drawn)
                return relay
            if is_least:
                return "the links it would take have too little key left"
            size = smaller


def is_dry(said: OutgoingSupply) -> bool:
    """Whether requests wait, and nothing is there or comes."""
    return said.waiting > 0 and said.stored_bytes + said.pending_bytes == 0


def _supply(size: int, now: float) -> Supply:
    return Supply(until=now + SUPPLY_S, tag_pairs=math.ceil(size / SUPPLY_BYTES_PER_TAG_PAIR))


def _spec(place: Place, size: int, now: float) -> RelaySpec:
    return RelaySpec(
        relay_id=new_relay_id(now),
        source=place.source,
        target=place.target,
        key_count=size // _KEY_BYTES,
        key_size_bits=KEY_SIZE_BITS,
        demand=Demand(compromised=place.level, failed=0),
        timeout_s=TIMEOUT_S,
        allow_unprotected=place.level == 0,
    )
