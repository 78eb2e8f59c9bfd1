"""A KME's words: reports to the coordinator, its own log, its metrics; nothing of a batch leaves before the commit."""

from __future__ import annotations

import math

from kme.metrics import KmeMetrics
from qkdrelay.broker.names import control_queue, dead_key, kme_exchange, parse_link_queue, results_queue
from qkdrelay.broker.port import Delivery
from qkdrelay.errors import NumberReusedError, QkdRelayError
from qkdrelay.messages import codec
from qkdrelay.messages.link import ShareHeader
from qkdrelay.messages.reports import (
    DEAD_LETTER_BODY_MAX,
    REPORTS_MAX,
    URGENT,
    Alarm,
    DeadLetter,
    Rejected,
    Report,
    Reports,
)
from qkdrelay.network.names import link_name
from qkdrelay.service.batch import BatchDict
from qkdrelay.service.batch_events import BatchEvents
from qkdrelay.service.events import event_name, log_fields, log_level
from qkdrelay.service.journal import Journal
from qkdrelay.service.metrics import refusal
from qkdrelay.service.moderation import WINDOW_S
from qkdrelay.service.signed_channel import SignedChannel

_OF_OTHERS = {
    "share.rejected": "link",
    "command.rejected": "queue",
    "command.overtaken": "queue",
    "link.number_reused": "link",
    "link.key_given_up": "link",
    "link.key_dry": "link",
    "link.key_back": "link",
}
"""Events that who is at the broker, or the coordinator, causes, and what each is about."""
_TEXT_MAX = 500


class Reporting:
    """Reports, log events and refused messages of a batch."""

    def __init__(self, name: str, journal: Journal, channel: SignedChannel, metrics: KmeMetrics) -> None:
        """``channel`` is that with the coordinator."""
        self._name, self._journal, self._channel, self._metrics = name, journal, channel, metrics
        batch = journal.batch
        self._reports: list[Report] = batch.scratch([])
        self._events = BatchEvents(batch, _OF_OTHERS, metrics.happened, kme=name)
        self.note = self._events.note
        """Logs an event, and reports nothing."""
        self._refusals: list[str] = batch.scratch([])
        self._alarmed_at: dict[tuple[str, str], float] = BatchDict(batch)
        """When the coordinator was last told of an event about a link."""
        self._now = 0.0

    def report(self, report: Report) -> None:
        """Report to the coordinator, and log the same."""
        self._reports.append(report)
        self.note(event_name(report), log_level(report), **log_fields(report))

    def reject(self, delivery: Delivery, error: Exception, header: ShareHeader | None, now: float) -> None:
        """Dead-letter a message with its reason, in the transaction that lets it be acknowledged.

        ``header`` is that of a share whose seal was good.
        """
        foreseen = isinstance(error, QkdRelayError)
        reason = str(error) if foreseen else f"could not be handled ({type(error).__name__})"
        cut = reason[:_TEXT_MAX]
        body = delivery.body[:DEAD_LETTER_BODY_MAX]
        letter = DeadLetter(kme=self._name, queue=delivery.queue, reason=cut, at=now, body=body)
        self._refusals.append(refusal(error))
        self._journal.outbox.put(kme_exchange(self._name), dead_key(self._name), codec.encode(letter))
        if delivery.queue == control_queue(self._name):
            self.note("command.rejected", "error", queue=delivery.queue, reason=reason)
            return
        link = parse_link_queue(delivery.queue)
        if isinstance(error, NumberReusedError):
            self.alarm("link.number_reused", link_name(*link), str(error), now)
        relay_id, route = (None, None) if header is None else (header.relay_id, header.route)
        self.report(Rejected(relay_id=relay_id, route=route, link=link, reason=cut))

    def alarm(self, event: str, link: str, text: str, now: float) -> None:
        """Raise an alarm; to the coordinator not more often than it takes for no link's to crowd out another's."""
        self.note(event, "error", link=link, text=text[:_TEXT_MAX])
        if abs(now - self._alarmed_at.get((event, link), -math.inf)) >= WINDOW_S:
            self._alarmed_at[event, link] = now
            self._reports.append(Alarm(event=event, text=f"link {link}: {text}"[:_TEXT_MAX]))

    def send(self, now: float) -> None:
        """Put all reports of the batch into as few messages as fit."""
        self._now = now
        if not self._reports:
            return
        urgent = any(isinstance(report, URGENT) for report in self._reports)
        for start in range(0, len(self._reports), REPORTS_MAX):
            body = Reports(items=tuple(self._reports[start : start + REPORTS_MAX]))
            for signed in self._channel.sign(body):
                exchange, key = kme_exchange(self._name), results_queue(self._name)
                self._journal.outbox.put(exchange, key, signed, urgent=urgent)
        self._reports.clear()

    def say_once(self, *reports: Report) -> None:
        """Tell the coordinator how things are now, at most once: what is read later would not be true any more."""
        for report in reports:
            self.note(event_name(report), log_level(report), **log_fields(report))
        for signed in self._channel.sign(Reports(items=reports)) if reports else ():
            self._journal.outbox.publish_once(kme_exchange(self._name), results_queue(self._name), signed)

    def committed(self) -> None:
        """Log and count what happened."""
        self._events.log(self._now)
        for reason in self._refusals:
            self._metrics.refused(reason)
