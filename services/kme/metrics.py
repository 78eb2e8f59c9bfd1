"""The metrics of a KME."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from qkdrelay.messages.reports import LinkReport
from qkdrelay.network.names import link_name
from qkdrelay.service.metrics import Metrics, counters

SHARE_OUTCOMES: Final = (
    "split",
    "forwarded",
    "sent",
    "collected",
    "early",
    "late",
    "duplicate",
    "equivocating",
    "waiting",
    "redelivered",
    "rejected",
    "dropped",
    "expired",
)
RELAY_STATES: Final = ("expected", "started", "rebuilt", "confirmed", "failed", "refused")


class KmeMetrics(Metrics):
    """The metrics of the KME called ``name`` with links to ``peers``; a link's label is its direction, ``a>b``."""

    def __init__(self, name: str, peers: Collection[str]) -> None:
        super().__init__()
        self._name = name
        shares = self.counter("qkdrelay_kme_shares_total", "Shares by what became of them here.", "outcome")
        relays = self.counter("qkdrelay_kme_relays_total", "Relays that start or end here, by state reached.", "state")
        self._events = {f"share.{key}": child for key, child in counters(shares, SHARE_OUTCOMES).items()}
        self._events |= {f"relay.{key}": child for key, child in counters(relays, RELAY_STATES).items()}
        self._pending = self.gauge("qkdrelay_kme_relays_pending", "Relays that start or end here and are undecided.")
        lost = self.counter(
            "qkdrelay_application_keys_lost_total", "Keys that no slave will fetch here, by what became of them.", "why"
        )
        self._lost = {f"keys.{key}": child for key, child in counters(lost, ("expired", "destroyed")).items()}
        drawn = self.counter("qkdrelay_link_key_drawn_bytes_total", "Link key used for sealing.", "link")
        self._drawn = {peer: drawn.labels(link_name(name, peer)) for peer in peers}
        self._key_left = self.gauge("qkdrelay_link_key_available_bytes", "Link key that can be used now.", "link")
        self._rate = self.gauge("qkdrelay_link_key_rate_bps", "Link key that comes, in bit/s.", "link")
        self._gives = self.gauge("qkdrelay_link_key_source_up", "Whether there is link key to be had (1).", "link")
        self._granted = self.gauge(
            "qkdrelay_link_key_blocks_granted", "Blocks of link key granted since the start.", "link"
        )
        self._given_up = self.gauge(
            "qkdrelay_link_key_given_up", "Times since the start that link key was given up unused.", "link"
        )
        self._up = self.gauge("qkdrelay_link_up", "Whether the QKD link carries (1) or was told not to (0).", "link")
        self._waiting = self.gauge("qkdrelay_link_shares_waiting", "Shares that wait for their link.", "link")

    def happened(self, event: str, fields: Mapping[str, object]) -> None:
        """Count what was logged, if it is the outcome of a share, a relay's state, or the end of keys."""
        if (counter := self._events.get(event)) is not None:
            counter.inc()
        elif (counter := self._lost.get(event)) is not None and isinstance(keys := fields.get("keys"), int):
            counter.inc(keys)

    def drew(self, peer: str, length: int) -> None:
        """Count link key used."""
        self._drawn[peer].inc(length)

    def measured_here(self, pending: int, links: Iterable[LinkReport]) -> None:
        """Set the gauges."""
        self._pending.set(pending)
        for link in links:
            name = link_name(self._name, link.peer)
            self._key_left.labels(name).set(link.available_bytes)
            self._rate.labels(name).set(link.rate_bps)
            self._gives.labels(name).set(not link.key.why_dry)
            self._granted.labels(name).set(link.key.blocks_granted)
            self._given_up.labels(name).set(link.key.blocks_given_up)
            self._up.labels(name).set(link.up)
            self._waiting.labels(name).set(link.waiting)
