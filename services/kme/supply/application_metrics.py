"""The metrics of keys for applications at a KME; labels name KMEs, reasons and outcomes, never an SAE or a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kme.supply.burning import Burned
from qkdrelay.messages.assignments import OutgoingSupply
from qkdrelay.service.metrics import Metrics


class ApplicationMetrics:
    """What is counted and measured of keys for applications, among the ``metrics`` of a KME."""

    def __init__(self, metrics: Metrics) -> None:
        self._in_vain = metrics.counter(
            "qkdrelay_application_waits_in_vain_total", "Requests that waited for keys and got none."
        )
        self._burned = metrics.counter(
            "qkdrelay_supply_burned_bytes_total", "Supply and ready keys that nobody was given, by reason.", "reason"
        )
        self._waiting = metrics.gauge("qkdrelay_application_requests_waiting", "Requests that wait for keys.")
        self._stored = metrics.gauge(
            "qkdrelay_supply_bytes", "Supply by the KME at the other end: confirmed, or not yet.", "target", "state"
        )
        self._ready = metrics.gauge("qkdrelay_ready_keys", "Keys that can be handed out at once.", "target")
        self._ready_bytes = metrics.gauge("qkdrelay_ready_bytes", "Bytes of keys that can be handed out.", "target")
        self._unsettled = metrics.gauge("qkdrelay_assignments_unsettled", "Assignments that are not answered.")
        self._seen: set[str] = set()

    def waited_in_vain(self) -> None:
        """Count a request that waited, and got nothing."""
        self._in_vain.inc()

    def burned(self, burned: Iterable[Burned]) -> None:
        """Count what was burned."""
        for each in burned:
            self._burned.labels(each.why).inc(each.length)

    def measured(
        self, outgoing: Iterable[OutgoingSupply], ready: Mapping[str, tuple[int, int]], waiting: int, unsettled: int
    ) -> None:
        """Set the gauges; ``ready`` has keys and bytes by target."""
        self._waiting.set(waiting)
        self._unsettled.set(unsettled)
        stored: dict[str, tuple[int, int]] = {}
        for each in outgoing:
            confirmed, pending = stored.get(each.target, (0, 0))
            stored[each.target] = confirmed + each.stored_bytes, pending + each.pending_bytes
        for target in self._seen | stored.keys() | ready.keys():
            confirmed, pending = stored.get(target, (0, 0))
            self._stored.labels(target, "confirmed").set(confirmed)
            self._stored.labels(target, "pending").set(pending)
            keys, length = ready.get(target, (0, 0))
            self._ready.labels(target).set(keys)
            self._ready_bytes.labels(target).set(length)
        self._seen |= stored.keys() | ready.keys()
