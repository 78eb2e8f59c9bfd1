"""Requests of the command line and of the page: each taken once, and answered in its words."""

from __future__ import annotations

from uuid import uuid4

from coordinator.admission import (
    Admission,
    PlanTooLargeError,
    RelaySpec,
    TimeoutRefusedError,
    TooManyUndecidedError,
)
from coordinator.adversary import Adversary
from coordinator.attention import Attention
from coordinator.clients import Clients, Principal
from coordinator.commands import CommandQueue
from coordinator.dead_letters import DeadLetters
from coordinator.lifecycle import Relay
from coordinator.liveness import Liveness
from coordinator.relay_actions import RelayActions
from coordinator.store import CoordinatorStore
from coordinator.subscriptions import Subscriptions
from coordinator.supply.room import SupplyRoom
from coordinator.views import network_view, seen_from, summary, view
from qkdrelay.broker.port import Delivery
from qkdrelay.errors import ForgedMessageError, QkdRelayError, RequestRefusedError
from qkdrelay.messages.answers import Refusal, RelaysView, ReplyBody
from qkdrelay.messages.control import SetLab, SetLink
from qkdrelay.messages.relay_ids import NAMES_SHOWN_MAX, digits, the_one
from qkdrelay.messages.requests import (
    AttackRequest,
    AttentionRequest,
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
    SuppliesRequest,
    unlike,
)
from qkdrelay.network.topology import Topology
from qkdrelay.service.batch import Cell
from qkdrelay.service.batch_events import BatchEvents
from qkdrelay.service.logs import LogLevel
from qkdrelay.terminal.refusals import hint_for

OF_A_SITE_MAX = 1_000
"""Relays under way with an end at a site, above which its own command line begins no more: there is room for others."""
LAB_HINT = "start the stack with the lab switched on (make up LAB=1)"


class RequestHandler:
    """Takes one request at a time; what it cannot do it refuses with a reason and a hint."""

    def __init__(
        self,
        topology: Topology,
        store: CoordinatorStore,
        clients: Clients,
        *,
        admission: Admission,
        relays: RelayActions,
        commands: CommandQueue,
        liveness: Liveness,
        dead_letters: DeadLetters,
        subscriptions: Subscriptions,
        supply: SupplyRoom,
        attention: Attention,
        events: BatchEvents,
        adversary: Adversary | None,
    ) -> None:
        """``adversary`` is there only in the lab."""
        self._topology, self._store, self._clients = topology, store, clients
        self._admission, self._relays, self._commands = admission, relays, commands
        self._liveness, self._dead_letters, self._subscriptions = liveness, dead_letters, subscriptions
        self._supply, self._attention, self._events, self._adversary = supply, attention, events, adversary
        self._taken_until = Cell(store.journal.batch, store.requests_until)
        """As far as it is stored."""

    def handle(self, delivery: Delivery, now: float) -> None:
        """Take a request. Raises MalformedMessageError; ForgedMessageError for what no client signed."""
        client = self._clients.of(delivery)
        if client is None:
            raise ForgedMessageError("the request did not come from a command line, nor from a page, that has a key")
        request, standing = client.answerer.take(delivery.body, now)
        level: LogLevel = "debug" if standing == "new" else "info"
        self._events.note(f"request.{standing}", level, request=type(request.body).__name__)
        if standing == "repeated":  # by the broker, which gives out again what was not acknowledged, or by somebody
            return
        reply = client.answerer.late(now) if standing == "late" else self._answer(client, request, now)
        if reply is not None:
            self._subscriptions.reply(request, reply)

    def tick(self, now: float) -> None:
        """Take requests from now on; keep over a restart which were taken."""
        self._clients.open(now)
        if self._clients.latest > self._taken_until.value:
            self._taken_until.value = self._store.requests_until = self._clients.latest

    def _answer(self, client: Principal, request: Request, now: float) -> ReplyBody | None:
        """Return the answer, or None if it comes later."""
        try:
            client.check(request.body, now)
        except RequestRefusedError as error:
            asked = type(request.body).__name__
            self._events.note("request.refused", "warning", request=asked, client=client.name, text=str(error))
            return Refusal(text=str(error), hint=error.hint, unanswered=False)
        try:
            return self._carry_out(client, request, now)
        except QkdRelayError as error:
            return Refusal(text=str(error), hint=_hint(error), unanswered=False)

    def _carry_out(self, client: Principal, request: Request, now: float) -> ReplyBody | None:
        match request.body:
            case RelayRequest():
                self._relay(client, request, request.body, now)
            case RelaysRequest(limit=limit, supply=supply):
                found = self._store.relays.latest(limit, supply=supply, ends=client.kmes)
                total = self._store.relays.count(supply=supply, ends=client.kmes)
                return RelaysView(relays=tuple(summary(relay, now) for relay in found), total=total)
            case ShowRequest(relay=name, follow=follow):
                relay = self._find(name, client.kmes)
                if follow:
                    self._subscriptions.follow(request, relay.relay_id, now)
                    return None
                return view(relay, self._store.flow.of(relay.relay_id), now)
            case NetworkRequest():
                return self._network(client, now)
            case SuppliesRequest():
                return self._supply.view(now, client.kmes)
            case AttentionRequest():
                return self._attention.view(now)
            case LinkRequest():
                self._link(request, request.body, now)
            case LabRequest():
                self._lab_mode(request, request.body, now)
            case AttackRequest(relay=name, kmes=kmes):
                adversary = self._lab()
                for kme in kmes:
                    self._topology.require(kme)
                return adversary.attack(self._find(name), kmes)
            case DeadLettersRequest() | DeadLetterRequest() | RequeueRequest() | DropRequest():
                return self._dead_letters.answer(request.body, now)
        return None

    def _relay(self, client: Principal, request: Request, wanted: RelayRequest, now: float) -> None:
        known = self._store.relays.get(wanted.relay_id)
        if known is None:
            if client.kmes is not None and self._store.relays.undecided_with(client.kmes) >= OF_A_SITE_MAX:
                raise RequestRefusedError(f"{OF_A_SITE_MAX} relays of this site are under way", hint="try again later")
            self._relays.change(None, self._admission.admit(_spec(wanted), now), now)
        elif not client.may_see(known.ends):
            raise RequestRefusedError(
                f"the relay id {wanted.relay_id} is taken", hint="take another id (--id), or none"
            )
        elif other := _unlike(wanted, known):
            raise RequestRefusedError(
                f"relay {wanted.relay_id} was asked for before, as another: {other}",
                hint="take another id (--id), or none",
            )
        self._subscriptions.follow(request, wanted.relay_id, now, until_decided=not wanted.follow)

    def _find(self, name: str, ends: frozenset[str] | None = None) -> Relay:
        """Return the relay of this name; of those with an end among these KMEs, or of all."""
        found = self._store.relays.named(digits(name), NAMES_SHOWN_MAX + 1, ends=ends)
        relay = self._store.relays.get(the_one(name, found, "`coordinator relays` lists them"))
        assert relay is not None  # noqa: S101 - it was found in this transaction
        return relay

    def _network(self, client: Principal, now: float) -> ReplyBody:
        down, lab = self._store.links.down(), self._adversary is not None
        view = network_view(self._topology, self._liveness.last_hellos, down, now, lab=lab, away=self._liveness.away)
        return view if client.kmes is None else seen_from(view, client.kmes)

    def _link(self, request: Request, wanted: LinkRequest, now: float) -> None:
        a, b = self._topology.link(wanted.a, wanted.b)
        self._store.links.switch((a, b), up=wanted.up)
        commands = {}
        for kme, peer in ((a, b), (b, a)):
            command = SetLink(command_id=uuid4(), peer=peer, up=wanted.up)
            self._commands.put(kme, command)
            commands[command.command_id] = kme
        text = f"the QKD link {a} - {b} is {'up' if wanted.up else 'down'}"
        self._subscriptions.await_done(request, text, commands, now)

    def _lab_mode(self, request: Request, wanted: LabRequest, now: float) -> None:
        self._lab()
        kme = self._topology.require(wanted.kme)
        command = SetLab(command_id=uuid4(), mode=wanted.mode)
        self._commands.put(kme, command)
        text = f"{kme} is compromised: it will {wanted.mode}" if wanted.mode else f"{kme} is honest again"
        self._subscriptions.await_done(request, text, {command.command_id: kme}, now)

    def _lab(self) -> Adversary:
        if self._adversary is None:
            raise RequestRefusedError("the lab is off", hint=LAB_HINT)
        return self._adversary


def _spec(wanted: RelayRequest) -> RelaySpec:
    return RelaySpec(
        relay_id=wanted.relay_id,
        source=wanted.source,
        target=wanted.target,
        key_count=wanted.key_count,
        key_size_bits=wanted.key_size_bits,
        demand=wanted.demand,
        timeout_s=wanted.timeout_s,
        policy=wanted.policy,
        allow_unprotected=wanted.allow_unprotected,
    )


def _unlike(wanted: RelayRequest, known: Relay) -> str | None:
    """Return in what a relay is not the one that is asked for, or None."""
    terms = known.terms
    amount = {"key_count": terms.key_count, "key_size_bits": terms.key_size_bits}
    return unlike(wanted, ends=known.ends, withstand=terms.withstand, **amount)


def _hint(refusal: QkdRelayError) -> str | None:
    """Return one line for the person at the command line, or None: what would be right."""
    match refusal:
        case TimeoutRefusedError():
            return "a relay over idle links takes well under a second (--timeout)"
        case TooManyUndecidedError():
            return "try again later"
        case PlanTooLargeError():
            return "choose a policy with fewer paths (--policy)"
    return hint_for(refusal)
