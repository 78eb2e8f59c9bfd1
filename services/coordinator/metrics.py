"""The coordinator's metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, get_args

from prometheus_client import Histogram

from coordinator.lead import Lead
from qkdrelay.messages.reports import Hello
from qkdrelay.messages.states import TERMINAL, RelayState
from qkdrelay.network.names import COORDINATOR
from qkdrelay.service.metrics import Metrics, counters

DECISION_BUCKETS_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
BROKER: Final = "broker"
"""The label of a message that no service gave up."""


class CoordinatorMetrics(Metrics):
    """The metrics of the coordinator of a network."""

    def __init__(self, neighbours: Mapping[str, Collection[str]]) -> None:
        """``neighbours`` has those of each KME, by the coordinator's topology."""
        super().__init__()
        self._neighbours, kmes = neighbours, neighbours.keys()
        relays = self.counter("qkdrelay_coordinator_relays_total", "Relays by state reached.", "state")
        self._relays = counters(relays, get_args(RelayState))
        self._undecided = self.gauge("qkdrelay_coordinator_relays_undecided", "Relays under way.")
        self._decision = Histogram(
            "qkdrelay_coordinator_decision_seconds",
            "Time from a relay's acceptance to its decision.",
            ["state"],
            buckets=DECISION_BUCKETS_S,
            registry=self.registry,
        )
        for state in TERMINAL:
            self._decision.labels(state)
        dead_letters = self.counter(
            "qkdrelay_coordinator_dead_letters_total", "Messages nobody accepted, by who gave them up.", "kme"
        )
        self._dead_letters = counters(dead_letters, (*kmes, COORDINATOR, BROKER))
        self._dead_letters_kept = self.gauge("qkdrelay_coordinator_dead_letters_kept", "Dead letters kept.")
        alarms = self.counter("qkdrelay_coordinator_alarms_total", "Alarms that KMEs raised.", "kme")
        self._alarms = counters(alarms, kmes)
        self._refills = self.gauge("qkdrelay_coordinator_refills_under_way", "Relays of supply that are under way.")
        self._dry = self.gauge(
            "qkdrelay_coordinator_supplies_dry", "Pairs of KMEs, by level, where requests wait and no supply is stored."
        )
        self._last_hello = self.gauge(
            "qkdrelay_coordinator_kme_heard_timestamp_seconds", "When a KME last said hello; 0 for not yet.", "kme"
        )
        self._skew = self.gauge(
            "qkdrelay_coordinator_kme_clock_skew_seconds", "How far a KME's clock is ahead of the coordinator's.", "kme"
        )
        self._info = self.gauge(
            "qkdrelay_coordinator_kme_info", "1, by the version that a KME says it is of.", "kme", "version"
        )
        self._links_missing = self.gauge(
            "qkdrelay_coordinator_kme_links_missing", "QKD links that a KME which was heard says nothing of.", "kme"
        )
        self._leads = self.gauge("qkdrelay_coordinator_leads", "Whether this coordinator leads (1) or waits (0).")
        self._versions: dict[str, str] = {}
        for kme in kmes:
            self._last_hello.labels(kme).set(0)

    def happened(self, event: str, fields: Mapping[str, object]) -> None:
        """Count what was logged, if it is one of a few events."""
        kind, _, what = event.partition(".")
        if kind == "relay" and what in self._relays:
            self._relays[what].inc()
            if isinstance(seconds := fields.get("seconds"), float):
                self._decision.labels(what).observe(seconds)
        elif event == "message.rejected":
            self._dead_letters[COORDINATOR].inc()
        elif event == "message.dead_lettered":
            self._dead_letters.get(str(fields["kme"]), self._dead_letters[BROKER]).inc()
        elif event == "kme.alarm":
            self._alarms[str(fields["kme"])].inc()

    def measured_supply(self, refills: int, dry: int) -> None:
        """Set the gauges of keys for applications."""
        self._refills.set(refills)
        self._dry.set(dry)

    def measured_here(self, undecided: int, dead_letters: int, last_hellos: Mapping[str, tuple[float, Hello]]) -> None:
        """Set the gauges of who leads; ``last_hellos`` has the time and text of each KME's last, of its own links."""
        self._leads.set(1)
        self._undecided.set(undecided)
        self._dead_letters_kept.set(dead_letters)
        for kme, (at, hello) in last_hellos.items():
            self._last_hello.labels(kme).set(at)
            self._skew.labels(kme).set(hello.clock - at)
            self._links_missing.labels(kme).set(len(self._neighbours[kme]) - len(hello.links))
            if (before := self._versions.get(kme)) != hello.version:
                if before is not None:
                    self._info.remove(kme, before)
                self._versions[kme] = hello.version
                self._info.labels(kme, hello.version).set(1)


def watch_lead(metrics: Metrics, lead: Lead) -> None:
    """Have ``metrics`` say, of a coordinator that leads, since when no other is heard to wait."""
    alone = metrics.gauge(
        "qkdrelay_coordinator_alone_seconds", "While it leads: seconds since another that waits was heard; else 0."
    )
    alone.set_function(lead.alone_s)
