"""Files of topologies: TOML, read with errors that name the line, and written."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import get_args

from qkdrelay.errors import TopologyError
from qkdrelay.network.link_notes import note_text, parse_note
from qkdrelay.network.names import KME_NAME, KME_NAME_RULE, SAE_ID, SAE_ID_RULE, SERVICE_USERS, Link
from qkdrelay.network.plan import KMES_MAX
from qkdrelay.network.sites import format_sites, parse_sites
from qkdrelay.network.toml_file import TomlFile, did_you_mean, parse_toml, read_text, toml_text
from qkdrelay.network.topology import NOTHING_NOTED, LinkNote, Topology, Trust

TOPOLOGY_BYTES_MAX = 1 << 20
REFERENCE = "eight-kmes"
_ENTRIES = ("name", "kmes", "links", "trust", "saes", "sites", "coordinator")


def load_topology(which: Path) -> Topology:
    """Read a topology: a file, or by its bare name, such as ``nsfnet``, one of those that come with this package.

    Raises TopologyError naming file, line, entry and what would be right.
    """
    bare = KME_NAME.fullmatch(str(which)) is not None
    shipped = _topologies() / f"{which}.toml"
    path = shipped if bare and shipped.is_file() else which
    try:
        text = read_text(path, TOPOLOGY_BYTES_MAX)
    except FileNotFoundError:
        what = f"there is no topology {str(which)!r}" if bare else f"{path}: there is no such file"
        raise TopologyError(what, hint=f"known: {', '.join(shipped_names())}; or a file, such as mine.toml") from None
    return parse_topology(text, str(path))


def parse_topology(text: str, where: str) -> Topology:
    """Parse a topology's TOML; ``where`` names its origin in errors (TopologyError), with the line.

    ``name``, ``kmes`` and ``links`` must be there. A link is a pair of KMEs; a third entry may say more of it, as in
    ``["kme-1", "kme-2", { rate_bps = 4000, buffer_bytes = 65536, suite = "aes-256-gcm" }]``, or that its key comes from
    devices, as in ``{ source = "etsi014", devices = { kme-1 = { url = "https://a", sae = "x" }, kme-2 = ... } }``. A
    table ``[trust]`` may note KMEs, as in ``kme-5 = "never"``; a table ``[saes]`` names SAEs and their KMEs; a table
    ``[sites]`` says which KMEs are whose, and ``coordinator`` at which site that is (`parse_sites`).
    """
    data = parse_toml(text, where)
    file = TomlFile(where, text)
    for key in data:
        if key not in _ENTRIES:
            hint = did_you_mean(key, _ENTRIES)
            raise TopologyError(f"{file.at(key)}: unknown entry {key!r}", hint=hint)
    name, kmes, links, trust = data.get("name"), data.get("kmes"), data.get("links"), data.get("trust", {})
    if not isinstance(name, str) or not name:
        raise TopologyError(f"{file.at('name')}: 'name' must be a text", hint='name = "my-network"')
    if not isinstance(kmes, list) or not 2 <= len(kmes) <= KMES_MAX:
        raise TopologyError(f"{file.at('kmes')}: 'kmes' must be a list of 2 to {KMES_MAX} names", hint=_KMES_EXAMPLE)
    if not isinstance(links, list):
        raise TopologyError(f"{file.at('links')}: 'links' must be a list of pairs", hint=_LINKS_EXAMPLE)
    if not isinstance(saes := data.get("saes", {}), dict):
        hint = '[saes], below it sae-1 = "kme-1"'
        raise TopologyError(f"{file.at('saes')}: 'saes' must be a table of SAEs and their KMEs", hint=hint)
    if not isinstance(trust, dict):
        hint = '[trust], below it kme-5 = "never"'
        raise TopologyError(f"{file.at('trust')}: 'trust' must be a table of KMEs", hint=hint)
    names = _names(kmes, file)
    noted = _links(links, names, file)
    said = {link: note for link, note in noted.items() if note != NOTHING_NOTED}
    sites, coordinator = parse_sites(data, names, file)
    return Topology(
        name, names, tuple(noted), said, _trust(trust, names, file), _saes(saes, names, file), sites, coordinator
    )


_KMES_EXAMPLE, _LINKS_EXAMPLE = 'kmes = ["kme-1", "kme-2"]', 'links = [["kme-1", "kme-2"]]'


def _names(kmes: list[object], file: TomlFile) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for kme, at in zip(kmes, file.elements("kmes", len(kmes)), strict=True):
        if not isinstance(kme, str) or not KME_NAME.fullmatch(kme):
            raise TopologyError(f"{at}: {kme!r} is no KME name", hint=KME_NAME_RULE)
        if kme in names:
            raise TopologyError(f"{at}: KME {kme!r} is named twice")
        if kme in SERVICE_USERS:
            raise TopologyError(f"{at}: {kme!r} is reserved for the broker's own users", hint="choose another name")
        names[kme] = None
    return tuple(names)


def _links(links: list[object], kmes: tuple[str, ...], file: TomlFile) -> dict[Link, LinkNote]:
    notes: dict[Link, LinkNote] = {}
    for number, (link, at) in enumerate(zip(links, file.elements("links", len(links)), strict=True), 1):
        if not isinstance(link, list) or len(link) not in (2, 3) or not all(isinstance(end, str) for end in link[:2]):
            raise TopologyError(
                f"{at}: link {number} ({reprlib.repr(link)}) is not a pair of KME names", hint=_LINKS_EXAMPLE
            )
        a, b = link[:2]
        for end in (a, b):
            if end not in kmes:
                hint = did_you_mean(end, kmes)
                raise TopologyError(f"{at}: link {number} ends in {end!r}, which is not in 'kmes'", hint=hint)
        if a == b:
            raise TopologyError(f"{at}: link {number} joins {a!r} to itself")
        if (a, b) in notes or (b, a) in notes:
            raise TopologyError(f"{at}: the link between {a!r} and {b!r} is named twice (link {number})")
        notes[a, b] = NOTHING_NOTED
        if len(link) == 3:
            notes[a, b] = parse_note(link[2], (a, b), f"{at}: link {number} ({a} to {b})")
    return notes


def _trust(trust: dict[str, object], kmes: tuple[str, ...], file: TomlFile) -> dict[str, Trust]:
    notes: dict[str, Trust] = {}
    for kme, note in trust.items():
        if kme not in kmes:
            raise TopologyError(
                f"{file.at(kme)}: 'trust' names {kme!r}, which is not in 'kmes'", hint=did_you_mean(kme, kmes)
            )
        known = next((word for word in get_args(Trust) if word == note), None)
        if known is None:
            hint = f"known: {', '.join(get_args(Trust))}"
            raise TopologyError(f"{file.at(kme)}: the trust note of {kme!r} is {note!r}", hint=hint)
        notes[kme] = known
    return notes


def _saes(saes: dict[str, object], kmes: tuple[str, ...], file: TomlFile) -> dict[str, str]:
    found: dict[str, str] = {}
    for sae, kme in saes.items():
        at = file.at(sae, "saes")
        if not SAE_ID.fullmatch(sae):
            raise TopologyError(f"{at}: {sae!r} is no SAE ID", hint=SAE_ID_RULE)
        if not isinstance(kme, str) or kme not in kmes:
            hint = did_you_mean(kme, kmes) if isinstance(kme, str) else f'sae-1 = "{kmes[0]}"'
            raise TopologyError(f"{at}: SAE {sae!r} is at {kme!r}, which is not in 'kmes'", hint=hint)
        found[sae] = kme
    return found


def format_topology(topology: Topology) -> str:
    """Return the TOML that `parse_topology` reads as this topology."""

    def link(a: str, b: str) -> str:
        noted = note_text(topology.note(a, b))
        return f"[{toml_text(a)}, {toml_text(b)}, {noted}]" if noted else toml_text([a, b])

    links = "".join(f"  {link(a, b)},\n" for a, b in topology.links)
    trust = "".join(f"{toml_text(kme)} = {toml_text(note)}\n" for kme, note in topology.trust.items())
    network = f"name = {toml_text(topology.name)}\nkmes = {toml_text(list(topology.kmes))}\nlinks = [\n{links}]\n"
    saes = "".join(f"{toml_text(sae)} = {toml_text(kme)}\n" for sae, kme in topology.saes.items())
    if topology.coordinator:
        network += f"coordinator = {toml_text(topology.coordinator)}\n"
    tables = {"trust": trust, "saes": saes, "sites": format_sites(topology.sites)}
    return network + "".join(f"\n[{name}]\n{lines}" for name, lines in tables.items() if lines)


def reference_topology() -> Topology:
    """Return the eight-KME reference network."""
    return load_topology(Path(REFERENCE))


def shipped_names() -> list[str]:
    """Return the names of the topologies that come with this package."""
    return sorted(file.stem for file in _topologies().glob("*.toml"))


def _topologies() -> Path:
    """Return the folder of topology files: inside the installed package, or infra/ in a source tree."""
    packaged = Path(__file__).parent / "topologies"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "infra" / "topologies"
