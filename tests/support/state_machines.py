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
from kme.model import EndpointRelay, EndpointState
from kme.store import open_kme_store
from kme.store.relays import TOMBSTONE_S, UNDECIDED_S
from qkdrelay.messages.control import Decide, Expect, Prove, Start
from qkdrelay.messages.reports import (
    Collected,
    Decided,
    Expected,
    Findings,
    Forwarded,
    Rebuilt,
    Refused,
    Rejected,
    Report,
    Split,
    Started,
    Verified,
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
    "started": tuple(Started(relay_id=RELAY, proof=proof) for proof in (b"1" * 16, b"2" * 16)),
    "rebuilt": tuple(Rebuilt(relay_id=RELAY, proof=proof) for proof in (b"3" * 16, b"4" * 16)),
    "verified (valid)": (Verified(relay_id=RELAY, valid=True),),
    "verified (not valid)": (Verified(relay_id=RELAY, valid=False),),
    "refused": (Refused(relay_id=RELAY, reason="no"),),
    "decided (confirmed)": (Decided(relay_id=RELAY, confirmed=True),),
    "decided (failed)": (Decided(relay_id=RELAY, confirmed=False),),
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
    """Return how a relay's state changes at its source and at its target: `EndpointState`, and whether it is proven."""
    asked, other = terms(PLAN, withstand=NOTHING), terms(PLAN, withstand=NOTHING, key_count=3)
    source, target = _kme("s", End()), _kme("t", End())
    effects = source.command(Start(terms=asked))
    target.command(Expect(terms=asked))
    shares = {(*sent.route, "t"): sent.payload for sent in only(effects, SendShare)}
    for route, payload in shares.items():
        target.share(route, payload)
    proofs = [*told(effects), *told(target.try_rebuild())]
    from_source, from_target = (next(it.proof for it in proofs if isinstance(it, kind)) for kind in (Started, Rebuilt))

    def causes(me: str) -> Callable[[End], Iterator[tuple[str, End]]]:
        peer, own = (from_target, from_source) if me == "s" else (from_source, from_target)
        always: list[tuple[str, Step]] = [
            *((name, partial(Kme.command, command=kind(terms=asked))) for name, kind in KINDS.items()),
            *(
                (name, partial(Kme.command, command=kind(terms=asked), now=asked.deadline))
                for name, kind in KINDS.items()
            ),
            ("prove (valid)", partial(Kme.command, command=Prove(relay_id=RELAY, peer_proof=peer))),
            ("prove (not valid)", partial(Kme.command, command=Prove(relay_id=RELAY, peer_proof=own))),
            ("decide (confirmed)", partial(Kme.command, command=Decide(relay_id=RELAY, confirmed=True))),
            ("decide (failed)", partial(Kme.command, command=Decide(relay_id=RELAY, confirmed=False))),
            *(("a share comes", partial(Kme.share, route=route, payload=payload)) for route, payload in shares.items()),
            ("a false share comes", partial(Kme.share, route=route, payload=bytes(len(payload)))),
            ("the shares give one secret", Kme.try_rebuild),
        ]
        again = [(name, partial(Kme.command, command=kind(terms=other))) for name, kind in KINDS.items()]

        def tried(end: End) -> Iterator[tuple[str, End]]:
            for cause, step in always if end.relay is None else always + again:
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

    return [*explored(End(), causes("t"), _state), *explored(End(), causes("s"), _state)]


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
    return f"{end.relay.state}, proven" if end.relay.state == "pending" and end.relay.peer_valid else end.relay.state


# --- pictures --------------------------------------------------------------------------------------


def _coordinator_drawn() -> str:
    edges = at_the_coordinator()
    undecided = {edge.before for edge in edges if not edge.before.startswith(("confirmed", "failed"))}
    return drawn(edges, edges[0].before, undecided)


def _end_drawn() -> str:
    return drawn(at_an_end(), NONE, {"expecting", "pending", "pending, proven"})


def drawn(edges: Iterable[Edge], start: str, undecided: Set[str]) -> str:
    """Return the edges as a Mermaid state diagram; what all the ``undecided`` have in common is drawn once."""
    causes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for before, after, cause in dict.fromkeys(edges):
        causes[before, after].append(cause)
    states = dict.fromkeys(state for change in causes for state in change if state != NONE)
    inner, outer, common = [], [] if start == NONE else [f"{NONE} --> {_id(start)}"], {}
    for (before, after), because in causes.items():
        if all(set(causes.get((state, after), ())) == set(because) for state in undecided):
            common[after] = because
            continue
        inside = before in undecided and after in undecided
        (inner if inside else outer).append(f"{_id(before)} --> {_id(after)}: {_said(because)}")
    outer += [f"undecided --> {_id(after)}: {_said(because)}" for after, because in common.items()]
    named = [f'state "{state}" as {_id(state)}' for state in states if _id(state) != state]
    lines = [*named, "state undecided {", *(f"    {line}" for line in inner), "}", *outer]
    return "\n".join(["stateDiagram-v2", *(f"    {line}" for line in lines)]) + "\n"


def _id(state: str) -> str:
    return state.replace(", to tell ", "_").replace(", ", "_")


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
