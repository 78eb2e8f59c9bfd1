"""The coordinator on its broker: reports and requests in, commands and answers out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from coordinator.admission import Admission
from coordinator.adversary import Adversary
from coordinator.attention import Attention
from coordinator.clients import Clients
from coordinator.commands import CommandQueue
from coordinator.dead_letters import DeadLetters
from coordinator.liveness import Liveness
from coordinator.metrics import CoordinatorMetrics
from coordinator.recalls import Recalls, drop_orders
from coordinator.relay_actions import RelayActions
from coordinator.reports import ReportHandler
from coordinator.requests import RequestHandler
from coordinator.senders import Senders
from coordinator.store import CoordinatorStore
from coordinator.subscriptions import Subscriptions
from coordinator.supply.room import SupplyRoom
from qkdrelay.broker.names import (
    DEAD_LETTERS_QUEUE,
    EVENTS_EXCHANGE,
    LEAKS_QUEUE,
    control_queue,
    requests_queue,
    results_queue,
)
from qkdrelay.broker.port import Delivery
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.leaks import open_leak
from qkdrelay.network.directory import NO_SAES, Directory
from qkdrelay.network.names import CLI, CLIENTS, COORDINATOR, PAGE
from qkdrelay.network.topology import Topology
from qkdrelay.service.batch import Cell
from qkdrelay.service.batch_events import BatchEvents
from qkdrelay.service.metrics import refusal
from qkdrelay.service.signed_channel import SignedChannel

_HOUSEKEEPING_EVERY_S = 10.0
_OF_OTHERS = {
    "kme.alarm": "kme",
    "share.rejected": "link",
    "report.unknown_relay": "kme",
    "report.misplaced": "kme",
    "clock.skewed": "kme",
    "epoch.too_far": "kme",
    "command.withheld": "kme",
    "assignment.misplaced": "kme",
    "assignment.withheld": "kme",
    "supply.none": "kme",
    "command.no_such_kme": "kme",
    "message.dead_lettered": "kme",
    "message.rejected": "queue",
    "request.late": "request",
    "request.repeated": "request",
    "request.refused": "request",
}
"""Events that KMEs, or who is at the broker, cause, and who or what each is about."""
_REQUESTS_QUEUES = frozenset(map(requests_queue, CLIENTS))


class CoordinatorService:
    """The coordinator (a `qkdrelay.service.port.Service`): hands each delivery to its room, and closes batches."""

    def __init__(
        self,
        topology: Topology,
        store: CoordinatorStore,
        control_keys: Mapping[str, bytes],
        cli_key: bytes,
        *,
        page_key: bytes | None = None,
        lab: bool = False,
        directory: Callable[[], Directory] | None = None,
        elsewhere: Mapping[str, str] | None = None,
        site_keys: Mapping[str, bytes] | None = None,
        anew: bool = False,
    ) -> None:
        """``control_keys`` has the key shared with each KME of ``topology``; ``cli_key`` is the command line's.

        ``page_key`` is the page's, if there is one. ``directory`` returns the directory of SAEs as it is now; the same
        one as long as it has not changed. Without it all pairs have the same weight. ``elsewhere`` has the sites of
        KMEs that are not at the coordinator's own; ``site_keys`` the keys of the command lines there. With ``anew``
        another coordinator may have led until it starts.
        """
        self._anew = anew
        self.journal, batch = store.journal, store.journal.batch
        self._store, self._keys = store, control_keys
        self.metrics = CoordinatorMetrics(topology.neighbours)
        events = self._events = BatchEvents(batch, _OF_OTHERS, self._happened, service=COORDINATOR)
        self._refused: list[str] = batch.scratch([])
        self._now = 0.0
        self._housekeeping_at = Cell(batch, 0.0)
        sites = {site: (key, topology.sites[site].kmes) for site, key in (site_keys or {}).items()}
        clients = Clients(store, {CLI: cli_key} | ({PAGE: page_key} if page_key else {}), sites)
        self.subscriptions = Subscriptions(store, clients)
        self._channels = {
            kme: SignedChannel(
                store.journal, key, COORDINATOR, kme, incoming=f"reports {kme}", outgoing=f"control {kme}"
            )
            for kme, key in control_keys.items()
        }
        self._commands = CommandQueue(store.journal, self._channels, events)
        self.relays = RelayActions(store, self._commands, self.subscriptions, events)
        self.liveness = Liveness(topology, store, self.relays, self._commands, events)
        self._senders = Senders(control_keys.keys(), elsewhere or {})
        self._dead_letters = DeadLetters(topology, store, self._senders, events)
        self._attention = Attention(store, self._dead_letters)
        self._adversary = Adversary() if lab else None
        admission = Admission(topology, store.relays, self.liveness.last_hellos)
        self.supply = SupplyRoom(
            topology,
            store,
            admission=admission,
            relays=self.relays,
            commands=self._commands,
            liveness=self.liveness,
            events=events,
            directory=directory or (lambda: NO_SAES),
        )
        self._recalls = Recalls(
            topology, store, self.relays, events, asked=self.liveness.recalls, adopted=self.supply.refills.adopt
        )
        self._reports = ReportHandler(
            topology,
            self._channels,
            store,
            relays=self.relays,
            liveness=self.liveness,
            subscriptions=self.subscriptions,
            supply=self.supply,
            recalls=self._recalls,
            events=events,
        )
        self._requests = RequestHandler(
            topology,
            store,
            clients,
            admission=admission,
            relays=self.relays,
            commands=self._commands,
            liveness=self.liveness,
            dead_letters=self._dead_letters,
            subscriptions=self.subscriptions,
            supply=self.supply,
            attention=self._attention,
            events=events,
            adversary=self._adversary,
        )

    def start(self, now: float) -> None:
        """Forget what was seen under other keys, and, if another has led, what is not known any more to be so."""
        for channel in self._channels.values():
            channel.start()
        if self._anew:
            drop_orders(self._store, [control_queue(kme) for kme in self._keys])
            self._recalls.disown(now)
            self.liveness.begin_anew(self._keys.keys(), now)
            self._commands.send()

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is due: a deadline, an answer, housekeeping."""
        housekeeping_s = _HOUSEKEEPING_EVERY_S - abs(now - self._housekeeping_at.value)
        timers = self._store.relays.wait_s(now), self.subscriptions.wait_s(now), self.supply.wait_s(now)
        return max(0.0, min(*timers, housekeeping_s))

    def handle(self, delivery: Delivery, now: float) -> bool:
        """Carry out one report, request, dead letter or leak; False if it is not from whom it should be."""
        try:
            if delivery.queue in _REQUESTS_QUEUES:
                self._requests.handle(delivery, now)
            elif delivery.queue == DEAD_LETTERS_QUEUE:
                self._dead_letters.take(delivery, now)
            elif delivery.queue == LEAKS_QUEUE and self._adversary is not None:
                sender = self._senders.of(delivery)
                self._adversary.see(open_leak(self._keys[sender], sender, delivery.body))
            else:
                self._take_report(self._senders.of(delivery), delivery, now)
        except QkdRelayError as error:
            self.give_up(delivery, error, now)
            return False
        return True

    def _take_report(self, sender: str, delivery: Delivery, now: float) -> None:
        self._reports.handle(sender, delivery.body, now)
        if delivery.site:
            # Whoever watches is here; at its own site the KME's exchange is bound to this one.
            self.journal.outbox.publish_once(EVENTS_EXCHANGE, results_queue(sender), delivery.body)

    def give_up(self, delivery: Delivery, error: Exception, now: float) -> None:
        """Dead-letter a message that is not accepted, or that this program failed on."""
        self._dead_letters.reject(delivery, error, now)
        self._refused.append(refusal(error))

    def tick(self, now: float, *, connected: bool, reconnected: bool, away: Collection[str] = ()) -> bool:
        """Fail what is overdue, send the commands of this batch, answer who waits."""
        self._now, self.liveness.away = now, away
        self.relays.note_connection(now, connected=connected, reconnected=reconnected)
        self.liveness.tick(now)
        self.relays.fail_overdue(now)
        self.supply.tick(now)
        self._commands.send()
        self._requests.tick(now)
        self.subscriptions.tick(now)
        if abs(now - self._housekeeping_at.value) >= _HOUSEKEEPING_EVERY_S:
            self._housekeeping_at.value = now
            self._store.purge()
        return False

    def _happened(self, event: str, fields: Mapping[str, object]) -> None:
        self.metrics.happened(event, fields)
        self._attention.happened(event, fields, self._now)

    def committed(self) -> None:
        """Log what happened."""
        self._events.log(self._now)
        for reason in self._refused:
            self.metrics.refused(reason)

    def measure(self) -> None:
        """Set the gauges of the coordinator."""
        store = self._store
        undecided, dead_letters = store.relays.undecided_count(), store.dead_letters.count()
        self.metrics.measured_here(undecided, dead_letters, self.liveness.last_hellos)
        self.metrics.measured_supply(len(self.supply.refills.under_way.all()), self.supply.dry(self._now))
