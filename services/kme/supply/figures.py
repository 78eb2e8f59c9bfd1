"""What a KME tells the coordinator of its supply, and of its pairs of SAEs: how things are, and what it would have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from math import fsum

from kme.supply.model import Pair, Want
from kme.supply.source import SourceSide
from qkdrelay.messages.assignments import (
    PAIRS_SHOWN_MAX,
    SUPPLIES_MAX,
    IncomingSupply,
    OutgoingSupply,
    SaePair,
    Supplies,
)

_WHY_MAX = 200
"""Characters."""


def supplies(source: SourceSide, incoming: Iterable[IncomingSupply], incarnation: bytes, now: float) -> Supplies:
    """Return the report of everything, as far as it fits."""
    return Supplies(
        incarnation=incarnation,
        outgoing=outgoing(source, now),
        incoming=tuple(incoming)[:SUPPLIES_MAX],
        pairs=tuple(_pairs(source, now)),
    )


def outgoing(source: SourceSide, now: float) -> tuple[OutgoingSupply, ...]:
    """Return what is said of supply here as its source; what is wanted most stands first."""
    places = sorted(_places(source), key=lambda place: source.wanted(place[0], place[1], now), reverse=True)
    return tuple(_outgoing(source, places[:SUPPLIES_MAX], now))


def lacking(source: SourceSide, places: Iterable[tuple[str, int]], incarnation: bytes, now: float) -> Supplies:
    """Return the report of supply that is dry or low, and nothing else."""
    wanted = tuple(_outgoing(source, sorted(places)[:SUPPLIES_MAX], now))
    return Supplies(incarnation=incarnation, outgoing=wanted, incoming=(), pairs=())


def _places(source: SourceSide) -> set[tuple[str, int]]:
    supply = source.memory.supply
    there = {(target, relay.level) for target in supply.targets() for relay in supply.of(target)}
    return there | set(source.memory.demand.supplies)


def _outgoing(source: SourceSide, places: Iterable[tuple[str, int]], now: float) -> Iterator[OutgoingSupply]:
    memory = source.memory
    waiting: dict[tuple[str | None, int], int] = {}
    for waiter in memory.waiters.all():
        place = memory.directory.kme_of(waiter.want.pair.slave), waiter.want.level
        waiting[place] = waiting.get(place, 0) + 1
    for target, level in places:
        of_level = [relay for relay in memory.supply.of(target) if relay.level == level]
        use = memory.demand.supplies.get((target, level))
        yield OutgoingSupply(
            target=target,
            level=level,
            stored_bytes=sum(relay.bytes_left for relay in of_level if relay.counts(now, confirmed=True)),
            pending_bytes=sum(relay.bytes_left for relay in of_level if relay.counts(now, confirmed=False)),
            wanted_bytes=source.wanted(target, level, now),
            assigned_bytes_per_s=use.rate.now(now) if use else 0.0,
            waiting=waiting.get((target, level), 0),
            why=source.serving.why(target, level, now)[:_WHY_MAX],
        )


def _pairs(source: SourceSide, now: float) -> Iterator[SaePair]:
    """Yield what is said of pairs that are in use, or have or had keys: those that were asked for last stand first."""
    memory = source.memory
    uses_of = memory.demand.uses
    wants_of: dict[Pair, list[Want]] = {}
    for want in sorted(uses_of, key=lambda want: uses_of[want].asked_at, reverse=True):
        wants_of.setdefault(want.pair, []).append(want)
    for pair in memory.ready.pairs() + memory.tallies.pairs():
        wants_of.setdefault(pair, [])
    waiting = Counter(waiter.want.pair for waiter in memory.waiters.all())
    for pair, wants in islice(wants_of.items(), PAIRS_SHOWN_MAX):
        level, stock = memory.directory.settings(*pair).level, memory.directory.settings(*pair).stock
        uses = [uses_of[want] for want in wants]
        ready = [block for block in memory.ready.of(pair) if now < block.assign.assignment.usable_until]
        low = (memory.ready.count(want, now) < memory.demand.marks(want, stock, now)[0] for want in wants)
        target, tally = memory.directory.kme_of(pair.slave) or "", memory.tallies.of(pair)
        yield SaePair(
            master=pair.master,
            slave=pair.slave,
            level=level,
            ready_keys=sum(block.count for block in ready),
            ready_bytes=sum(block.bytes_left for block in ready),
            handed_out=tally.handed_out,
            burned=tally.burned,
            expired=tally.expired,
            keys_per_s=fsum(use.rate.now(now) for use in uses),  # 0.0 if it is not in use any more
            low=any(low),
            waiting=waiting[pair],
            why=(memory.rests.why(pair, now) or source.serving.why(target, level, now))[:_WHY_MAX],
        )
