"""The coordinator on its broker: reports and requests in, commands and answers out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from uuid import UUID, uuid4

from msgspec import structs

from coordinator.adversary import Adversary
from coordinator.lifecycle import Relay, advance, fail_if_overdue, outstanding, reminders
from coordinator.metrics import BROKER, CoordinatorMetrics
from coordinator.requests import RequestHandler
from coordinator.store import RELAYS_CACHED, CoordinatorStore
from coordinator.subscriptions import Subscriptions
from qkdrelay.broker.names import (
    CLI_EXCHANGE,
    COORD_EXCHANGE,
    DEAD_LETTERS_QUEUE,
    LEAKS_QUEUE,
    REQUESTS_QUEUE,
    control_queue,
    parse_kme_exchange,
)
from qkdrelay.broker.port import Delivery
from qkdrelay.errors import ForgedMessageError, MalformedMessageError, QkdRelayError, TopologyError
from qkdrelay.messages import codec, signing
from qkdrelay.messages.control import COMMANDS_MAX, Command, Commands, SetLink, SignedMessage
from qkdrelay.messages.dialogue import Answerer
from qkdrelay.messages.leaks import open_leak
from qkdrelay.messages.reports import (
    Alarm,
    Collected,
    DeadLetter,
    Done,
    Findings,
    Forwarded,
    Hello,
    Rejected,
    Report,
    Reports,
    Split,
    Waiting,
)
from qkdrelay.network.names import COORDINATOR, link_name
from qkdrelay.network.plan import Plan
from qkdrelay.network.topology import Topology
from qkdrelay.network.whereabouts import REFUSED
from qkdrelay.service.batch import BatchDict, Cell
from qkdrelay.service.logs import LogLevel, log_all
from qkdrelay.service.lru import LruCache
from qkdrelay.service.metrics import refusal
from qkdrelay.service.moderation import Moderator

SKEW_MAX_S = 5.0
"""A KME whose clock differs by more raises an alarm: deadlines are in absolute time."""
_HOUSEKEEPING_EVERY_S = 10.0
LOOK_AGAIN_S = 0.2
"""How often deadlines are looked at while relays are under way."""
COMMANDS_WAITING_MAX = 500
"""Messages to one KME that the broker has not taken over."""
ORDER_AGAIN_S = 30.0
"""A KME whose link does not keep to its order is given it again so often, whatever it says how often."""
_OF_OTHERS = {
    "kme.alarm": "kme",
    "share.rejected": "link",
    "report.unknown_relay": "kme",
    "report.misplaced": "kme",
    "clock.skewed": "kme",
    "command.withheld": "kme",
    "command.no_such_kme": "kme",
    "message.dead_lettered": "kme",
    "message.rejected": "queue",
    "request.late": "request",
    "request.repeated": "request",
}
"""Events that KMEs, or who is at the broker, cause, and who or what each is about."""


class CoordinatorService:
    """The coordinator (a `qkdrelay.service.Service`)."""

    def __init__(
        self,
        topology: Topology,
        store: CoordinatorStore,
        control_keys: Mapping[str, bytes],
        cli_key: bytes,
        *,
        lab: bool = False,
    ) -> None:
        """``control_keys`` has the key shared with each KME of ``topology``; ``cli_key`` is the command line's."""
        self.journal, batch = store.journal, store.journal.batch
        self._store, self._keys, self._lab = store, control_keys, lab
        self.metrics = CoordinatorMetrics(topology.kmes)
        self._links = frozenset(map(frozenset, topology.links))
        self._adversary = Adversary()
        self._heard: dict[str, tuple[float, Hello]] = BatchDict(batch)
        self._hellos: dict[str, Hello] = batch.scratch({})
        """Of this batch, the last of each KME."""
        self._behind: dict[str, None] = BatchDict(batch)
        self._commands: defaultdict[str, dict[Command, None]] = batch.scratch(defaultdict(dict))
        """Of this batch, each once, however often something in it asks for it."""
        self._ordered: dict[tuple[str, str, bool], float] = BatchDict(batch)
        """When a KME was ordered again to turn its link to another up, or down."""
        self._found: LruCache[tuple[UUID, str], tuple[bytes, int]] = batch.cache(LruCache(RELAYS_CACHED))
        """Epoch and number of the message that said last what was found, by relay and who found it."""
        self._requests_until = Cell(batch, store.requests_until)
        """As far as it is stored."""
        since, taken = self._requests_until.value, BatchDict[bytes, float](batch)
        self._answerer = Answerer(cli_key, lambda: store.journal.numbers.epoch, since, taken)
        self._audience = Subscriptions(store, self._answerer)
        self._desk = RequestHandler(
            topology, self, store, self._audience, adversary=self._adversary, heard=self._heard, lab=lab
        )
        self._notes: list[tuple[LogLevel, str, dict[str, object]]] = batch.scratch([])
        self._refused: list[str] = batch.scratch([])
        self._moderator, self._now = Moderator(_OF_OTHERS), 0.0
        self._housekeeping_at = Cell(batch, 0.0)
        self._hears_since = Cell(batch, -math.inf)
        """When the connection to the broker was made; infinite while there is none."""

    def start(self, now: float) -> None:  # noqa: ARG002 - as of `Service`
        """Forget what was heard under other keys."""
        for kme, key in self._keys.items():
            self.journal.seen.verified_under(f"reports {kme}", signing.mark(key))

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is due: a deadline, an answer, housekeeping."""
        next_deadline = LOOK_AGAIN_S if self._store.undecided_count() else math.inf
        housekeeping = _HOUSEKEEPING_EVERY_S - abs(now - self._housekeeping_at.value)
        return max(0.0, min(next_deadline, housekeeping, self._audience.wait_s(now)))

    # --- one delivery ------------------------------------------------------------------------------

    def handle(self, delivery: Delivery, now: float) -> bool:
        """Carry out one report, request, dead letter or leak; False if it is not from whom it should be."""
        try:
            if delivery.queue == REQUESTS_QUEUE:
                self._handle_request(delivery, now)
            elif delivery.queue == DEAD_LETTERS_QUEUE:
                self._handle_dead_letter(delivery, now)
            elif delivery.queue == LEAKS_QUEUE:
                self._handle_leak(delivery)
            else:
                self._handle_reports(delivery, now)
        except QkdRelayError as error:
            self._reject(delivery, error, now)
            return False
        return True

    def _handle_request(self, delivery: Delivery, now: float) -> None:
        if delivery.exchange != CLI_EXCHANGE:
            raise ForgedMessageError("the request did not come from the command line")
        request, standing = self._answerer.take(delivery.body, now)
        self.note(f"request.{standing}", "debug" if standing == "new" else "info", request=type(request.body).__name__)
        if standing == "repeated":  # by the broker, which gives out again what was not acknowledged, or by somebody
            return
        reply = self._answerer.late(now) if standing == "late" else self._desk.answer(request, now)
        if reply is not None:
            self._audience.reply(request, reply)

    def _handle_leak(self, delivery: Delivery) -> None:
        sender = self._sender(delivery)
        self._adversary.see(open_leak(self._keys[sender], sender, delivery.body))

    def _sender(self, delivery: Delivery) -> str:
        sender = parse_kme_exchange(delivery.exchange)
        if sender not in self._keys:
            raise ForgedMessageError(f"{sender} is not a KME of this network")
        return sender

    def _handle_reports(self, delivery: Delivery, now: float) -> None:
        sender = self._sender(delivery)
        message = codec.decode(delivery.body, SignedMessage)
        signing.verify(self._keys[sender], sender, COORDINATOR, message)
        place = (f"reports {sender}", message.epoch, message.number, message.mac)
        if self.journal.seen.check(*place) == "finished":
            return
        reports = codec.decode(message.body, Reports)
        self.journal.seen.finish(*place)
        for report in reports.items:
            if not self._is_overtaken(sender, report, message):
                self._on_report(sender, report, now)

    def _is_overtaken(self, sender: str, report: Report, message: SignedMessage) -> bool:
        """Whether it is a finding that a later one has overtaken: what the broker refused at first comes late.

        Epochs sort by time, and numbers within one. What was found before this start is not compared.
        """
        if not isinstance(report, Findings):
            return False
        place, latest = (message.epoch, message.number), self._found.get((report.relay_id, sender))
        if latest is not None and latest > place:
            return True
        self._found.keep((report.relay_id, sender), place)
        return False

    def _handle_dead_letter(self, delivery: Delivery, now: float) -> None:
        kme, queue, body = "", delivery.routing_key, delivery.body
        reason = "the broker gave up delivering it"
        # The broker's own come as they were, through an exchange that no KME may write.
        with suppress(TopologyError):
            kme = parse_kme_exchange(delivery.exchange)
            try:
                letter = codec.decode(delivery.body, DeadLetter)
                queue, reason, body = letter.queue, letter.reason, letter.body
            except MalformedMessageError as error:
                # Not refused: it is one queue for all.
                reason = f"{kme} sent what is no dead letter: {error}"
        self._store.add_dead_letter(now, kme, queue, reason, body)
        self.note("message.dead_lettered", "warning", kme=kme or BROKER, queue=queue, reason=reason)

    def _reject(self, delivery: Delivery, error: Exception, now: float) -> None:
        foreseen = isinstance(error, QkdRelayError)
        reason = str(error) if foreseen else f"could not be handled ({type(error).__name__})"
        # What leaks is secret, also when it is no message: it is not kept.
        body = b"" if delivery.queue == LEAKS_QUEUE else delivery.body
        self._store.add_dead_letter(now, COORDINATOR, delivery.queue, reason, body)
        self._refused.append(refusal(error))
        self.note("message.rejected", "warning", queue=delivery.queue, reason=reason)

    def give_up(self, delivery: Delivery, error: Exception, now: float) -> None:
        """Dead-letter a message that this program failed on."""
        self._reject(delivery, error, now)

    # --- reports -----------------------------------------------------------------------------------

    def _on_report(self, sender: str, report: Report, now: float) -> None:
        match report:
            case Hello():
                self._hellos[sender] = report
            case Done():
                self._audience.done(sender, report)
            case Alarm():
                # Under a name of its own: a KME must not write the coordinator's events.
                self.note("kme.alarm", "error", kme=sender, alarm=report.event, text=report.text)
            case Rejected():
                self._on_rejected(sender, report)
            case _:
                relay = self._store.relay(report.relay_id)
                if relay is None:
                    self.note("report.unknown_relay", "warning", kme=sender, relay_id=report.relay_id)
                elif isinstance(report, Split | Forwarded | Collected | Waiting):
                    self._on_step(relay, sender, report)
                elif isinstance(report, Findings) and not _is_about(report, relay.plan):
                    self.note("report.misplaced", "warning", kme=sender, relay_id=relay.relay_id)
                else:
                    self.change(relay, advance(relay, sender, report, now), now)

    def _on_rejected(self, sender: str, report: Rejected) -> None:
        """Log it; and keep that the share did not arrive, if it is known which one it was."""
        if report.link[1] != sender or frozenset(report.link) not in self._links:
            self.note("report.misplaced", "warning", kme=sender, link=link_name(*report.link))
            return
        self.note("share.rejected", "warning", kme=sender, link=link_name(*report.link), reason=report.reason)
        relay = self._store.relay(report.relay_id) if report.relay_id is not None else None
        route = report.route
        if relay is not None and route is not None and route[-1] == sender and relay.plan.is_route(route):
            self._store.add_stuck(relay.relay_id, route, f"{REFUSED}{report.reason}")
            self._audience.changed(relay.relay_id)

    def _on_step(self, relay: Relay, sender: str, report: Split | Forwarded | Collected | Waiting) -> None:
        """Keep what became of a share, if it is for the sender to say and the plan has such a route."""
        route, plan = report.route, relay.plan
        speaker = route[-2] if isinstance(report, Waiting) and len(route) > 1 else route[-1]
        if speaker != sender or not plan.is_route(route):
            self.note("report.misplaced", "warning", kme=sender, relay_id=relay.relay_id, route=route)
            return
        if isinstance(report, Waiting):
            self._store.add_stuck(relay.relay_id, route, report.reason)
        elif isinstance(report, Split):
            self._store.add_step(relay.relay_id, route, "split")
        elif isinstance(report, Forwarded):
            self._store.add_step(relay.relay_id, route, "forwarded")
        elif sender == plan.target:
            self._store.add_step(relay.relay_id, route, "collected")
        self._audience.changed(relay.relay_id)

    def _on_hello(self, sender: str, hello: Hello, now: float) -> None:
        """Take note of how a KME is; the last of several hellos counts, and in it its own links, each once."""
        links = {link.peer: link for link in hello.links if frozenset((sender, link.peer)) in self._links}
        hello = structs.replace(hello, links=tuple(links.values()))
        off_s = hello.clock - now
        # A hello may have waited in its queue, so that a clock is behind is seen only by the second one.
        if off_s > SKEW_MAX_S or (off_s < -SKEW_MAX_S and sender in self._behind):
            self.note("clock.skewed", "error", kme=sender, text=f"its clock is off by {off_s:+.1f} s")
        if off_s < -SKEW_MAX_S:
            self._behind[sender] = None
        else:
            self._behind.pop(sender, None)
        if sender not in self._heard:
            self.note("kme.heard", "info", kme=sender, lab=hello.lab)
        self._heard[sender] = (now, hello)
        # It is alive: what it has not answered for a while may have been lost.
        for relay in self._store.to_tell_again(sender, now):
            for kme, command in reminders(relay):
                if kme == sender:
                    self.command(kme, command)
        self._hold_links(sender, hello, now)

    def _hold_links(self, sender: str, hello: Hello, now: float) -> None:
        """Order again what a KME's links do not keep to, but not while that is under way.

        It may have lost its store, and with it what it was ordered; or somebody brought it an old order after that.
        """
        down = set(map(frozenset, self._store.links_down()))
        for link in hello.links:
            order = (sender, link.peer, not link.up)
            if link.up != (frozenset(order[:2]) in down):
                continue
            if abs(now - self._ordered.get(order, -math.inf)) >= ORDER_AGAIN_S:
                self._ordered[order] = now
                self.command(sender, SetLink(command_id=uuid4(), peer=link.peer, up=not link.up))

    # --- relays ------------------------------------------------------------------------------------

    def _expired(self, relay: Relay, now: float) -> Relay:
        """Return the relay failed with what was missing; what was not heard of may be the coordinator's own fault."""
        failed = fail_if_overdue(relay, self._store.whereabouts(relay), now)
        if self._hears_since.value <= relay.created_at:
            return failed
        return replace(failed, reason=f"{failed.reason}; the coordinator was without the broker meanwhile")

    def change(self, before: Relay | None, after: Relay, now: float) -> None:
        """Keep a relay's new state and tell the ends what follows from it."""
        if after == before:
            return
        told = [] if before is None else outstanding(before)
        now_outstanding = outstanding(after)
        for kme, command in now_outstanding:
            if (kme, command) not in told:
                self.command(kme, command)
        self._store.keep(after, now, told={kme for kme, _ in now_outstanding})
        self._audience.changed(after.relay_id)
        if before is None or before.state != after.state:
            source, target = after.ends
            self.note(
                f"relay.{after.state}",
                "warning" if after.state == "failed" else "info",
                relay_id=after.relay_id,
                source=source,
                target=target,
                keys=after.terms.key_count,
                **({"seconds": round(after.ended_at - after.created_at, 6)} if after.ended_at else {}),
                **({"reason": after.reason} if after.reason else {}),
            )

    def command(self, kme: str, command: Command) -> None:
        """Tell a KME something, with the rest of this batch.

        Not one that does not take in what it was told; what is left out follows from the relay's state, and is told
        once it says hello.
        """
        if kme not in self._keys:
            self.note("command.no_such_kme", "error", kme=kme, text="it is not in the network any more")
        elif self.journal.outbox.backlog.of(control_queue(kme))[0] >= COMMANDS_WAITING_MAX:
            self.note("command.withheld", "warning", kme=kme, text="it has not taken in what it was told before")
        else:
            self._commands[kme][command] = None

    def note(self, event: str, level: LogLevel, **fields: object) -> None:
        """Log after the commit."""
        self._notes.append((level, event, fields))

    # --- the batch as a whole ----------------------------------------------------------------------

    def tick(self, now: float, *, connected: bool, reconnected: bool) -> bool:
        """Fail what is overdue, send the commands of this batch, show followers what changed."""
        self._now = now
        if not connected or reconnected:
            self._hears_since.value = now if connected else math.inf
        for sender, hello in self._hellos.items():
            self._on_hello(sender, hello, now)
        self._hellos.clear()
        for relay in self._store.overdue(now):
            self.change(relay, self._expired(relay, now), now)
        for kme, commands in self._commands.items():
            for start in range(0, len(commands), COMMANDS_MAX):
                body = Commands(items=tuple(islice(commands, start, start + COMMANDS_MAX)))
                for signed in signing.sign_all(
                    self._keys[kme],
                    COORDINATOR,
                    kme,
                    epoch=self.journal.numbers.epoch,
                    number=partial(self.journal.numbers.next, f"control {kme}"),
                    body=body,
                ):
                    self.journal.outbox.put(COORD_EXCHANGE, control_queue(kme), signed)
        self._commands.clear()
        self._answerer.open(now)
        if self._answerer.latest > self._requests_until.value:
            self._requests_until.value = self._store.requests_until = self._answerer.latest
        self._audience.tick(now)
        if abs(now - self._housekeeping_at.value) >= _HOUSEKEEPING_EVERY_S:
            self._housekeeping_at.value = now
            self._store.purge()
        return False

    def committed(self) -> None:
        """Log what happened."""
        log_all(self._moderator.passed(self._notes, self._now), service=COORDINATOR)
        for _, event, fields in self._notes:
            self.metrics.happened(event, fields)
        for reason in self._refused:
            self.metrics.refused(reason)

    def measure(self) -> None:
        """Set the gauges of the coordinator."""
        store = self._store
        self.metrics.measured_here(store.undecided_count(), store.dead_letter_count(), self._heard)


def _is_about(findings: Findings, plan: Plan) -> bool:
    """Whether all that was found is on routes of the plan."""
    routes = (*findings.false, *findings.equivocating, *(dispute.split for dispute in findings.disputed))
    disputed = (route for dispute in findings.disputed for group in dispute.sets for route in group)
    return all(map(plan.is_route, (*routes, *disputed)))
