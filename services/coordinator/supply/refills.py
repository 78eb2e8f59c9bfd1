"""Refills: which relays of supply are begun, when, and how large. The coordinator alone sees all links' key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final
from uuid import UUID

from coordinator.admission import Admission, RelaySpec
from coordinator.lifecycle import Relay
from coordinator.store.relays import RelayTable
from coordinator.supply.accounts import Accounts, Place, Said
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.assignments import SUPPLY_BYTES_PER_TAG_PAIR, NoSupply, OutgoingSupply, Supply
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.demand import Demand
from qkdrelay.network.names import Link
from qkdrelay.network.refusals import NoPlanError
from qkdrelay.service.batch import Batch, BatchDict

SUPPLY_BYTES_MAX: Final = 32 << 10
"""Key bytes of one relay of supply: larger ones take hardly less link key a byte."""
KEY_SIZE_BITS: Final = 256
_KEY_BYTES: Final = KEY_SIZE_BITS // 8
SUPPLY_S: Final = 7 * 86_400.0
"""Seconds for which supply may be assigned."""
TIMEOUT_S: Final = 30.0
UNDER_WAY_EACH, UNDER_WAY_ALL = 2, 64
"""Relays of supply that are under way: of one place, and in all."""
AHEAD_S: Final = 60.0
"""Seconds of use, as both ends see it, for which there may be supply beyond the first refill."""
FIRST_BYTES: Final = 2 * SUPPLY_BYTES_MAX
"""Supply that a source may have for a place of which nothing was used yet."""
LEFT_OVER: Final = 0.25
"""Part of a link's buffer that refills leave to relays of people, unless applications wait."""
_REST_S, _REST_MAX_S = 1.0, 60.0
_TEXT_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Refill:
    """A relay of supply that is under way."""

    place: Place
    size: int
    begun_at: float


@dataclass(frozen=True, slots=True)
class Rest:
    """A place that is not refilled for a while, since that failed."""

    times: int
    since: float
    why: str

    @property
    def seconds(self) -> float:
        """How long."""
        return min(_REST_MAX_S, _REST_S * 2.0 ** (self.times - 1))


class KeyLeft:
    """What the KMEs say is left of each link's key, in each direction."""

    def __init__(self, left: Mapping[Link, int], buffers: Mapping[Link, int]) -> None:
        """Bytes by link: those that are there, and those that may be kept."""
        self._left, self._buffers = dict(left), buffers

    def has(self, drawn: Mapping[Link, int], part: float) -> bool:
        """Whether each link has what is to be drawn, and this part of its buffer besides."""
        links = drawn.items()
        return all(self._left.get(link, 0) - size >= part * self._buffers.get(link, 0) for link, size in links)

    def draw(self, drawn: Mapping[Link, int]) -> None:
        """Reckon with what is drawn."""
        for link, size in drawn.items():
            self._left[link] = self._left.get(link, 0) - size


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
        self._had: dict[Place, float] = BatchDict(batch)
        """Bytes that each place had, by weight: who had least is next."""
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
                continue
            del self.under_way[relay_id]
            if relay is not None and relay.state == "failed":
                self._rest(refill.place, relay.reason, now)
            elif refill.place in self.rests:
                del self.rests[refill.place]

    def _rest(self, place: Place, why: str, now: float) -> None:
        before = self.rests.get(place)
        self.rests[place] = Rest(1 if before is None else before.times + 1, now, why)

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
        fresh, least = self._accounts.fresh(now), self._least()
        for place in self._in_turn(fresh, least, now):
            if len(self.under_way) >= UNDER_WAY_ALL:
                return
            said = fresh[place]
            size = self._size(place, said, now)
            if size <= 0:
                continue
            try:
                relay = self._fitting(place, size, links, now, waits=is_dry(said.outgoing))
            except QkdRelayError as error:
                self._rest(place, str(error), now)
                best = error.nearest.resilience.compromised if isinstance(error, NoPlanError) else None
                text = str(error)[:_TEXT_MAX]
                yield place.source, NoSupply(target=place.target, level=place.level, best=best, reason=text)
                continue
            if relay is not None:
                size = relay.terms.key_count * _KEY_BYTES
                self.under_way[relay.relay_id] = Refill(place, size, now)
                self._had[place] = self._had.get(place, least) + size / self.weight(place)
                yield relay

    def _in_turn(self, fresh: Mapping[Place, Said], least: float, now: float) -> list[Place]:
        """Return the places that want something: those that are dry first, then who had least."""
        wanting = [
            place for place, said in fresh.items() if said.outgoing.wanted_bytes > 0 and not self._rests(place, now)
        ]
        for place in tuple(self._had):
            if place not in fresh:
                del self._had[place]
        return sorted(
            wanting, key=lambda place: (not is_dry(fresh[place].outgoing), self._had.get(place, least), place)
        )

    def _least(self) -> float:
        """Return what who had least had: a place that is new has no claim to what others had before it."""
        return min(self._had.values(), default=0.0)

    def _rests(self, place: Place, now: float) -> bool:
        rest = self.rests.get(place)
        return rest is not None and abs(now - rest.since) < rest.seconds

    def _size(self, place: Place, said: Said, now: float) -> int:
        """Return how many bytes a relay for a place may have now; 0 for none."""
        mine = [refill for refill in self.under_way.values() if refill.place == place]
        if len(mine) >= UNDER_WAY_EACH:
            return 0
        # Not yet known to the source when it said what it wants.
        coming = sum(refill.size for refill in mine if refill.begun_at >= said.at)
        has = said.outgoing.stored_bytes + said.outgoing.pending_bytes + coming
        # Of both ends' accounts the lesser counts: no KME draws the network's key alone.
        may_have = FIRST_BYTES + AHEAD_S * self._accounts.assigned_bytes_per_s(place, now)
        wanted = min(said.outgoing.wanted_bytes - coming, int(may_have) - has, SUPPLY_BYTES_MAX)
        return ceil(wanted / _KEY_BYTES) * _KEY_BYTES if wanted > 0 else 0

    def _fitting(self, place: Place, size: int, links: KeyLeft, now: float, *, waits: bool) -> Relay | None:
        """Return the largest relay, up to ``size``, that leaves links what they are to keep; its key is drawn.

        Where somebody waits the smallest one begins in any case: its shares wait for key as it comes.
        """
        while True:
            relay = self._admission.admit(_spec(place, size, now), now, supply=_supply(size, now))
            drawn = self._admission.link_key_bytes(relay)
            smaller = size // 4 // _KEY_BYTES * _KEY_BYTES
            is_least = smaller < _KEY_BYTES
            if links.has(drawn, 0.0 if waits else LEFT_OVER) or (waits and is_least):
                links.draw(drawn)
                return relay
            if is_least:
                return None
            size = smaller


def is_dry(said: OutgoingSupply) -> bool:
    """Whether requests wait, and nothing is there or comes."""
    return said.waiting > 0 and said.stored_bytes + said.pending_bytes == 0


def _supply(size: int, now: float) -> Supply:
    return Supply(until=now + SUPPLY_S, tag_pairs=ceil(size / SUPPLY_BYTES_PER_TAG_PAIR))


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
