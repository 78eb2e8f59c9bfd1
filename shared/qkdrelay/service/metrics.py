"""Metrics that every service has, for Prometheus.

Labels name KMEs, links, queues and outcomes, all bounded in number; never a relay, never a secret. Counters grow
where the logs are written: after the commit, so that what was rolled back is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

from qkdrelay.broker.port import Received
from qkdrelay.errors import ForgedMessageError, MalformedMessageError, NumberReusedError, QkdRelayError
from qkdrelay.service.tls_files import expiry
from qkdrelay.storage.database import Sizes

# When a counter began would double the page, and who scrapes sees it start at 0.
disable_created_metrics()  # type: ignore[no-untyped-call]

_REFUSALS: Final[Mapping[type[Exception], str]] = {
    NumberReusedError: "number_reused",
    ForgedMessageError: "forged",
    MalformedMessageError: "malformed",
    QkdRelayError: "unfit",
    Exception: "failed",
}
"""Reasons why messages are not accepted, by the error: the first that fits."""


class Metrics:
    """The metrics of one service, in a registry of their own: several services may run in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.connected = self.gauge(
            "qkdrelay_broker_connected", "Whether the broker is there in both directions (1) or not (0)."
        )
        self._blocked = self.gauge(
            "qkdrelay_broker_blocked", "Whether the broker takes nothing for want of memory or disk (1) or does (0)."
        )
        self._refused = self.gauge(
            "qkdrelay_broker_refused",
            "1 for each queue or exchange that is missing or refused, and routing key to which nothing is bound.",
            "name",
        )
        self._refused_names: set[str] = set()
        self._nodes = self.gauge("qkdrelay_broker_nodes", "Nodes of the broker, each of which should have every queue.")
        self._version = self.gauge("qkdrelay_broker_info", "1, by the version of the broker.", "version")
        self._version_seen = ""
        self._site_reachable = self.gauge(
            "qkdrelay_site_reachable", "Whether the broker of another site can be read (1) or not (0).", "site"
        )
        self._site_connections = self.counter(
            "qkdrelay_site_connections_total", "Times that the broker of another site was connected to.", "site"
        )
        self._connections_before: dict[str, int] = {}
        self._certificate_until = self.gauge(
            "qkdrelay_certificate_until_timestamp_seconds",
            "When a certificate expires by which other sites know this one; 0 if it cannot be read.",
            "certificate",
        )
        self.reconnects = self.counter(
            "qkdrelay_broker_reconnects_total", "Times the connection to the broker was made anew."
        )
        self.store_failures = self.counter(
            "qkdrelay_store_failures_total", "Batches that the store did not take, on a full disk for example."
        )
        self._log_lost = self.counter(
            "qkdrelay_log_lines_lost_total", "Log lines that were not written: disk full, reader gone or too slow."
        )
        self._log_lost_before = 0
        self._store_free = self.gauge("qkdrelay_store_free_bytes", "Free space where the store is.")
        self._store_log = self.gauge(
            "qkdrelay_store_log_bytes", "The store's write-ahead log, which a reader that does not let go has grow."
        )
        self._messages_refused = counters(
            self.counter("qkdrelay_messages_refused_total", "Messages that were not accepted, by reason.", "reason"),
            _REFUSALS.values(),
        )
        self._messages_held = self.gauge(
            "qkdrelay_messages_held", "Messages of a later protocol version that wait here, by queue.", "queue"
        )
        self._outbox_messages = self.gauge(
            "qkdrelay_outbox_messages", "Messages stored and not yet taken over by the broker, by queue.", "queue"
        )
        self._outbox_bytes = self.gauge(
            "qkdrelay_outbox_bytes", "Bytes stored and not yet taken over by the broker, by queue.", "queue"
        )
        self._epochs = self.gauge(
            "qkdrelay_stream_epochs", "Epochs remembered of who sends here, one a connection.", "stream"
        )

    def watch_certificate(self, file: Path) -> None:
        """Tell, whenever somebody asks, when the certificate in a file expires: it may have been renewed."""
        self._certificate_until.labels(file.parent.name).set_function(lambda: expiry(file))

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Return a new counter."""
        return Counter(name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Return a new gauge."""
        return Gauge(name, text, labels, registry=self.registry)

    def refused(self, reason: str) -> None:
        """Count a message that was not accepted, for a ``reason`` of `refusal`."""
        self._messages_refused[reason].inc()

    def _set_broker(self, broker: Received) -> None:
        self.connected.set(broker.connected)
        self._blocked.set(bool(broker.blocked))
        self._nodes.set(broker.nodes)
        names = {*broker.refused, *broker.unrouted}
        for name in self._refused_names - names:
            self._refused.remove(name)
        for name in names:
            self._refused.labels(name).set(1)
        self._refused_names = names
        for site, state in broker.sites.items():
            self._site_reachable.labels(site).set(not state.away)
            before = self._connections_before.get(site, 0)
            self._site_connections.labels(site).inc(max(0, state.connections - before))
            self._connections_before[site] = state.connections
        if broker.version != self._version_seen:
            self._version_seen = broker.version
            self._version.clear()
            self._version.labels(broker.version).set(1)

    def measured(
        self,
        *,
        broker: Received,
        held: Mapping[str, int],
        store: Sizes | None,
        outbox: Mapping[str, tuple[int, int]],
        epochs: Mapping[str, int],
        log_lines_lost: int,
    ) -> None:
        """Set what every service has; messages held and (messages, bytes) of the outbox by queue, epochs by stream."""
        self._set_broker(broker)
        for queue, number in held.items():
            self._messages_held.labels(queue).set(number)
        self._log_lost.inc(max(0, log_lines_lost - self._log_lost_before))
        self._log_lost_before = log_lines_lost
        if store is not None:
            self._store_free.set(store.free)
            self._store_log.set(store.log)
        for queue, (messages, size) in outbox.items():
            self._outbox_messages.labels(queue).set(messages)
            self._outbox_bytes.labels(queue).set(size)
        for stream, number in epochs.items():
            self._epochs.labels(stream).set(number)


def counters(counter: Counter, values: Iterable[str]) -> dict[str, Counter]:
    """Return the counter of each of its one label's values, all from 0: a rate needs a beginning."""
    return {value: counter.labels(value) for value in values}


def refusal(error: Exception) -> str:
    """Return the reason why a message was not accepted, as it is counted."""
    return next(reason for kind, reason in _REFUSALS.items() if isinstance(error, kind))
