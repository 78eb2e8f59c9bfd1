"""Runs a node on a broker: deliveries in, decisions carried out in the batch's one transaction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from kme.effects import (
    DropShares,
    Effect,
    KeepRelay,
    KeepShare,
    LeakShare,
    LogEvent,
    SendReport,
    SendShare,
    SetLabMode,
    SwitchLink,
    TryRebuild,
)
from kme.endpoint import Endpoint
from kme.forgetting import ForgetRequests
from kme.forwarding import LATE_S, Forwarding, NodeSettings, RejectedShareError
from kme.links import Link, Links
from kme.metrics import KmeMetrics
from kme.settling import Settling
from kme.store import KmeStore, WaitingShare
from qkdrelay.broker.names import (
    LEAKS_AGE_MS_MAX,
    LEAKS_KEY,
    control_queue,
    dead_key,
    kme_exchange,
    parse_link_queue,
    results_queue,
)
from qkdrelay.broker.port import Delivery
from qkdrelay.errors import ForgedMessageError, MalformedMessageError, NumberReusedError, QkdRelayError
from qkdrelay.messages import codec, signing
from qkdrelay.messages.control import Commands, SignedMessage
from qkdrelay.messages.leaks import Leak, seal_leak
from qkdrelay.messages.link import ShareHeader
from qkdrelay.messages.reports import (
    DEAD_LETTER_BODY_MAX,
    REPORTS_MAX,
    URGENT,
    Alarm,
    DeadLetter,
    Hello,
    Rejected,
    Report,
    Reports,
    Waiting,
)
from qkdrelay.network.names import COORDINATOR, link_name
from qkdrelay.network.whereabouts import DROPPED
from qkdrelay.randomness import random_bytes
from qkdrelay.service.batch import BatchDict, Cell
from qkdrelay.service.events import event_name, log_fields, log_level
from qkdrelay.service.logs import LogLevel, log_all
from qkdrelay.service.metrics import refusal
from qkdrelay.service.moderation import WINDOW_S, Moderator

HELLO_EVERY_S = 10.0
HELLO_SOONER_S = 1.0
"""When shares began to wait."""
_HOUSEKEEPING_EVERY_S = 5.0
_OF_OTHERS = {
    "share.rejected": "link",
    "command.rejected": "queue",
    "link.number_reused": "link",
    "decision.contradicted": "",
    "decision.unproven": "",
}
"""Events that who is at the broker, or the coordinator, causes, and what each is about."""


class KmeService:
    """One KME on its broker (a `qkdrelay.service.Service`)."""

    def __init__(
        self,
        settings: NodeSettings,
        store: KmeStore,
        links: Mapping[str, Link],
        control_key: bytes,
        random: Callable[[int], bytes] = random_bytes,
    ) -> None:
        """``links`` maps each peer to the QKD link with it; ``control_key`` is shared with the coordinator."""
        self.journal, batch = store.journal, store.journal.batch
        self._me, self._store, self._key = settings, store, control_key
        self._links = Links(settings.name, links, store)
        self._marks = {f"link {peer}": link.incoming.mark() for peer, link in links.items()}
        self._marks["control"] = signing.mark(control_key)
        self._node, self._ends = Forwarding(settings, random), Endpoint(settings, random)
        self.metrics = KmeMetrics(settings.name, links)
        self._reports: list[Report] = batch.scratch([])
        self._notes: list[LogEvent] = batch.scratch([])
        self._moderator, self._now = Moderator(_OF_OTHERS), 0.0
        self._refused: list[str] = batch.scratch([])
        self._alarmed: dict[str, float] = BatchDict(batch)
        """When the coordinator was last told that a number of a link was used twice."""
        self._settling = Settling(self._ends, store)
        self._handled: list[int] = batch.scratch([])
        """Bytes of each message since the last tick."""
        self._destroyed = True
        """The write-ahead log may hold secrets that were deleted; what was left undone is done at start."""
        self._hello_at, self._housekeeping_at = Cell(batch, 0.0), Cell(batch, 0.0)
        self._is_connected = Cell(batch, value=False)
        self._stirred = Cell(batch, value=False)
        """Shares began to wait since the last hello."""
        self._wishes = ForgetRequests(store.journal.path, batch)

    def start(self, now: float) -> None:
        """Forget what was heard under other keys, and report how far the undecided relays are."""
        for stream, mark in self._marks.items():
            self.journal.seen.verified_under(stream, mark)
        if not self._me.lab:
            # There is no queue for what was leaked while the lab was on.
            self.journal.outbox.drop(LEAKS_KEY)
        self._settling.start()
        self._carry_out(self._ends.recall(self._store.undecided()), now)

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is due: a hello, housekeeping, rebuilds put off, shares that wait."""
        timers = [_HOUSEKEEPING_EVERY_S - abs(now - self._housekeeping_at.value)]
        if self._is_connected.value:
            timers.append(self._patience_s - abs(now - self._hello_at.value))
        timers += [self._settling.wait_s(now), self._links.wait_s(), self._wishes.wait_s(now)]
        return max(0.0, min(timers))

    @property
    def _patience_s(self) -> float:
        return HELLO_SOONER_S if self._stirred.value else HELLO_EVERY_S

    # --- one delivery ------------------------------------------------------------------------------

    def handle(self, delivery: Delivery, now: float) -> bool:
        """Carry out one message from a link or from the coordinator; False if it is from neither."""
        self._handled.append(len(delivery.body))
        if delivery.queue == control_queue(self._me.name):
            return self._handle_control(delivery, now)
        return self._handle_share(delivery, now)

    def _handle_share(self, delivery: Delivery, now: float) -> bool:
        sender, _ = parse_link_queue(delivery.queue)
        try:
            message = self._links.open(sender, delivery.body)
            place = (message.stream, message.header.epoch, message.header.number, message.tag)
            if self.journal.seen.check(*place) == "finished":
                self._note("share.redelivered", "debug", relay_id=message.header.relay_id, route=message.header.route)
                return True
        except NumberReusedError as error:
            self._alarm_reused(link_name(sender, self._me.name), error, now)
            self._reject(delivery, error, None, now)
            return False
        except (MalformedMessageError, ForgedMessageError) as error:
            self._reject(delivery, error, None, now)
            return False
        self.journal.seen.finish(*place)
        try:
            self._carry_out(self._node.on_share(sender, message.header, message.payload, self._store, now), now)
        except RejectedShareError as error:
            self._reject(delivery, error, message.header, now)
        return True

    def _alarm_reused(self, link: str, error: NumberReusedError, now: float) -> None:
        """Raise the alarm; to the coordinator not more often than it takes for no link's to crowd out another's."""
        self._note("link.number_reused", "error", link=link, text=str(error)[:500])
        if abs(now - self._alarmed.get(link, -math.inf)) >= WINDOW_S:
            self._alarmed[link] = now
            self._reports.append(Alarm(event="link.number_reused", text=f"link {link}: {error}"[:500]))

    def _handle_control(self, delivery: Delivery, now: float) -> bool:
        try:
            message = codec.decode(delivery.body, SignedMessage)
            signing.verify(self._key, COORDINATOR, self._me.name, message)
            place = ("control", message.epoch, message.number, message.mac)
            if self.journal.seen.check(*place) == "finished":
                return True
            commands = codec.decode(message.body, Commands)
        except (MalformedMessageError, ForgedMessageError) as error:
            self._reject(delivery, error, None, now)
            return False
        self.journal.seen.finish(*place)
        for command in commands.items:
            self._carry_out(self._ends.on_command(command, self._store, now), now)
        return True

    def _reject(self, delivery: Delivery, error: Exception, header: ShareHeader | None, now: float) -> None:
        """Dead-letter a message with its reason, in the transaction that lets it be acknowledged.

        ``header`` is that of a share whose seal was good.
        """
        foreseen = isinstance(error, QkdRelayError)
        reason = str(error) if foreseen else f"could not be handled ({type(error).__name__})"
        self._refused.append(refusal(error))
        letter = DeadLetter(
            kme=self._me.name,
            queue=delivery.queue,
            reason=reason[:500],
            at=now,
            body=delivery.body[:DEAD_LETTER_BODY_MAX],
        )
        self.journal.outbox.put(kme_exchange(self._me.name), dead_key(self._me.name), codec.encode(letter))
        if delivery.queue == control_queue(self._me.name):
            self._note("command.rejected", "error", queue=delivery.queue, reason=reason)
        else:
            link = parse_link_queue(delivery.queue)
            relay_id, route = (None, None) if header is None else (header.relay_id, header.route)
            self._tell(Rejected(relay_id=relay_id, route=route, link=link, reason=reason[:500]))

    def give_up(self, delivery: Delivery, error: Exception, now: float) -> None:
        """Dead-letter a message that this program failed on."""
        self._reject(delivery, error, None, now)
        self._send_reports()

    # --- effects -----------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect], now: float) -> None:
        for effect in effects:
            match effect:
                case SendShare():
                    self._send(effect)
                case SendReport(report=report):
                    self._tell(report)
                case LogEvent():
                    self._notes.append(effect)
                case KeepShare():
                    self._store.keep_share(effect)
                case KeepRelay(relay=relay):
                    self._store.keep_relay(relay)
                    self._destroyed |= relay.state == "failed"
                case DropShares(relay_id=relay_id):
                    self._store.drop_shares(relay_id)
                    self._destroyed = True
                case TryRebuild(relay_id=relay_id):
                    self._settling.ask(relay_id)
                case LeakShare():
                    self._leak(effect, now)
                case SwitchLink(peer=peer, up=up):
                    self._store.turn_link(peer, up=up)
                    self._hello_at.value = 0.0
                    self._note("link.up" if up else "link.down", "warning", link=link_name(self._me.name, peer))
                case SetLabMode(mode=mode):
                    self._store.set_lab_mode(mode)
                    self._hello_at.value = 0.0
                    self._note("lab.mode", "warning", mode=mode or "honest")

    def _send(self, share: SendShare) -> None:
        try:
            if self._links.send(share):
                self._note_sent(share)
        except OverflowError as error:
            self._note("share.dropped", "error", relay_id=share.relay_id, route=share.route, reason=str(error))
            self._tell(Waiting(relay_id=share.relay_id, route=share.route, reason=f"{DROPPED}{error}"))

    def _note_sent(self, share: SendShare) -> None:
        self._note(
            "share.sent",
            "info",
            relay_id=share.relay_id,
            link=link_name(*share.route[-2:]),
            route=share.route,
            index=share.index,
            threshold=share.threshold,
            bytes=len(share.payload),
        )

    def _note_resumed(self, waited: WaitingShare) -> None:
        """Say that a share was sent, also to whom it was told that it waits."""
        share = waited.share
        if waited.told:
            self._tell(Waiting(relay_id=share.relay_id, route=share.route, reason=""))
        self._note_sent(share)

    def _tell_stuck(self, share: SendShare, reason: str) -> None:
        self._stirred.value = True
        self._tell(Waiting(relay_id=share.relay_id, route=share.route, reason=reason))

    def _leak(self, leak: LeakShare, now: float) -> None:
        body = Leak(kme=self._me.name, relay_id=leak.relay_id, route=leak.route, payload=leak.payload)
        self.journal.outbox.put(
            kme_exchange(self._me.name), LEAKS_KEY, seal_leak(self._key, body), now + LEAKS_AGE_MS_MAX / 1000
        )
        self._note("lab.leaked", "warning", relay_id=leak.relay_id, route=leak.route, bytes=len(leak.payload))

    def _tell(self, report: Report) -> None:
        self._reports.append(report)
        self._notes.append(LogEvent(event_name(report), log_level(report), log_fields(report)))

    def _note(self, event: str, level: LogLevel, **fields: object) -> None:
        self._notes.append(LogEvent(event, level, fields))

    # --- the batch as a whole ----------------------------------------------------------------------

    def tick(self, now: float, *, connected: bool, reconnected: bool) -> bool:
        """Rebuild what can be, send what waited, say hello, forget what is over; return whether to go on at once."""
        self._now = now
        for effects in self._settling.turn(now, messages=len(self._handled), size=sum(self._handled)):
            self._carry_out(effects, now)
        # Distances, not differences: the clock may be stepped back.
        if abs(now - self._housekeeping_at.value) >= _HOUSEKEEPING_EVERY_S:
            self._housekeeping_at.value = now
            self._destroyed |= self._store.purge(now)
            for relay_id, route in self._store.expire_waiting(now - LATE_S):
                self._destroyed = True
                self._note("share.expired", "warning", relay_id=relay_id, route=route)
        self._grant_wishes(now)
        self._links.resume(self._note_resumed, self._tell_stuck)
        self._send_reports()
        self._is_connected.value = connected
        if connected and (reconnected or abs(now - self._hello_at.value) >= self._patience_s):
            self._hello_at.value, self._stirred.value = now, False
            self._say_hello(now)
        return self._settling.unfinished

    def _grant_wishes(self, now: float) -> None:
        """Forget the relays that somebody at this KME wishes forgotten."""
        for relay_id in self._wishes.due(now):
            self._destroyed = True
            if self._store.forget_relay(relay_id, now):
                self._note("relay.forgotten", "warning", relay_id=relay_id)

    def _say_hello(self, now: float) -> None:
        """Tell how things are now, at most once: what is read later would not be true any more."""
        me = self._me.name
        hello = Hello(
            clock=now,
            lab=self._me.lab,
            lab_mode=self._store.lab_mode if self._me.lab else None,
            links=self._links.report(),
            pending=self._store.pending(),
        )
        self._notes.append(LogEvent(event_name(hello), log_level(hello), log_fields(hello)))
        number = self.journal.numbers.next("reports")
        signed = signing.sign(
            self._key,
            me,
            COORDINATOR,
            epoch=self.journal.numbers.epoch,
            number=number,
            body=Reports(items=(hello,)),
        )
        self.journal.outbox.publish_once(kme_exchange(me), results_queue(me), signed)

    def _send_reports(self) -> None:
        """Put everything to report into as few messages as fit."""
        me = self._me.name
        urgent = any(isinstance(report, URGENT) for report in self._reports)
        for start in range(0, len(self._reports), REPORTS_MAX):
            body = Reports(items=tuple(self._reports[start : start + REPORTS_MAX]))
            for signed in signing.sign_all(
                self._key,
                me,
                COORDINATOR,
                epoch=self.journal.numbers.epoch,
                number=partial(self.journal.numbers.next, "reports"),
                body=body,
            ):
                self.journal.outbox.put(kme_exchange(me), results_queue(me), signed, urgent=urgent)
        self._reports.clear()

    def committed(self) -> None:
        """Log what happened; wipe what destroyed keys left behind on disk."""
        lines = ((note.level, note.event, note.fields) for note in self._notes)
        log_all(self._moderator.passed(lines, self._now), kme=self._me.name)
        for note in self._notes:
            self.metrics.happened(note.event)
        for reason in self._refused:
            self.metrics.refused(reason)
        for peer, length in self._links.committed().items():
            self.metrics.drew(peer, length)
        if self._destroyed:
            self._destroyed = not self.journal.scrub()
        if not self._destroyed:
            self._wishes.granted()

    def measure(self) -> None:
        """Set the gauges of this KME."""
        self.metrics.measured_here(self._store.pending(), self._links.report())
