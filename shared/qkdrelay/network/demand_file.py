"""A file of demands: how much key each pair of KMEs wants.

[demand]                       # bit/s of delivered key, from the one to the other
"kme-1 kme-8" = 200_000
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from qkdrelay.errors import TopologyError
from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.network.capacity import KmePair
from qkdrelay.network.toml_file import TomlFile, did_you_mean, parse_toml, read_text
from qkdrelay.network.topology import RATE_BPS_MAX, Topology

BYTES_MAX: Final = 1 << 20
_TABLE: Final = "demand"
_BITS_SHOWN: Final = 128


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
        where = file.at(_TABLE) if _TABLE in data else where
        raise TopologyError(f"{where}: there is no demand", hint='[demand] has lines such as "kme-1 kme-8" = 200_000')
    pairs: dict[tuple[str, str], KmePair] = {}
    for name, wanted in demands.items():
        at, ends = file.at(name, _TABLE), name.split()
        if len(ends) != 2 or ends[0] == ends[1]:
            hint = 'two KMEs, such as "kme-1 kme-8"' if len(ends) != 2 else "source and target are the same"
            raise TopologyError(f"{at}: {escaped(repr(name), NAME_MAX)} is no pair", hint=hint)
        for kme in ends:
            if kme not in topology.neighbours:
                hint = did_you_mean(kme, topology.kmes)
                raise TopologyError(
                    f"{at}: there is no KME {escaped(repr(kme), NAME_MAX)} in network {topology.name}", hint=hint
                )
        number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
        if not number or not 1 <= wanted <= RATE_BPS_MAX:  # NaN is neither
            is_long = isinstance(wanted, int) and wanted.bit_length() > _BITS_SHOWN
            shown = "a number of very many digits" if is_long else escaped(repr(wanted), NAME_MAX)
            raise TopologyError(f"{at}: the demand is {shown}", hint=f"it must be 1 to {RATE_BPS_MAX:,} bit/s")
        if (ends[0], ends[1]) in pairs:
            raise TopologyError(f"{at}: the pair {name!r} is named twice")
        pairs[ends[0], ends[1]] = KmePair(ends[0], ends[1], float(wanted))
    return list(pairs.values())
