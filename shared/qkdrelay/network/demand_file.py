"""A file of demands: how much key each pair of KMEs wants.

[demand]                       # bit/s of delivered key, from the one to the other
"kme-1 kme-8" = 200_000
"""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Final

from qkdrelay.errors import TopologyError
from qkdrelay.network.capacity import KmePair
from qkdrelay.network.toml_file import TomlFile, did_you_mean, parse_toml, read_text
from qkdrelay.network.topology import RATE_BPS_MAX, Topology

BYTES_MAX: Final = 1 << 20
_TABLE: Final = "demand"


def load_demand(path: Path, topology: Topology) -> list[KmePair]:
    """Read a file of demands on a network. Raises TopologyError, with the line."""
    try:
        text = read_text(path, BYTES_MAX)
    except FileNotFoundError:
        raise TopologyError(f"{path}: there is no such file", hint="it says how much key each pair wants") from None
    return parse_demand(text, str(path), topology)


def parse_demand(text: str, where: str, topology: Topology) -> list[KmePair]:
    """Return the pairs that a text names; ``where`` names its origin in errors (TopologyError)."""
    data, file = parse_toml(text, where), TomlFile(where, text)
    for entry in data:
        if entry != _TABLE:
            raise TopologyError(f"{file.at(entry)}: unknown entry {entry!r}", hint=did_you_mean(entry, [_TABLE]))
    demands = data.get(_TABLE)
    if not isinstance(demands, dict) or not demands:
        raise TopologyError(f"{where}: there is no demand", hint='[demand] has lines such as "kme-1 kme-8" = 200_000')
    pairs: dict[tuple[str, str], KmePair] = {}
    for name, wanted in demands.items():
        at, ends = file.at(name, _TABLE), name.split()
        if len(ends) != 2 or ends[0] == ends[1]:
            raise TopologyError(f"{at}: {name!r} is no pair", hint='two KMEs, such as "kme-1 kme-8"')
        for kme in ends:
            if kme not in topology.neighbours:
                hint = did_you_mean(kme, topology.kmes)
                raise TopologyError(f"{at}: there is no KME {kme!r} in network {topology.name}", hint=hint)
        number = isinstance(wanted, int | float) and not isinstance(wanted, bool) and isfinite(wanted)
        if not number or not 1 <= wanted <= RATE_BPS_MAX:
            raise TopologyError(f"{at}: the demand is {wanted!r}", hint=f"it must be 1 to {RATE_BPS_MAX:,} bit/s")
        if (ends[0], ends[1]) in pairs:
            raise TopologyError(f"{at}: the pair {name!r} is named twice")
        pairs[ends[0], ends[1]] = KmePair(ends[0], ends[1], float(wanted))
    return list(pairs.values())
