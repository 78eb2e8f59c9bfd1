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
from uuid import UUID

from coordinator.admission import Admission, RelaySpec
from coordinator.lifecycle import Relay
from coordinator.store.relays import RelayTable
from coordinator.supply.accounts import Accounts, Place, Said
from coordinator.supply.key_left import KeyLeft
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.assignments import SUPPLY_BYTES_PER_TAG_PAIR, NoSupply, OutgoingSupply, Supply
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.demand import Demand
from qkdrelay.network.names import Link, link_name
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
UNDER_WAY_EACH, UNDER_WAY_ALL = 2, 64
"""Relays of supply that are under way: of one place, late ones aside, and in all."""
LATE_S: Final = 3.0
"""Seconds after which a relay is not reckoned with any more: others begin beside it, on other ways."""
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
BLAMED_S: Final = 60.0
"""Seconds for which links of a relay that failed, or is late, are dear: nobody knows which of them it was."""
PLANNED_PER_S: Final = 100.0
"""Refills that are planned in a second, each in about one millisecond where there are 50 KMEs; the rest wait."""
_REST_S, _REST_MAX_S = 1.0, 60.0
_TEXT_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Refill:
    """A relay of supply that is under way."""

    place: Place
    size: int
    begun_at: float

    def is_late(self, now: float) -> bool:
        """Whether it should have ended by now."""
        return abs(now - self.begun_at) >= LATE_S


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
        self.under_way: dict[UUID, Refill] = BatchDict(batch)
        self.rests: dict[Place, Rest] = BatchDict(batch)
        self._had: dict[Place, tuple[float, float]] = BatchDict(batch)
        """Bytes that each place had lately, by weight, and when that was reckoned."""
        self._planned = Allowance(batch, PLANNED_PER_S)
        self._blamed: dict[Link, float] = BatchDict(batch)
        """Links of relays that failed, and when."""
        for relay in relays.undecided():
            if relay.terms.supply is not None:
                place = Place(*relay.ends, relay.terms.withstand.compromised)
                self.under_way[relay.relay_id] = Refill(place, relay.terms.key_count * _KEY_BYTES, relay.created_at)

    # --- what has ended ----------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Take note of what has ended; what failed is not tried again at once."""
        for relay_id, refill in tuple(self.under_way.items()):
            relay = self._relays.get(relay_id)
            if relay is not None and relay.state not in TERMINAL:
                if refill.is_late(now):
                    self._blame(relay, now)
                continue
            del self.under_way[relay_id]
            if relay is not None and relay.state == "failed":
                self._rest(refill.place, relay.reason, now)
                self._blame(relay, now)
            elif refill.place in self.rests:
                del self.rests[refill.place]

    def _blame(self, relay: Relay, now: float) -> None:
        hops = relay.plan.hops.items()
        self._blamed.update(((kme, after), now) for kme, hop in hops for after in hop.successors)

    def _rest(self, place: Place, why: str, now: float) -> None:
        before = self.rests.get(place)
        times = before.times + 1 if before is not None and before.has_failed else 1
        self.rests[place] = Rest(times, now, why)

    def wait_s(self, now: float) -> float:
        """Return in how many seconds a place that rests may be refilled."""
        return min((max(0.0, rest.seconds - abs(now - rest.since)) for rest in self.rests.values()), default=60.0)

    def count(self, place: Place) -> int:
        """Return how many relays are under way for a place."""
        return sum(refill.place == place for refill in self.under_way.values())

    def why(self, place: Place, now: float) -> str:
        """Return why a place is not refilled now, or was not when it was tried last and is again; or nothing."""
        rest = self.rests.get(place)
        return rest.why[:_TEXT_MAX] if rest is not None and (self._rests(place, now) or self.count(place)) else ""

    # --- what is next ------------------------------------------------------------------------------

    def next(self, links: KeyLeft, now: float) -> Iterator[Relay | tuple[str, NoSupply]]:
        """Yield the relays to begin, or what a source is to be told of a place: (source, why there is none)."""
        for link, at in tuple(self._blamed.items()):
            if abs(now - at) >= BLAMED_S:
                del self._blamed[link]
        fresh = self._accounts.fresh(now)
        for place, size, worth in self._in_turn(fresh, now):
            if len(self.under_way) >= UNDER_WAY_ALL or not self._planned.take(now):
                return
            try:
                relay = self._fitting(place, size, links, worth, now, waits=is_dry(fresh[place].outgoing))
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
            self.under_way[relay.relay_id] = Refill(place, given, now)
            self._had[place] = self._had_now(place, now) + given / self.weight(place), now
            yield relay

    def _in_turn(self, fresh: Mapping[Place, Said], now: float) -> list[tuple[Place, int, float]]:
        """Return the places that want something, how many bytes, and what one is worth: dry ones, then the worthiest.

        What it is worth, and who has had much, decide together: a place that is always empty, or says so, gets no more
        than its turn.
        """
        for place in [place for place in self._had if place not in fresh]:
            del self._had[place]
        mean = sum(self._had_now(place, now) for place in self._had) / max(1, len(self._had))
        found = []
        for place, said in fresh.items():
            if self._rests(place, now) or (size := self._size(place, said, now)) <= 0:
                continue
            worth = self.weight(place) * WORTH * price(1.0 - self.emptiness(place, said, now))
            score = worth / max(1.0, self._had_now(place, now) / mean if mean else 1.0)
            found.append((not is_dry(said.outgoing), -score, place, size, worth))
        return [(place, size, worth) for _, _, place, size, worth in sorted(found)]

    def emptiness(self, place: Place, said: Said, now: float) -> float:
        """Return how much of what a place should have is neither there nor coming, 0 to 1."""
        has = said.outgoing.stored_bytes + said.outgoing.pending_bytes
        coming = self._coming(place, said, now)
        should = has + said.outgoing.wanted_bytes
        return max(0.0, 1.0 - (has + coming) / should) if should else 0.0

    def _coming(self, place: Place, said: Said, now: float) -> int:
        """Return what is under way, not late, and was not known to the source when it said what it wants."""
        mine = (each for each in self.under_way.values() if each.place == place and each.begun_at >= said.at)
        return sum(each.size for each in mine if not each.is_late(now))

    def _had_now(self, place: Place, now: float) -> float:
        had, at = self._had.get(place, (0.0, now))
        return had * math.exp2(-abs(now - at) / HAD_S)

    def _rests(self, place: Place, now: float) -> bool:
        rest = self.rests.get(place)
        return rest is not None and abs(now - rest.since) < rest.seconds

    def _size(self, place: Place, said: Said, now: float) -> int:
        """Return how many bytes a relay for a place may have now; 0 for none."""
        mine = [refill for refill in self.under_way.values() if refill.place == place]
        if sum(not refill.is_late(now) for refill in mine) >= UNDER_WAY_EACH or len(mine) >= 2 * UNDER_WAY_EACH:
            return 0
        coming = self._coming(place, said, now)
        has = said.outgoing.stored_bytes + said.outgoing.pending_bytes + coming
        # Of both ends' accounts the lesser counts: no KME draws the network's key alone.
        may_have = FIRST_BYTES + AHEAD_S * self._accounts.assigned_bytes_per_s(place, now)
        if said.outgoing.wanted_bytes < TOP_UP * min(SUPPLY_BYTES_MAX, has + said.outgoing.wanted_bytes):
            return 0
        wanted = min(said.outgoing.wanted_bytes - coming, int(may_have) - has, SUPPLY_BYTES_MAX)
        return math.ceil(wanted / _KEY_BYTES) * _KEY_BYTES if wanted > 0 else 0

    def _fitting(
        self, place: Place, size: int, links: KeyLeft, worth: float, now: float, *, waits: bool
    ) -> Relay | str:
        """Return the largest relay, up to ``size``, that leaves links what they are to keep; its key is drawn.

        Or why there is none now. Where somebody waits the smallest one begins in any case: its shares wait for key.
        """
        candidate = self._admission.supply_candidate(*place, links.costs(self._blamed))
        while True:
            relay = self._admission.admit(_spec(place, size, now), now, supply=_supply(size, now), candidate=candidate)
            drawn = self._admission.link_key_bytes(relay)
            smaller = size // 4 // _KEY_BYTES * _KEY_BYTES
            is_least = smaller < _KEY_BYTES
            if (stuck := links.unusable(drawn)) is not None:
                return f"there is no way around the QKD link {link_name(*stuck)}, which carries nothing now"
            if not waits and links.worth(drawn) > worth * size:
                return "its key is worth less now than that of the links it would take"
            if links.has(drawn, 0.0 if waits else LEFT_OVER) or (waits and is_least):
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
        demand=Demand(compromised=place.level),
        timeout_s=TIMEOUT_S,
        allow_unprotected=place.level == 0,
    )
