"""Reports of KMEs: each verified, taken once, and handed to what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from uuid import UUID

from coordinator.lifecycle import Relay
from coordinator.liveness import Liveness
from coordinator.recalls import Recalls
from coordinator.relay_actions import RelayActions
from coordinator.store import CoordinatorStore
from coordinator.store.relays import RELAYS_CACHED
from coordinator.subscriptions import Subscriptions
from coordinator.supply.room import SupplyRoom
from qkdrelay.messages.assignments import Assign, Assigned, AssignRefused, Supplies
from qkdrelay.messages.control import SignedMessage
from qkdrelay.messages.reports import (
    Alarm,
    Collected,
    Done,
    Findings,
    Forwarded,
    Hello,
    Recalled,
    Rejected,
    Report,
    Reports,
    Split,
    Waiting,
)
from qkdrelay.network.names import link_name
from qkdrelay.network.plan import Plan
from qkdrelay.network.topology import Topology
from qkdrelay.network.whereabouts import REFUSED
from qkdrelay.service.batch_events import BatchEvents
from qkdrelay.service.lru import LruCache
from qkdrelay.service.signed_channel import SignedChannel


class ReportHandler:
    """Takes the messages of KMEs, and what they report of relays and shares."""

    def __init__(
        self,
        topology: Topology,
        channels: Mapping[str, SignedChannel],
        store: CoordinatorStore,
        *,
        relays: RelayActions,
        liveness: Liveness,
        subscriptions: Subscriptions,
        supply: SupplyRoom,
        recalls: Recalls,
        events: BatchEvents,
    ) -> None:
        """``channels`` has that to each KME of ``topology``."""
        self._pairs, self._channels, self._store = topology.pairs, channels, store
        self._relays, self._liveness, self._subscriptions, self._events = relays, liveness, subscriptions, events
        self._supply, self._recalls = supply, recalls
        self._batch = store.journal.batch
        self._found: LruCache[tuple[UUID, str], tuple[bytes, int]] = LruCache(RELAYS_CACHED)
        """Epoch and number of the message that said last what was found, by relay and who found it."""

    def handle(self, sender: str, body: bytes, now: float) -> None:
        """Take a message of ``sender``. Raises MalformedMessageError or ForgedMessageError."""
        taken = self._channels[sender].take(body, Reports)
        if taken is None:
            return
        message, reports = taken
        for report in reports.items:
            if not self._is_overtaken(sender, report, message):
                self._take(sender, report, now)

    def _is_overtaken(self, sender: str, report: Report, message: SignedMessage) -> bool:
        """Whether it is a finding that a later one has overtaken: what the broker refused at first comes late.

        Epochs sort by time, and numbers within one. What was found before this start is not compared.
        """
        if not isinstance(report, Findings):
            return False
        about, place = (report.relay_id, sender), (message.epoch, message.number)
        latest = self._found.get(about)
        if latest is not None and latest > place:
            return True
        self._found.keep(about, place)
        forget = partial(self._found.drop, about)
        self._batch.restore(forget if latest is None else partial(self._found.keep, about, latest))
        return False

    def _take(self, sender: str, report: Report, now: float) -> None:
        match report:
            case Hello():
                self._liveness.note(sender, report)
            case Done():
                self._subscriptions.done(sender, report)
            case Alarm():
                # Under a name of its own: a KME must not write the coordinator's events.
                self._events.note("kme.alarm", "error", kme=sender, alarm=report.event, text=report.text)
            case Rejected():
                self._take_rejected(sender, report)
            case Recalled():
                self._recalls.take(sender, report, now)
            case Assign() | Assigned() | AssignRefused() | Supplies():
                self._supply.on_report(sender, report, now)
            case _:
                relay = self._store.relays.get(report.relay_id)
                if relay is None:
                    self._events.note("report.unknown_relay", "warning", kme=sender, relay_id=report.relay_id)
                elif isinstance(report, Split | Forwarded | Collected | Waiting):
                    self._take_step(relay, sender, report)
                elif isinstance(report, Findings) and not _is_about(report, relay.plan):
                    self._events.note("report.misplaced", "warning", kme=sender, relay_id=relay.relay_id)
                else:
                    self._relays.take(relay, sender, report, now)

    def _take_rejected(self, sender: str, report: Rejected) -> None:
        """Log it; and keep that the share did not arrive, if it is known which one it was."""
        if report.link[1] != sender or frozenset(report.link) not in self._pairs:
            self._events.note("report.misplaced", "warning", kme=sender, link=link_name(*report.link))
            return
        link = link_name(*report.link)
        self._events.note("share.rejected", "warning", kme=sender, link=link, reason=report.reason)
        relay = self._store.relays.get(report.relay_id) if report.relay_id is not None else None
        route = report.route
        if relay is not None and route is not None and route[-1] == sender and relay.plan.is_route(route):
            self._store.flow.add_stuck(relay.relay_id, route, f"{REFUSED}{report.reason}")
            self._subscriptions.changed(relay.relay_id)

    def _take_step(self, relay: Relay, sender: str, report: Split | Forwarded | Collected | Waiting) -> None:
        """Keep what became of a share, if it is for the sender to say and the plan has such a route."""
        route, plan, flow = report.route, relay.plan, self._store.flow
        speaker = route[-2] if isinstance(report, Waiting) and len(route) > 1 else route[-1]
        if speaker != sender or not plan.is_route(route):
            self._events.note("report.misplaced", "warning", kme=sender, relay_id=relay.relay_id, route=route)
            return
        if isinstance(report, Waiting):
            flow.add_stuck(relay.relay_id, route, report.reason)
        elif isinstance(report, Split):
            flow.add_step(relay.relay_id, route, "split")
        elif isinstance(report, Forwarded):
            flow.add_step(relay.relay_id, route, "forwarded")
        elif sender == plan.target:
            flow.add_step(relay.relay_id, route, "collected")
        self._subscriptions.changed(relay.relay_id)


def _is_about(findings: Findings, plan: Plan) -> bool:
    """Whether all that was found is on routes of the plan."""
    routes = (*findings.false, *findings.equivocating, *(dispute.split for dispute in findings.disputed))
    disputed = (route for dispute in findings.disputed for group in dispute.sets for route in group)
    return all(map(plan.is_route, (*routes, *disputed)))
