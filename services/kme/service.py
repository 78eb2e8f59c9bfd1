"""One KME on a broker: deliveries in, decisions carried out in the batch's one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from kme.effects import (
    DropShares,
    Effect,
    KeepRelay,
    KeepShare,
    LogEvent,
    SayHello,
    SendReport,
    SendShare,
    SupplyChanged,
    TryRebuild,
    WipeDeleted,
)
from kme.endpoint import Endpoint
from kme.forwarding import Forwarding, RejectedShareError, ShareHandler
from kme.hello_timer import HelloTimer
from kme.housekeeping import Housekeeping
from kme.lab import Lab
from kme.link_keys import Link
from kme.links import Links
from kme.metrics import KmeMetrics
from kme.model import EndpointRelay, NodeSettings
from kme.rebuild_queue import RebuildQueue
from kme.reporting import Reporting
from kme.store import KmeStore
from kme.supply.port import SupplyParts
from qkdrelay import __version__
from qkdrelay.broker.names import LEAKS_KEY, control_queue
from qkdrelay.broker.port import Delivery
from qkdrelay.errors import ForgedMessageError, MalformedMessageError, OvertakenError
from qkdrelay.messages.control import (
    Cancel,
    Command,
    Commands,
    Confirm,
    Deliver,
    Expect,
    Recall,
    SetLab,
    SetLink,
    Start,
)
from qkdrelay.messages.reports import Done, Hello, Report
from qkdrelay.network.names import COORDINATOR
from qkdrelay.randomness import random_bytes
from qkdrelay.service.batch import Cell
from qkdrelay.service.signed_channel import SignedChannel


class KmeService:
    """One KME (a `qkdrelay.service.port.Service`)."""

    def __init__(
        self,
        settings: NodeSettings,
        store: KmeStore,
        links: Mapping[str, Link],
        control_key: bytes,
        random: Callable[[int], bytes] = random_bytes,
        *,
        metrics: KmeMetrics | None = None,
        supply: SupplyParts | None = None,
    ) -> None:
        """``links`` maps each peer to the QKD link with it; ``control_key`` is shared with the coordinator.

        ``supply`` is there if the KME has keys for applications.
        """
        name, self.journal, batch = settings.name, store.journal, store.journal.batch
        self._me, self._store, self._control_queue = settings, store, control_queue(name)
        self._channel = SignedChannel(
            self.journal,
            control_key,
            name,
            COORDINATOR,
            incoming="control",
            outgoing="reports",
            latest_only=True,
        )
        self.metrics = metrics or KmeMetrics(name, links)
        self._reporting = Reporting(name, self.journal, self._channel, self.metrics)
        self._hello = HelloTimer(batch)
        self.links = Links(name, links, store, self._reporting, self._hello)
        self._endpoint = Endpoint(settings, random)
        self._supply, self._now = supply, 0.0
        self.rebuild_queue = RebuildQueue(self._endpoint.rebuilder, store)
        honest = Forwarding(settings, random)
        self._lab = Lab(honest, name, self.journal, control_key, random) if settings.lab else None
        self.forwarding: ShareHandler = self._lab or honest
        self._housekeeping = Housekeeping(store, self._reporting)
        self._handled: list[int] = batch.scratch([])
        """Bytes of each message since the last tick."""
        self._has_recalled = Cell(batch, value=False)
        """Whether a batch has reported how far the relays are that were open at the start."""

    def start(self, now: float) -> None:
        """Forget what was taken under other keys."""
        self._channel.start()
        if self._lab is None:
            # There is no queue for what was leaked while the lab was on.
            self.journal.outbox.drop(LEAKS_KEY)
        self.rebuild_queue.start()
        if self._supply is not None:
            self.carry_out(self._supply.start(now))

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is due: a hello, housekeeping, rebuilds put off, shares that wait."""
        timers = [self._hello.wait_s(now), self._housekeeping.wait_s(now), self.rebuild_queue.wait_s(now)]
        if self._supply is not None:
            timers.append(self._supply.wait_s(now))
        return max(0.0, min(*timers, self.links.wait_s(now)))

    # --- one delivery ------------------------------------------------------------------------------

    def handle(self, delivery: Delivery, now: float) -> bool:
        """Carry out one message from a link or from the coordinator; False if it is from neither."""
        self._now = now
        self._handled.append(len(delivery.body))
        try:
            if delivery.queue == self._control_queue:
                self._handle_commands(delivery, now)
            elif not self.links.keys.take(delivery.queue, delivery.body, now):
                self._handle_share(delivery, now)
        except OvertakenError as error:
            self._reporting.note("command.overtaken", "warning", queue=delivery.queue, text=str(error))
        except (MalformedMessageError, ForgedMessageError) as error:
            self._reporting.reject(delivery, error, None, now)
            return False
        return True

    def _handle_share(self, delivery: Delivery, now: float) -> None:
        share = self.links.take(delivery.queue, delivery.body)
        if share is None:
            self._reporting.note("share.redelivered", "debug", queue=delivery.queue)
            return
        header = share.header
        try:
            effects = self.forwarding.on_share(share.sender, header, share.payload, self._store, now)
        except RejectedShareError as error:
            self._reporting.reject(delivery, error, header, now)
        else:
            self.carry_out(effects)

    def _handle_commands(self, delivery: Delivery, now: float) -> None:
        taken = self._channel.take(delivery.body, Commands)
        if taken is not None:
            _, commands = taken
            for command in commands.items:
                self.carry_out(self._decide(command, now))

    def _decide(self, command: Command, now: float) -> list[Effect]:
        match command:
            case SetLink():
                return self.links.on_order(command)
            case SetLab():
                if self._lab is None:
                    return [SendReport(Done(command=command, error=f"the lab is off at {self._me.name}"))]
                return self._lab.on_order(command)
            case Recall():
                return [SayHello(), *self._endpoint.recalled(self._store.relays.lately(now))]
            case Expect() | Start() | Confirm() | Cancel() | Deliver():
                return self._endpoint.on_command(command, self._store, now)
            case _:
                return [] if self._supply is None else self._supply.on_command(command, now)

    def give_up(self, delivery: Delivery, error: Exception, now: float) -> None:
        """Dead-letter a message that this program failed on."""
        self._reporting.reject(delivery, error, None, now)
        self._reporting.send(now)

    def carry_out(self, effects: list[Effect]) -> None:
        """Do what was decided, in the transaction."""
        for effect in effects:
            match effect:
                case SendShare():
                    self.links.send(effect)
                case SendReport(report=report):
                    self._reporting.report(report)
                case LogEvent():
                    self._reporting.note(effect.event, effect.level, **effect.fields)
                case KeepShare():
                    self._store.shares.keep(effect)
                case KeepRelay(relay=relay):
                    self._store.keep_relay(relay)
                    if relay.state in ("failed", "forgotten"):
                        self._housekeeping.note_destroyed()
                case DropShares(relay_id=relay_id):
                    self._store.drop_shares(relay_id)
                    self._housekeeping.note_destroyed()
                case TryRebuild(relay_id=relay_id):
                    self.rebuild_queue.ask(relay_id)
                case SayHello():
                    self._hello.expire()
                case WipeDeleted():
                    self._housekeeping.note_destroyed()
                case SupplyChanged(relay=relay):
                    self._tell_supply(relay)

    def _tell_supply(self, relay: EndpointRelay) -> None:
        if self._supply is not None:
            self.carry_out(self._supply.on_change(relay, self._now))

    # --- the batch as a whole ----------------------------------------------------------------------

    def tick(self, now: float, *, connected: bool, reconnected: bool, away: Collection[str] = ()) -> bool:
        """Rebuild what can be, send what waited, say hello, forget what is over; return whether to go on at once."""
        self._now = now
        if not self._has_recalled.value:
            self._has_recalled.value = True
            self.carry_out(self._endpoint.recall(self._store.relays.open(now)))
        for effects in self.rebuild_queue.turn(now, messages=len(self._handled), size=sum(self._handled)):
            self.carry_out(effects)
        self.carry_out(self._endpoint.end(self._housekeeping.tick(now)))
        self.links.tick(now)
        if self._supply is not None:
            self.carry_out(self._supply.tick(now, connected=connected))
        self._reporting.send(now)
        is_hello = self._hello.is_due(now, connected=connected, reconnected=reconnected)
        once: list[Report] = [self._hello_now(now, away)] if is_hello else []
        if self._supply is not None and (supplies := self._supply.supplies(now, is_hello=is_hello)) is not None:
            once.append(supplies)
        self._reporting.say_once(*once)
        return self.rebuild_queue.unfinished

    def _hello_now(self, now: float, away: Collection[str]) -> Hello:
        return Hello(
            clock=now,
            version=__version__,
            lab=self._me.lab,
            lab_mode=self._lab.mode if self._lab else None,
            links=self.links.report(),
            pending=self._store.relays.pending(),
            away=tuple(sorted(away)),
            heard=self._channel.heard or None,
        )

    def committed(self) -> None:
        """Log and count what happened; wipe what destroyed keys left behind on disk."""
        if self._supply is not None:
            self._supply.committed()
        self._reporting.committed()
        for peer, length in self.links.committed().items():
            self.metrics.drew(peer, length)
        self._housekeeping.committed()

    def measure(self) -> None:
        """Set the gauges of this KME."""
        self.metrics.measured_here(self._store.relays.pending(), self.links.report())
        if self._supply is not None:
            self._supply.measure(self._now)
