"""Answers to the command line."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Protocol, cast
from uuid import uuid4

from coordinator.adversary import Adversary
from coordinator.dead_letters import DeadLetters
from coordinator.lifecycle import Relay
from coordinator.store import CoordinatorStore
from coordinator.subscriptions import Subscriptions
from coordinator.views import summary, view
from qkdrelay.errors import QkdRelayError, RequestRefusedError
from qkdrelay.messages.answers import KmeView, NetworkView, NotedLink, Refusal, RelaysView, ReplyBody
from qkdrelay.messages.control import Command, FixedDemand, SetLab, SetLink, Terms
from qkdrelay.messages.fields import PLAN_BYTES_MAX, TIMEOUT_S_MAX, TIMEOUT_S_MIN
from qkdrelay.messages.keys import check_key_amount
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.relay_ids import NAMES_SHOWN_MAX, digits, the_one
from qkdrelay.messages.reports import Hello
from qkdrelay.messages.requests import (
    AttackRequest,
    DeadLetterRequest,
    DeadLettersRequest,
    DropRequest,
    LabRequest,
    LinkRequest,
    NetworkRequest,
    RelayRequest,
    RelaysRequest,
    Request,
    RequeueRequest,
    ShowRequest,
    unlike,
)
from qkdrelay.network.candidates import Candidate
from qkdrelay.network.demand import Policy
from qkdrelay.network.names import Link
from qkdrelay.network.refusals import UnprotectedError
from qkdrelay.network.selection import choose
from qkdrelay.network.topology import Topology
from qkdrelay.service.logs import LogLevel
from qkdrelay.terminal.refusals import hint_for

UNDECIDED_MAX = 10_000
PLANS_KEPT = 256
_LOAD_STEPS = 4
"""How finely plans look at how much of a link's key is drawn: coarse, so that they are not made anew all the time."""
LAB_HINT = "start the stack with the lab switched on (make up LAB=1)"


class Orders(Protocol):
    """What answering a request may set in motion."""

    def change(self, before: Relay | None, after: Relay, now: float) -> None:
        """Keep a relay's new state and tell the ends what follows from it."""
        ...

    def command(self, kme: str, command: Command) -> None:
        """Tell a KME something."""
        ...

    def note(self, event: str, level: LogLevel, **fields: object) -> None:
        """Log after the commit."""
        ...


class RequestHandler:
    """Takes one request at a time; what it cannot do it refuses with a reason and a hint."""

    def __init__(
        self,
        topology: Topology,
        orders: Orders,
        store: CoordinatorStore,
        audience: Subscriptions,
        *,
        adversary: Adversary,
        heard: Mapping[str, tuple[float, Hello]],
        lab: bool,
    ) -> None:
        """``heard`` has the time and text of each KME's last hello."""
        self._topology, self._orders, self._store, self._audience = topology, orders, store, audience
        self._adversary, self._heard, self._lab = adversary, heard, lab
        self._letters = DeadLetters(topology, store, orders.note)
        # What is asked again and again is planned once: the network does not change while it is served.
        self._choose = lru_cache(maxsize=PLANS_KEPT)(partial(choose, topology))

    def answer(self, request: Request, now: float) -> ReplyBody | None:
        """Return the answer, or None if it comes later."""
        try:
            return self._answer(request, now)
        except QkdRelayError as error:
            return Refusal(text=str(error), hint=hint_for(error), unanswered=False)

    def _answer(self, request: Request, now: float) -> ReplyBody | None:
        match request.body:
            case RelayRequest():
                self._relay(request, request.body, now)
            case RelaysRequest(limit=limit):
                relays = tuple(summary(relay, now) for relay in self._store.latest(limit))
                return RelaysView(relays=relays, total=self._store.relay_count())
            case ShowRequest(relay=name, follow=follow):
                relay = self._find(name)
                if follow:
                    self._audience.follow(request, relay.relay_id, now)
                    return None
                return view(relay, self._store.flow(relay.relay_id), now)
            case NetworkRequest():
                return self._network(now)
            case LinkRequest():
                self._link(request, request.body, now)
            case LabRequest():
                self._lab_mode(request, request.body, now)
            case AttackRequest(relay=name, kmes=kmes):
                self._require_lab()
                for kme in kmes:
                    self._topology.require(kme)
                return self._adversary.attack(self._find(name), kmes)
            case DeadLettersRequest() | DeadLetterRequest() | RequeueRequest() | DropRequest():
                return self._letters.answer(request.body, now)
        return None

    def _relay(self, request: Request, wanted: RelayRequest, now: float) -> None:
        known = self._store.relay(wanted.relay_id)
        if known is None:
            self._orders.change(None, self._planned(wanted, now), now)
        elif other := self._unlike(wanted, known):
            raise RequestRefusedError(
                f"relay {wanted.relay_id} was asked for before, as another: {other}",
                hint="take another id (--id), or none",
            )
        self._audience.follow(request, wanted.relay_id, now, until_decided=not wanted.follow)

    @staticmethod
    def _unlike(wanted: RelayRequest, known: Relay) -> str | None:
        terms = known.terms
        amount = {"key_count": terms.key_count, "key_size_bits": terms.key_size_bits}
        return unlike(wanted, ends=known.ends, withstand=terms.withstand, **amount)

    def _planned(self, wanted: RelayRequest, now: float) -> Relay:
        check_key_amount(wanted.key_count, wanted.key_size_bits)
        if not TIMEOUT_S_MIN <= wanted.timeout_s <= TIMEOUT_S_MAX:
            text = f"timeout {wanted.timeout_s:g} s; it must be from {TIMEOUT_S_MIN:g} to {TIMEOUT_S_MAX:g} s"
            raise RequestRefusedError(text, hint="a relay over idle links takes well under a second (--timeout)")
        candidate = self._chosen(wanted)
        # In a network of two there is nobody to withstand.
        protected = candidate.resilience.compromised >= min(1, len(self._topology.kmes) - 2)
        if not protected and not wanted.allow_unprotected:
            ends = f"from {wanted.source} to {wanted.target}"
            raise UnprotectedError(f"one compromised KME could learn keys relayed {ends}")
        if self._store.undecided_count() >= UNDECIDED_MAX:
            raise RequestRefusedError(f"{UNDECIDED_MAX} relays are under way", hint="try again later")
        plan = encode_plan(candidate.plan)
        if len(plan) > PLAN_BYTES_MAX:
            raise RequestRefusedError(
                f"the plan takes {len(plan)} bytes; at most {PLAN_BYTES_MAX} fit a message",
                hint="choose a policy with fewer paths (--policy)",
            )
        terms = Terms(
            relay_id=wanted.relay_id,
            plan=plan,
            key_count=wanted.key_count,
            key_size_bits=wanted.key_size_bits,
            withstand=_demanded(wanted, candidate),
            deadline=now + wanted.timeout_s,
        )
        return Relay(
            terms=terms,
            policy=candidate.policy,
            protected=protected,
            relies_on=candidate.relies_on,
            created_at=now,
        )

    def _chosen(self, wanted: RelayRequest) -> Candidate:
        return self._choose(
            wanted.source,
            wanted.target,
            wanted.demand,
            cast("Policy | None", wanted.policy),
            load=self._load(),
            allow_unprotected=wanted.allow_unprotected,
            key_count=wanted.key_count,
            key_size_bits=wanted.key_size_bits,
        )

    def _load(self) -> frozenset[tuple[Link, int]]:
        """Return how much of each link's key is drawn, in steps; a link that is full is left out."""
        drawn = {
            (kme, link.peer): round(_LOAD_STEPS * (1 - link.available_bytes / link.buffer_bytes))
            for kme, (_, hello) in self._heard.items()
            for link in hello.links
            if link.available_bytes < link.buffer_bytes
        }
        return frozenset((link, steps) for link, steps in drawn.items() if steps)

    def _find(self, name: str) -> Relay:
        found = self._store.relays_named(digits(name), NAMES_SHOWN_MAX + 1)
        relay = self._store.relay(the_one(name, found, "`coordinator relays` lists them"))
        assert relay is not None  # noqa: S101 - it was found in this transaction
        return relay

    def _network(self, now: float) -> NetworkView:
        kmes = []
        for kme in self._topology.kmes:
            at, hello = self._heard.get(kme, (None, None))
            kmes.append(
                KmeView(
                    name=kme,
                    trust=self._topology.trust.get(kme),
                    heard_s_ago=None if at is None else max(0.0, now - at),
                    lab=hello.lab if hello else False,
                    lab_mode=hello.lab_mode if hello else None,
                    pending=hello.pending if hello else 0,
                    links=hello.links if hello else (),
                )
            )
        return NetworkView(
            name=self._topology.name,
            lab=self._lab,
            kmes=tuple(kmes),
            links=self._topology.links,
            noted=tuple(
                NotedLink(a=a, b=b, suite=note.suite, rate_bps=note.rate_bps, buffer_bytes=note.buffer_bytes)
                for (a, b), note in self._topology.link_notes.items()
            ),
            down=self._store.links_down(),
        )

    def _link(self, request: Request, wanted: LinkRequest, now: float) -> None:
        a, b = self._topology.link(wanted.a, wanted.b)
        self._store.turn_link((a, b), up=wanted.up)
        commands = {}
        for kme, peer in ((a, b), (b, a)):
            command = SetLink(command_id=uuid4(), peer=peer, up=wanted.up)
            self._orders.command(kme, command)
            commands[command.command_id] = kme
        text = f"the QKD link {a} - {b} is {'up' if wanted.up else 'down'}"
        self._audience.await_done(request, text, commands, now)

    def _lab_mode(self, request: Request, wanted: LabRequest, now: float) -> None:
        self._require_lab()
        kme = self._topology.require(wanted.kme)
        command = SetLab(command_id=uuid4(), mode=wanted.mode)
        self._orders.command(kme, command)
        text = f"{kme} is compromised: it will {wanted.mode}" if wanted.mode else f"{kme} is honest again"
        self._audience.await_done(request, text, {command.command_id: kme}, now)

    def _require_lab(self) -> None:
        if not self._lab:
            raise RequestRefusedError("the lab is off", hint=LAB_HINT)


def _demanded(wanted: RelayRequest, candidate: Candidate) -> FixedDemand:
    """Return what both ends are to check: what was asked for or, if any plan was to do, as much of it as this one has.

    The one failed KME that is withstood if the network allows it is demanded where it does.
    """
    demand, have = wanted.demand, candidate.resilience
    if candidate.meets_demand:
        failed = int(have.failed > demand.lost) if demand.failed is None else demand.failed
        return FixedDemand(compromised=demand.compromised, failed=failed, tampering=demand.tampering)
    tampering = min(demand.tampering, have.tampering, have.compromised, have.failed)
    failed = min(1 if demand.failed is None else demand.failed, have.failed - tampering)
    return FixedDemand(compromised=min(demand.compromised, have.compromised), failed=failed, tampering=tampering)
