"""What is logged and counted of requests: each once, whatever became of it, and wherever; never a key."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Final, Literal, get_args
from uuid import UUID

from prometheus_client import Histogram

from kme.applications import Caller
from qkdrelay.service.logs import log_all
from qkdrelay.service.metrics import Metrics
from qkdrelay.service.moderation import Line, Moderator

Kind = Literal["status", "enc_keys", "dec_keys", "none"]
"""Of a request, by its name in the interface; none: what is no call of it."""
Outcome = Literal["ok", "bad_request", "not_allowed", "try_later"]
REQUEST: Final = "application.request"
REFUSED: Final = "application.refused"
_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(slots=True)
class AuditEntry:
    """A request, as far as it is known what it is."""

    kind: Kind = "none"
    caller: Caller | None = None
    other: str = ""
    """The SAE at the other end."""
    keys: list[UUID] = field(default_factory=list)
    """The key_IDs of the keys that were given."""
    began: float = field(default_factory=time.monotonic)


class Audit:
    """Logs and counts the requests of one KME; any thread may call."""

    def __init__(self, kme: str, metrics: Metrics) -> None:
        requests = metrics.counter(
            "qkdrelay_application_requests_total", "Requests of applications, by outcome.", "request", "outcome"
        )
        self._requests = {
            (kind, outcome): requests.labels(kind, outcome) for kind in get_args(Kind) for outcome in get_args(Outcome)
        }
        answered = Histogram(
            "qkdrelay_application_answer_seconds",
            "From a request to its answer.",
            ["request"],
            registry=metrics.registry,
            buckets=_SECONDS,
        )
        self._seconds = {kind: answered.labels(kind) for kind in get_args(Kind)}
        keys = metrics.counter("qkdrelay_application_keys_total", "Keys given to applications.", "request")
        self._keys = {kind: keys.labels(kind) for kind in ("enc_keys", "dec_keys")}
        self._kme, self._moderator, self._lock = kme, Moderator({REFUSED: "sae"}), threading.Lock()

    def __call__(self, asked: AuditEntry, outcome: Outcome, reason: str = "") -> None:
        """Take note of a request that is about to be answered; ``reason`` says why not as it was asked."""
        self._requests[asked.kind, outcome].inc()
        self._seconds[asked.kind].observe(time.monotonic() - asked.began)
        caller = asked.caller or Caller("", "")
        said: dict[str, object] = {
            "request": asked.kind,
            "sae": caller.sae_id,
            "fingerprint": caller.fingerprint,
            "other": asked.other,
        }
        if outcome == "ok":
            if asked.keys:
                self._keys[asked.kind].inc(len(asked.keys))
            said |= {"keys": len(asked.keys), "key_ids": [str(key_id) for key_id in asked.keys]}
            log_all([("debug" if asked.kind == "status" else "info", REQUEST, said)], kme=self._kme)
            return
        line: Line = "info", REFUSED, said | {"outcome": outcome, "reason": reason}
        with self._lock:
            lines = list(self._moderator.passed([line], time.time()))
        log_all(lines, kme=self._kme)
