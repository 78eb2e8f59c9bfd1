"""What the coordinator answers of its network: KMEs, links and sites as it knows them."""

from __future__ import annotations

from qkdrelay.messages.fields import Message, Name, Number, OffsetSeconds, Seconds, Text
from qkdrelay.messages.reports import LinkReport
from qkdrelay.messages.states import LabMode
from qkdrelay.network.key_cost import Suite
from qkdrelay.network.topology import LinkNote, Topology, Trust


class KmeView(Message, frozen=True):
    """A KME as its last `Hello` described it."""

    name: Name
    trust: Trust | None
    """The topology's note of it."""
    heard_s_ago: Seconds | None
    clock_off_s: OffsetSeconds | None
    """How far its clock was ahead of the coordinator's when it was heard, in seconds; less than nothing: behind."""
    version: Text
    """Of the program, as it says itself; empty until it is heard."""
    lab: bool
    lab_mode: LabMode | None
    pending: Number
    links: tuple[LinkReport, ...]


class SiteView(Message, frozen=True):
    """A site of the network, and who cannot read there now, though there is something for it."""

    name: Name
    kmes: tuple[Name, ...]
    broker: Text
    has_coordinator: bool
    away_from: tuple[Name, ...]
    """KMEs, as they said last, and the coordinator."""


class NotedLink(Message, frozen=True):
    """A `LinkNote` of the topology, on the link between ``a`` and ``b``."""

    a: Name
    b: Name
    suite: Suite | None
    rate_bps: Number | None
    buffer_bytes: Number | None


class NetworkView(Message, frozen=True, tag="network", tag_field="type"):
    """The network as the coordinator knows it."""

    name: Text
    lab: bool
    kmes: tuple[KmeView, ...]
    links: tuple[tuple[Name, Name], ...]
    noted: tuple[NotedLink, ...]
    down: tuple[tuple[Name, Name], ...]
    sites: tuple[SiteView, ...] = ()
    """None where there is one for all."""

    def topology(self) -> Topology:
        """Return the network that it shows."""
        return Topology(
            self.name,
            tuple(kme.name for kme in self.kmes),
            self.links,
            {(link.a, link.b): LinkNote(link.suite, link.rate_bps, link.buffer_bytes) for link in self.noted},
            {kme.name: kme.trust for kme in self.kmes if kme.trust},
        )
