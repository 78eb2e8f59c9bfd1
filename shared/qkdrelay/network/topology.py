"""A network: its KMEs, its QKD links, and what is noted of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal

from qkdrelay.errors import TopologyError
from qkdrelay.network.key_cost import DEFAULT_SUITE, Suite
from qkdrelay.network.names import COORDINATOR, Link
from qkdrelay.network.sites import Site, broker_parts
from qkdrelay.network.toml_file import did_you_mean

Trust = Literal["never", "avoid", "trusted"]
"""A note on a KME: never relay through it, only if there is no other way, or it may be relied upon."""
SourceKind = Literal["simulated", "etsi014"]
"""Where a link's key comes from: computed of a secret, or given by devices over ETSI GS QKD 014."""
RATE_BPS_MIN, RATE_BPS_MAX = 1, 10**12
"""Key that may appear on a link per second and direction, in bit/s."""
BUFFER_BYTES_MIN, BUFFER_BYTES_MAX = 1024, 1 << 34
"""Key that may be kept for each direction."""


RATE_BPS_DEFAULT: Final = 1_000_000
"""Of a link of whose rate the topology says nothing, as a KME has it by default; in each direction."""


@dataclass(frozen=True, slots=True)
class DeviceNote:
    """The device at one end of a link; `qkdrelay.network.devices` has what each may be."""

    url: str
    sae: str
    """The id by which the devices know the KME at this end."""
    server_name: str | None = None
    """The name in the device's certificate, where it is not that of the host."""


@dataclass(frozen=True, slots=True)
class LinkNote:
    """A note on one link; None where it leaves something to the deployment."""

    suite: Suite | None = None
    rate_bps: int | None = None
    """Key that appears per second and direction, in bit/s; of devices what is expected of them."""
    buffer_bytes: int | None = None
    """Key kept for each direction, where it is simulated."""
    source: SourceKind = "simulated"
    serialise: bool | None = None
    """Of devices: whether the two ends draw in turns."""
    ahead_bytes: int | None = None
    """Of devices: key drawn ahead and kept to send with, for each direction."""
    devices: Mapping[str, DeviceNote] = field(default_factory=dict, hash=False)
    """By the KME at each end."""
    keeps_uncollected: bool | None = None
    """Of devices: whether they keep what was drawn and not fetched when more is drawn."""

    def settings(self, kme: str, peer: str) -> dict[str, str | int]:
        """Return the settings that it makes of the link with ``peer`` at ``kme``, by name, as that KME reads them."""
        said: dict[str, str | int | None]
        if self.source == "simulated":
            said = {"suite": self.suite, "rate_bps": self.rate_bps, "buffer_bytes": self.buffer_bytes}
        else:
            here = self.devices[kme]
            said = {
                "source": self.source,
                "suite": self.suite,
                "rate_bps": self.rate_bps,
                "url": here.url,
                "peer_sae": self.devices[peer].sae,
                "server_name": here.server_name,
                "serialise": self.serialise,
                "keeps_uncollected": self.keeps_uncollected,
                "ahead_bytes": self.ahead_bytes,
            }
        return {name: value for name, value in said.items() if value is not None}


NOTHING_NOTED = LinkNote()


@dataclass(frozen=True)
class Topology:
    """A network: its KMEs and its QKD links (undirected, each named once), and what is noted of them."""

    name: str
    kmes: tuple[str, ...]
    links: tuple[Link, ...]
    link_notes: Mapping[Link, LinkNote] = field(default_factory=dict, hash=False)
    """For links the file says more about, named as in ``links``."""
    trust: Mapping[str, Trust] = field(default_factory=dict, hash=False)
    """For KMEs with a note."""
    saes: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The KME of each SAE."""
    sites: Mapping[str, Site] = field(default_factory=dict, hash=False)
    """By name; without any there is one for all."""
    coordinator: str = ""
    """The site that the coordinator is at."""

    @cached_property
    def site_of(self) -> Mapping[str, str]:
        """For each KME its site, if there are several."""
        return {kme: name for name, site in self.sites.items() for kme in site.kmes}

    def elsewhere(self, site: str) -> dict[str, str]:
        """Return the sites of those KMEs, and of the coordinator, that are not at this one."""
        all_of_them = {**self.site_of, COORDINATOR: self.coordinator}
        return {who: where for who, where in all_of_them.items() if where != site}

    @cached_property
    def neighbours(self) -> Mapping[str, tuple[str, ...]]:
        """For each KME its neighbours, in the order of the file's KMEs."""
        near: dict[str, set[str]] = {kme: set() for kme in self.kmes}
        for a, b in self.links:
            near[a].add(b)
            near[b].add(a)
        return {kme: tuple(k for k in self.kmes if k in near[kme]) for kme in self.kmes}

    @cached_property
    def pairs(self) -> frozenset[frozenset[str]]:
        """The two KMEs of each link, in no order."""
        return frozenset(map(frozenset, self.links))

    def require(self, kme: str) -> str:
        """Return ``kme`` if it is in this network; else raise TopologyError with the nearest name as hint."""
        if kme in self.neighbours:
            return kme
        raise TopologyError(f"there is no KME {kme!r} in network {self.name}", hint=did_you_mean(kme, self.kmes))

    def link(self, a: str, b: str) -> Link:
        """Return the QKD link between ``a`` and ``b`` as the file writes it; raise TopologyError if there is none."""
        self.require(a)
        self.require(b)
        for link in self.links:
            if set(link) == {a, b}:
                return link
        near = ", ".join(self.neighbours[a])
        raise TopologyError(f"there is no QKD link between {a} and {b}", hint=f"{a} is linked to {near}")

    def note(self, a: str, b: str) -> LinkNote:
        """Return what the file says of the link between ``a`` and ``b``, in either order."""
        return self.link_notes.get((a, b)) or self.link_notes.get((b, a)) or NOTHING_NOTED

    def links_of(self, source: SourceKind) -> tuple[Link, ...]:
        """Return the links that have their key from there."""
        return tuple(link for link in self.links if self.note(*link).source == source)

    def suite(self, link: Link) -> Suite:
        """Return what a link is sealed with, as far as the file says; the default else."""
        return self.note(*link).suite or DEFAULT_SUITE

    def noted(self, trust: Trust) -> frozenset[str]:
        """Return the KMEs with this note."""
        return frozenset(kme for kme, note in self.trust.items() if note == trust)

    def hops_to(self, target: str) -> dict[str, int]:
        """Return for each KME that can reach ``target`` its distance in hops."""
        hops = {target: 0}
        queue = deque([target])
        while queue:
            kme = queue.popleft()
            for near in self.neighbours[kme]:
                if near not in hops:
                    hops[near] = hops[kme] + 1
                    queue.append(near)
        return hops


def one_site_each(topology: Topology) -> Topology:
    """Return the network with a site for each KME, named as that, as is its broker's host; the first one's leads.

    TopologyError for a KME whose name no host can have.
    """
    if unfit := [kme for kme in topology.kmes if broker_parts(kme) is None]:
        raise TopologyError(f"no host can be called {unfit[0]!r}", hint="say in [sites] where the sites' brokers are")
    sites = {kme: Site((kme,), kme) for kme in topology.kmes}
    return replace(topology, sites=sites, coordinator=topology.kmes[0])


def rate_of(topology: Topology, link: Link) -> float:
    """Return the rate of a directed link, in bit/s, as it is noted or as a KME has it by default."""
    return float(topology.note(*link).rate_bps or RATE_BPS_DEFAULT)
