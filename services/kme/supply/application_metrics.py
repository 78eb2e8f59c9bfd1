"""The metrics of keys for applications at a KME; labels name KMEs, reasons and outcomes, never an SAE or a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, get_args

from prometheus_client import Histogram

from kme.applications import ApplicationError, BadRequestError, NotAllowedError
from kme.supply.burning import Burned
from qkdrelay.messages.assignments import OutgoingSupply
from qkdrelay.service.metrics import Metrics

Kind = Literal["status", "enc_keys", "dec_keys"]
"""Of a question, by its name in the interface."""
Outcome = Literal["ok", "bad_request", "not_allowed", "try_later"]
_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def outcome_of(result: object) -> Outcome:
    """Return how an answer is called."""
    if not isinstance(result, ApplicationError):
        return "ok"
    if isinstance(result, BadRequestError):
        return "bad_request"
    return "not_allowed" if isinstance(result, NotAllowedError) else "try_later"


class ApplicationMetrics:
    """What is counted and measured of keys for applications, among the ``metrics`` of a KME."""

    def __init__(self, metrics: Metrics) -> None:
        requests = metrics.counter(
            "qkdrelay_application_requests_total", "Requests of applications, by outcome.", "request", "outcome"
        )
        self._requests = {
            (kind, outcome): requests.labels(kind, outcome) for kind in get_args(Kind) for outcome in get_args(Outcome)
        }
        answered = Histogram(
            "qkdrelay_application_answer_seconds",
            "From a request's arrival at the KME's loop to its answer.",
            ["request"],
            registry=metrics.registry,
            buckets=_SECONDS,
        )
        self._seconds = {kind: answered.labels(kind) for kind in get_args(Kind)}
        keys = metrics.counter("qkdrelay_application_keys_total", "Keys given to applications.", "request")
        self._keys = {kind: keys.labels(kind) for kind in ("enc_keys", "dec_keys")}
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

    def answered(self, kind: Kind, outcome: Outcome, seconds: float, keys: int) -> None:
        """Count a request, and how long its answer took."""
        self._requests[kind, outcome].inc()
        self._seconds[kind].observe(seconds)
        if keys:
            self._keys[kind].inc(keys)

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
