"""The state machines of a relay, found by trying: every report or command in every state that can be reached.

The pure functions that decide are driven over a tiny plan by whatever may come, from whomever, in every order. What
changes the state is an edge; the edges are drawn (Mermaid), docs/protocol.md shows that, and a test compares.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from random import Random
from typing import NamedTuple, TypeVar

from coordinator.lifecycle import Relay, advance, fail_if_overdue, outstanding
from kme.effects import KeepShare, SendShare
from kme.forwarding import RejectedShareError
from kme.model import SUPPLY_LATE_S, UNDECIDED_S, EndpointRelay, EndpointState
from kme.store import open_kme_store
from kme.store.relays import TOMBSTONE_S
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.control import Cancel, Confirm, Deliver, Expect, Start
from qkdrelay.messages.reports import (
    Collected,
    Confirmed,
    Expected,
    Findings,
    Forwarded,
    Rebuilt,
    Refused,
    Rejected,
    Report,
    Split,
    Started,
    Waiting,
)
from qkdrelay.messages.states import RelayState
from qkdrelay.network.whereabouts import Whereabouts
from support import plans
from support.kme import NOTHING, NOW, RELAY, Kme, only, terms, told

__all__ = ["NONE", "PICTURES", "REPORTS", "Edge", "EndpointState", "RelayState", "at_an_end", "at_the_coordinator"]

S = TypeVar("S", bound=Hashable)
PLAN = plans.fan(2, 2)
NONE = "[*]"


class Edge(NamedTuple):
    """One change of state."""

    before: str
    after: str
    cause: str


def explored(start: S, causes: Callable[[S], Iterable[tuple[str, S]]], name: Callable[[S], str]) -> list[Edge]:
    """Try all causes in all states there are, nearest first; return what changes the name of a state, each once."""
    edges: dict[Edge, None] = {}
    seen, waiting = {start}, deque([start])
    while waiting:
        state = waiting.popleft()
        for cause, after in causes(state):
            edges[Edge(name(state), name(after), cause)] = None
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return [edge for edge in edges if edge.before != edge.after]


# --- a relay at the coordinator --------------------------------------------------------------------

REPORTS: Mapping[str, tuple[Report, ...]] = {
    "expected": (Expected(relay_id=RELAY),),
    "started": (Started(relay_id=RELAY),),
    "rebuilt": tuple(Rebuilt(relay_id=RELAY, proof=proof) for proof in (b"3" * 16, b"4" * 16)),
    "refused": (Refused(relay_id=RELAY, reason="no"),),
    "confirmed": (Confirmed(relay_id=RELAY),),
    "findings": (Findings(relay_id=RELAY, false=(), disputed=(), equivocating=(), unclear=""),),
    "split": (Split(relay_id=RELAY, route=("s",), shares=2, threshold=2),),
    "forwarded": (Forwarded(relay_id=RELAY, route=("s", "m1")),),
    "waiting": (Waiting(relay_id=RELAY, route=("s", "m1"), reason="link.down"),),
    "collected": (Collected(relay_id=RELAY, route=("s", "m1", "t")),),
    "rejected": (Rejected(relay_id=RELAY, route=("s", "m1"), link=("s", "m1"), reason="no"),),
}
SENDERS = {"source": "s", "target": "t", "another KME": "m1"}


def at_the_coordinator() -> list[Edge]:
    """Return how a relay's state changes at the coordinator: `RelayState`, and what has to be told."""

    def causes(relay: Relay) -> Iterator[tuple[str, Relay]]:
        for who, sender in SENDERS.items():
            for what, reports in REPORTS.items():
                for report in reports:
                    yield f"{who}: {what}", _bare(advance(relay, sender, report, NOW))
        yield "the deadline passes", _bare(fail_if_overdue(relay, Whereabouts(PLAN), relay.terms.deadline))

    return explored(_bare(Relay(terms=terms(PLAN), policy="best", protected=True, created_at=NOW)), causes, _told)


def _bare(relay: Relay) -> Relay:
    """Leave out what is only shown."""
    return replace(relay, reason="", ended_at=None, findings=None)


def _told(relay: Relay) -> str:
    told = {type(command).__name__.lower(): None for _, command in outstanding(relay)}
    return f"{relay.state}, to tell {' and '.join(told)}" if told else relay.state


# --- a relay at an end -----------------------------------------------------------------------------


Step = Callable[[Kme], object]
KINDS = {"expect": Expect, "start": Start}
SUPPLY = Supply(until=NOW + 1e5, tag_pairs=1)
FORGETTING = (
    ("its id is too old to come again", TOMBSTONE_S + 1.0, False),
    ("kme forget", 1.0, True),
    ("kme forget an hour after the deadline", UNDECIDED_S + 1.0, True),
)
"""What a store forgets by itself or when told, so many seconds after a relay's deadline."""


class End(NamedTuple):
    """All that an end has of a relay."""

    relay: EndpointRelay | None = None
    shares: frozenset[KeepShare] = frozenset()


def at_an_end() -> list[Edge]:
    """Return how a relay's state changes at its source and at its target: `EndpointState`; where supply differs, so."""
    edges = [edge for me in "ts" for edge in explored(End(), _causes(me, None), _state)]
    of_supply = [edge for me in "ts" for edge in explored(End(), _causes(me, SUPPLY), _state)]
    return edges + [
        edge._replace(cause=f"{edge.cause} of supply" if "supply" not in edge.cause else edge.cause)
        for edge in of_supply
        if edge not in edges
    ]


def _causes(me: str, supply: Supply | None) -> Callable[[End], Iterator[tuple[str, End]]]:
    """Return all that can happen to a relay at its end ``me``."""
    asked, other = (terms(PLAN, withstand=NOTHING, supply=supply, key_count=count) for count in (2, 3))
    source, target = _kme("s", End()), _kme("t", End())
    effects = source.command(Start(terms=asked))
    target.command(Expect(terms=asked))
    shares = {(*sent.route, "t"): sent.payload for sent in only(effects, SendShare)}
    for route, payload in shares.items():
        target.share(route, payload)
    proof = next(it.proof for it in told(target.try_rebuild()) if isinstance(it, Rebuilt))
    always: list[tuple[str, Step]] = [
        *((name, partial(Kme.command, command=kind(terms=asked))) for name, kind in KINDS.items()),
        *((name, partial(Kme.command, command=kind(terms=asked), now=asked.deadline)) for name, kind in KINDS.items()),
        ("confirm (valid)", partial(Kme.command, command=Confirm(relay_id=RELAY, proof=proof))),
        ("confirm (not valid)", partial(Kme.command, command=Confirm(relay_id=RELAY, proof=bytes(16)))),
        ("cancel", partial(Kme.command, command=Cancel(relay_id=RELAY))),
        ("deliver", partial(Kme.command, command=Deliver(relay_id=RELAY))),
        *(("a share comes", partial(Kme.share, route=route, payload=payload)) for route, payload in shares.items()),
        ("a false share comes", partial(Kme.share, route=route, payload=bytes(len(payload)))),
        ("the shares give one secret", Kme.try_rebuild),
    ]
    again = [(name, partial(Kme.command, command=kind(terms=other))) for name, kind in KINDS.items()]

    def tried(end: End) -> Iterator[tuple[str, End]]:
        for cause, step in [*always, *(_by_itself(end.relay) + again if end.relay is not None else [])]:
            kme = _kme(me, end)
            with suppress(RejectedShareError):
                step(kme)
            yield cause, End(kme.memory.relays.get(RELAY), frozenset(kme.memory.collected.values()))
        for cause, late_s, forget in FORGETTING:
            kept = _kept(end.relay, asked.deadline + late_s, forget=forget)
            if kept != end.relay:
                yield cause, End(kept)
                if forget:  # what can be forgotten at once can be forgotten later
                    break

    return tried


def _by_itself(relay: EndpointRelay) -> list[tuple[str, Step]]:
    """Return what an end does that nobody tells anything."""
    steps: list[tuple[str, Step]] = []
    if relay.ends_at == relay.deadline + UNDECIDED_S:
        steps.append(("an hour passes after the deadline", Kme.end))
    elif relay.ends_at is not None:
        assert relay.ends_at == SUPPLY.until + SUPPLY_LATE_S
        steps.append(("two hours pass after the time of supply", Kme.end))
    if relay.is_undecided:
        # In a store there is nothing else of supply at its source.
        in_memory_only = relay.role == "source" and relay.supply is not None
        stored = replace(relay, payload=None) if in_memory_only else relay
        steps.append(("a start", lambda kme: kme.memory.carry_out(kme.endpoint.recall([stored]))))
    return steps


def _kme(name: str, end: End) -> Kme:
    """Return a KME that has this of the relay; its random bytes are always the same."""
    kme = Kme(name, PLAN, random=Random(name).randbytes, withstand_compromised=0)
    if end.relay is not None:
        kme.memory.relays[RELAY] = end.relay
    kme.memory.collected = {(RELAY, share.route): share for share in end.shares}
    return kme


@cache
def _kept(relay: EndpointRelay | None, now: float, *, forget: bool) -> EndpointRelay | None:
    """Return what a store has left of a relay after ``kme forget``, or when it has looked for what is over."""
    store = open_kme_store(None, "t")
    try:
        with store.journal.transaction():
            if relay is not None:
                store.keep_relay(relay)
            if forget:
                store.forget_relay(RELAY, now)
            else:
                store.purge(now)
        return store.relays.get(RELAY)
    finally:
        store.journal.close()


def _state(end: End) -> str:
    if end.relay is None:
        return NONE
    return end.relay.state


# --- pictures --------------------------------------------------------------------------------------


def _coordinator_drawn() -> str:
    edges = at_the_coordinator()
    undecided = {edge.before for edge in edges if not edge.before.startswith(("confirmed", "failed"))}
    return drawn(edges, edges[0].before, undecided)


def _end_drawn() -> str:
    return drawn(at_an_end(), NONE, {"expecting", "pending"})


def drawn(edges: Iterable[Edge], start: str, undecided: Set[str]) -> str:
    """Return the edges as a Mermaid state diagram; what all the ``undecided`` have in common is drawn once.

    Where nothing happens between these, they are drawn as any other.
    """
    causes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for before, after, cause in dict.fromkeys(edges):
        causes[before, after].append(cause)
    states = dict.fromkeys(state for change in causes for state in change if state != NONE)
    inner, outer, common = [], [] if start == NONE else [f"{NONE} --> {_id(start)}"], {}
    is_group = any({before, after} <= undecided for before, after in causes)
    for (before, after), because in causes.items():
        if is_group and all(set(causes.get((state, after), ())) == set(because) for state in undecided):
            common[after] = because
            continue
        inside = before in undecided and after in undecided
        (inner if inside else outer).append(f"{_id(before)} --> {_id(after)}: {_said(because)}")
    outer += [f"undecided --> {_id(after)}: {_said(because)}" for after, because in common.items()]
    named = [f'state "{state}" as {_id(state)}' for state in states if _id(state) != state]
    group = ["state undecided {", *(f"    {line}" for line in inner), "}"] if inner else []
    lines = [*named, *group, *outer]
    return "\n".join(["stateDiagram-v2", *(f"    {line}" for line in lines)]) + "\n"


def _id(state: str) -> str:
    return state.replace(", to tell ", "_").replace(" and ", "_")


def _said(causes: Iterable[str]) -> str:
    """Return the causes of an edge in one line: without colons and semicolons, which would end it."""
    senders, said = defaultdict(list), defaultdict(list)
    for cause in causes:
        who, _, what = cause.rpartition(": ")
        senders[what].append(who)
    for what, who in senders.items():
        said["either end" if set(who) == {"source", "target"} else " and ".join(who)].append(what)
    return ", or ".join(f"{who} says {' or '.join(what)}" if who else " or ".join(what) for who, what in said.items())


PICTURES = {"6.1 At the coordinator": _coordinator_drawn, "6.2 At an end": _end_drawn}
"""What docs/protocol.md shows, by the heading under which it does."""
