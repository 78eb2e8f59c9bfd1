"""Hours of a network's supply in seconds: the real refills, planner and accounts on a virtual clock.

What is simulated is what the KMEs and links do: links fill, relays take a second and the link key that they take, SAEs
ask in bursts, KMEs fail and come back. Everything is in bytes and seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from coordinator.admission import Admission
from coordinator.supply.accounts import Accounts, Place
from coordinator.supply.refills import TIMEOUT_S, Refills
from qkdrelay.messages.assignments import IncomingSupply, OutgoingSupply, Supplies
from qkdrelay.messages.reports import LinkReport
from qkdrelay.network.capacity import KmePair, is_protectable, optimum
from qkdrelay.network.key_rates import rates_of
from qkdrelay.network.names import Link
from qkdrelay.network.planner import without
from qkdrelay.network.topology import LinkNote, Topology
from qkdrelay.service.batch import Batch
from support.kme import OF_NO_NOTE

RELAY_S = 1.0
BURST_S, STOCK_BURSTS = 6.0, 10.0
"""Seconds of a pair's mean use in a mean burst, and bursts that its stock is to hold."""
BUFFER_S = 120.0
"""Seconds of the mean link's rate that each link's buffer holds."""
REQUEST_BYTES = 4096
"""Of a request: 128 keys, the most there are in one; a burst is several."""
START = 1.0
"""Part of each buffer that is there at the start, as KMEs have it."""
PATIENCE_S = 10.0
"""Seconds after which a request that waits is gone."""
DOWN_S, DOWN_EVERY_S = 60.0, 3_600.0


class Relays:
    """The coordinator's relays, in memory."""

    def __init__(self):
        self.all = {}

    def undecided(self):
        return []

    def undecided_count(self):
        return 0

    def get(self, relay_id):
        return self.all.get(relay_id)


@dataclass
class Pair:
    """One pair of KMEs with its SAEs."""

    place: Place
    per_s: float
    """Bytes of key that are asked for."""
    stock: float
    waiting: deque = field(default_factory=deque)
    asked: int = 0
    served: int = 0
    """Requests, and those of them that were served from stock."""
    bursts: int = 0
    bursts_served: int = 0
    """Bursts, and those of them of which every request was served from stock."""
    wanted: float = 0.0
    delivered: float = 0.0
    """Bytes that were asked for, and those of them that were given, at once or late."""
    used_per_s: float = 0.0
    pending: float = 0.0

    @property
    def share(self) -> float:
        return self.served / self.asked if self.asked else 1.0

    @property
    def share_of_bursts(self) -> float:
        return self.bursts_served / self.bursts if self.bursts else 1.0


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    pairs: Sequence[Pair]
    seconds: float
    link_key: float
    """Bytes of link key that were taken."""
    given: float
    """Bytes of supply that came of it."""
    refills: int

    @property
    def served(self) -> float:
        return sum(pair.served for pair in self.pairs) / sum(pair.asked for pair in self.pairs)

    @property
    def worst(self) -> float:
        return min(pair.share for pair in self.pairs)

    @property
    def bursts_served(self) -> float:
        return sum(pair.bursts_served for pair in self.pairs) / sum(pair.bursts for pair in self.pairs)

    @property
    def worst_of_bursts(self) -> float:
        return min(pair.share_of_bursts for pair in self.pairs)


class Simulation:
    """A network whose pairs ask for ``load`` times what time-shared threshold plans at best could give them."""

    def __init__(
        self,
        topology: Topology,
        pairs: Sequence[KmePair],
        load: float,
        *,
        seed: int = 1,
        failures: bool = False,
        greedy: Collection[str] = (),
        idle: Collection[str] = (),
        drops: float = 1.0,
    ) -> None:
        """``greedy`` KMEs claim to be dry and to use everything; ``idle`` ones claim full links and drop ``drops`` of
        what goes over them, everything unless told.
        """
        self.greedy, self.idle, self.drops = frozenset(greedy), frozenset(idle), drops
        self.topology, self.random, self.failures = topology, Random(seed), failures
        self._demands = pairs
        self.rates = {link: rate / 8 for link, rate in rates_of(topology).items()}
        self.share = optimum(topology, self.rates, pairs, 1, "threshold").share
        buffer = BUFFER_S * sum(self.rates.values()) / len(self.rates)
        self.buffers = dict.fromkeys(self.rates, int(buffer))
        self.left = dict.fromkeys(self.rates, 0.25 * buffer)
        self.pairs = {}
        for pair in pairs:
            place, per_s = Place(pair.source, pair.target, 1), load * pair.demand * self.share
            self.pairs[place] = Pair(place, per_s, 0.5 * STOCK_BURSTS * BURST_S * per_s, used_per_s=per_s)
        batch = Batch()
        self.accounts, self.relays = Accounts(topology.kmes, batch), Relays()
        admission = Admission(topology, self.relays, {})
        self.refills = Refills(self.accounts, admission, self.relays, batch, lambda _: 1.0)
        self.admission, self.now = admission, 1e9
        self.down: dict[str, float] = {}
        """KMEs that are down, and since when."""
        self._left_of: dict[str, float] = {}
        """What could be given without a KME to pairs that do not end there, over what all could be given."""
        self._unprotected: dict[str, set[Place]] = {}
        """Pairs that nothing protects without a KME."""
        self._said: dict[str, tuple[float, tuple[LinkReport, ...]]] = {}
        """What each KME said last of its links, and when."""
        self._ends: list[tuple[float, object, bool]] = []
        self._fails_at = self.now + DOWN_EVERY_S / 2
        self.link_key = self.given = 0.0
        self.begun = 0

    def run(self, seconds: float, *, warm_up: float = 600.0) -> Outcome:
        """Run for so long, and tell what came of it after the first while."""
        until = self.now + warm_up
        while self.now < until:
            self._step()
        for pair in self.pairs.values():
            pair.asked = pair.served = pair.bursts = pair.bursts_served = 0
            pair.wanted = pair.delivered = 0.0
        self.link_key = self.given = 0.0
        self.begun = 0
        until = self.now + seconds
        while self.now < until:
            self._step()
        return Outcome(list(self.pairs.values()), seconds, self.link_key, self.given, self.begun)

    def _step(self) -> None:
        self.now += 1.0
        for link, rate in self.rates.items():
            self.left[link] = min(self.buffers[link], self.left[link] + rate)
        self._fail()
        self._end()
        left = self._is_left()
        for pair in self.pairs.values():
            is_cut_off = any(pair.place in self._unprotected[kme] for kme in self.down)
            if not is_cut_off and not set(pair.place[:2]) & set(self.down):
                self._ask(pair, left)
        self._say()
        for relay in self.refills.next(self._reports(), self.now):
            self._begin(relay)

    def _fail(self) -> None:
        for kme, since in tuple(self.down.items()):
            if self.now - since >= DOWN_S:
                del self.down[kme]
        if self.failures and self.now >= self._fails_at:
            self._fails_at += DOWN_EVERY_S
            self.down[self.random.choice(self.topology.kmes)] = self.now

    def _is_left(self) -> float:
        """What is left of what can be given, while KMEs are down."""
        return min((self._without(kme) for kme in self.down), default=1.0)

    def _without(self, kme: str) -> float:
        if kme not in self._left_of:
            rest = without(self.topology, [kme])
            rates = {link: rate for link, rate in self.rates.items() if kme not in link}
            ends = [pair for pair in self._demands if kme not in (pair.source, pair.target)]
            kept = [pair for pair in ends if is_protectable(rest, pair, 1)]
            self._left_of[kme] = min(1.0, optimum(rest, rates, kept, 1, "threshold").share / self.share)
            self._unprotected[kme] = {Place(pair.source, pair.target, 1) for pair in ends if pair not in kept}
        return self._left_of[kme]

    def _ask(self, pair: Pair, left: float) -> None:
        """Have the SAEs of a pair ask, in bursts of random size at random times; who waits is served first."""
        burst = BURST_S * pair.per_s * left
        arrived = [self.random.expovariate(1 / burst)] if self.random.random() < 1.0 / BURST_S else []
        used = 0.0
        while pair.waiting and pair.waiting[0][1] <= pair.stock:
            _, size = pair.waiting.popleft()
            pair.stock -= size
            used += size
        while pair.waiting and self.now - pair.waiting[0][0] > PATIENCE_S:
            pair.waiting.popleft()
        pair.wanted += sum(arrived)
        for size in arrived:
            missed = pair.asked - pair.served
            for place in range(math.ceil(size / REQUEST_BYTES)):
                part = min(size - place * REQUEST_BYTES, REQUEST_BYTES)
                pair.asked += 1
                if not pair.waiting and part <= pair.stock:
                    pair.served += 1
                    pair.stock -= part
                    used += part
                else:
                    pair.waiting.append((self.now, part))
            pair.bursts += 1
            pair.bursts_served += pair.asked - pair.served == missed
        pair.delivered += used
        pair.used_per_s += (used - pair.used_per_s) / 60.0

    def _say(self) -> None:
        """Have the KMEs that are up report, each what it has and would have."""
        outgoing: dict[str, list[OutgoingSupply]] = {}
        incoming: dict[str, list[IncomingSupply]] = {}
        for place, pair in self.pairs.items():
            wanted = STOCK_BURSTS * BURST_S * pair.per_s - pair.stock - pair.pending
            used = {kme: 1e12 if kme in self.greedy else max(pair.used_per_s, pair.per_s) for kme in place[:2]}
            stored = {kme: 0 if kme in self.greedy else int(pair.stock) for kme in place[:2]}
            outgoing.setdefault(place.source, []).append(
                OutgoingSupply(
                    target=place.target,
                    level=1,
                    stored_bytes=stored[place.source],
                    pending_bytes=0 if place.source in self.greedy else int(pair.pending),
                    wanted_bytes=10 << 20 if place.source in self.greedy else max(0, int(wanted)),
                    assigned_bytes_per_s=used[place.source],
                    waiting=1_000 if place.source in self.greedy else len(pair.waiting),
                    why="",
                )
            )
            incoming.setdefault(place.target, []).append(
                IncomingSupply(
                    source=place.source,
                    level=1,
                    stored_bytes=stored[place.target],
                    assigned_bytes_per_s=used[place.target],
                )
            )
        for kme in self.topology.kmes:
            if kme not in self.down:
                report = Supplies(
                    incarnation=bytes(16),
                    outgoing=tuple(outgoing.get(kme, ())),
                    incoming=tuple(incoming.get(kme, ())),
                    pairs=(),
                )
                self.accounts.take(kme, report, self.now)

    def _reports(self) -> Iterator[tuple[str, float, LinkReport]]:
        """What KMEs said last of their links: every ten seconds, or every second while shares wait for key."""
        for kme in self.topology.kmes:
            links = [link for link in self.rates if link[0] == kme]
            said_at = self._said.get(kme, (-1e9, ()))[0]
            waits = any(self.left[link] < 0 for link in links)
            if kme not in self.down and self.now - said_at >= (1.0 if waits else 10.0):
                self._said[kme] = self.now, tuple(self._report(link) for link in links)
        return ((kme, at, report) for kme, (at, reports) in self._said.items() for report in reports)

    def _report(self, link: Link) -> LinkReport:
        left = self.buffers[link] if link[0] in self.idle else int(self.left[link])
        return LinkReport(
            peer=link[1],
            up=True,
            available_bytes=max(0, left),
            buffer_bytes=self.buffers[link],
            rate_bps=int(8 * self.rates[link]),
            waiting=int(left < 0),
            key=OF_NO_NOTE,
        )

    def _begin(self, relay) -> None:
        if isinstance(relay, tuple):
            return
        self.begun += 1
        self.relays.all[relay.relay_id] = relay
        drawn = self.admission.link_key_bytes(relay)
        late = 0.0
        for link, size in drawn.items():
            self.left[link] -= size
            self.link_key += size
            late = max(late, -self.left[link] / self.rates[link])
        on_the_way = set(relay.plan.order)
        dropped = bool(self.idle & on_the_way) and self.random.random() < self.drops
        fails = late > TIMEOUT_S or dropped or bool(set(self.down) & on_the_way)
        self._ends.append((self.now + (TIMEOUT_S if fails else RELAY_S + late), relay, fails))
        if not fails:
            self.pairs[self._place(relay)].pending += self._size(relay)

    def _end(self) -> None:
        still = []
        for at, relay, fails in self._ends:
            if at > self.now:
                still.append((at, relay, fails))
                continue
            state = "failed" if fails else "confirmed"
            self.relays.all[relay.relay_id] = replace(relay, state=state, reason="why not", ended_at=self.now)
            if not fails:
                pair, size = self.pairs[self._place(relay)], self._size(relay)
                pair.pending -= size
                pair.stock += size
                self.given += size
        self._ends = still
        self.refills.settle(self.now)

    @staticmethod
    def _place(relay) -> Place:
        return Place(*relay.ends, 1)

    @staticmethod
    def _size(relay) -> int:
        return relay.terms.key_count * relay.terms.key_size_bits // 8


def with_rates(topology: Topology, rates: Iterator[int]) -> Topology:
    """The network, its links with these rates, in bit/s."""
    return replace(topology, link_notes={link: LinkNote(None, next(rates), None) for link in topology.links})
