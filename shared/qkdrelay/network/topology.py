"""What is linked to what: a network of KMEs, read from a TOML file."""

from __future__ import annotations

import difflib
import tomllib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from qkdrelay.errors import TopologyError
from qkdrelay.network.plan import KME_NAME, KMES_MAX

TOPOLOGY_BYTES_MAX = 1 << 20
REFERENCE = "eight-kmes"


@dataclass(frozen=True)
class Topology:
    """A network: its KMEs and its QKD links (undirected, each named once)."""

    name: str
    kmes: tuple[str, ...]
    links: tuple[tuple[str, str], ...]

    @cached_property
    def neighbours(self) -> Mapping[str, tuple[str, ...]]:
        """For each KME its neighbours, in the order of the file's KMEs."""
        near: dict[str, set[str]] = {kme: set() for kme in self.kmes}
        for a, b in self.links:
            near[a].add(b)
            near[b].add(a)
        return {kme: tuple(k for k in self.kmes if k in near[kme]) for kme in self.kmes}

    def require(self, kme: str) -> str:
        """Return ``kme`` if it is in this network; else raise TopologyError with the nearest name as hint."""
        if kme in self.neighbours:
            return kme
        raise TopologyError(f"there is no KME {kme!r} in network {self.name}", hint=_did_you_mean(kme, self.kmes))

    def link(self, a: str, b: str) -> tuple[str, str]:
        """Return the QKD link between ``a`` and ``b`` as the file writes it; raise TopologyError if there is none."""
        self.require(a)
        self.require(b)
        for link in self.links:
            if set(link) == {a, b}:
                return link
        near = ", ".join(self.neighbours[a])
        raise TopologyError(f"there is no QKD link between {a} and {b}", hint=f"{a} is linked to {near}")

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


def load_topology(path: Path) -> Topology:
    """Read a topology file; raise TopologyError naming file, entry and what would be right."""
    try:
        if path.stat().st_size > TOPOLOGY_BYTES_MAX:
            raise TopologyError(f"{path}: larger than {TOPOLOGY_BYTES_MAX} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise TopologyError(f"{path}: cannot be read: {reason}") from None
    return parse_topology(text, str(path))


def parse_topology(text: str, where: str) -> Topology:
    """Parse a topology's TOML; ``where`` names its origin in errors (TopologyError)."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TopologyError(f"{where}: not valid TOML: {error}") from None
    for key in data:
        if key not in ("name", "kmes", "links"):
            hint = _did_you_mean(key, ("name", "kmes", "links"))
            raise TopologyError(f"{where}: unknown entry {key!r}", hint=hint)
    name, kmes, links = data.get("name"), data.get("kmes"), data.get("links")
    if not isinstance(name, str) or not name:
        raise TopologyError(f"{where}: 'name' must be a text", hint='name = "my-network"')
    if not isinstance(kmes, list) or not 2 <= len(kmes) <= KMES_MAX:
        raise TopologyError(f"{where}: 'kmes' must be a list of 2 to {KMES_MAX} names")
    if not isinstance(links, list):
        raise TopologyError(f"{where}: 'links' must be a list of pairs", hint='links = [["kme-1", "kme-2"]]')
    return Topology(name, _names(kmes, where), _pairs(links, kmes, where))


def _names(kmes: list[object], where: str) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for kme in kmes:
        if not isinstance(kme, str) or not KME_NAME.fullmatch(kme):
            raise TopologyError(f"{where}: {kme!r} is no KME name", hint="1 to 32 of a-z, 0-9 and '-'")
        if kme in names:
            raise TopologyError(f"{where}: KME {kme!r} is named twice")
        if kme in RESERVED_NAMES:
            raise TopologyError(f"{where}: {kme!r} is reserved for the broker's own users", hint="choose another name")
        names[kme] = None
    return tuple(names)


RESERVED_NAMES = frozenset({"coordinator", "cli", "operator"})


def _pairs(links: list[object], kmes: list[object], where: str) -> tuple[tuple[str, str], ...]:
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for number, link in enumerate(links, 1):
        if not isinstance(link, list) or len(link) != 2 or not all(isinstance(end, str) for end in link):
            raise TopologyError(f"{where}: link {number} ({link!r}) is not a pair of KME names")
        a, b = link
        for end in (a, b):
            if end not in kmes:
                hint = _did_you_mean(end, [k for k in kmes if isinstance(k, str)])
                raise TopologyError(f"{where}: link {number} ends in {end!r}, which is not in 'kmes'", hint=hint)
        if a == b:
            raise TopologyError(f"{where}: link {number} joins {a!r} to itself")
        if frozenset((a, b)) in pairs:
            raise TopologyError(f"{where}: the link between {a!r} and {b!r} is named twice (link {number})")
        pairs[frozenset((a, b))] = (a, b)
    return tuple(pairs.values())


def _did_you_mean(name: str, names: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return (
        f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
    )


def reference_topology() -> Topology:
    """Return the eight-KME reference network."""
    where = _topologies() / f"{REFERENCE}.toml"
    return parse_topology(where.read_text(encoding="utf-8"), str(where))


def _topologies() -> Traversable:
    """Return the folder of topology files: inside the installed package, or infra/ in a source tree."""
    packaged = resources.files("qkdrelay.network") / "topologies"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "infra" / "topologies"
