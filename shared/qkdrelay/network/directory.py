"""The directory of SAEs (secure application entities): which KME each is at, and what pairs of them may have.

Every KME has one in a file of its own, from its operator, and reads it again when it changes; the coordinator has one
to plan with. TOML:

    [saes]
    sae-1 = "kme-1"
    sae-8 = { kme = "kme-8", pin = "sha256:<64 hexadecimal digits>" }

    [pairs]                                  # optional: settings of pairs, the master first
    "sae-1 sae-8" = { level = 1, stock = 128, weight = 1 }

    only_pairs = false                       # at the top; true: only the pairs that are listed get keys
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from qkdrelay.errors import TopologyError
from qkdrelay.network.names import KME_NAME, KME_NAME_RULE, SAE_ID, SAE_ID_RULE
from qkdrelay.network.toml_file import TomlFile, did_you_mean, parse_toml, read_text

DIRECTORY_BYTES_MAX: Final = 1 << 20
SAES_MAX: Final = 4_096
PAIRS_MAX: Final = 16_384
STOCK_MAX: Final = 4_096
WEIGHT_MAX: Final = 1_000
LEVEL_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Sae:
    """An SAE: an application that has keys from its KME."""

    sae_id: str
    kme: str
    pin: str | None = None
    """SHA-256 of the one certificate (DER) that it may show, in hexadecimal digits; None: any that its id is in."""


@dataclass(frozen=True, slots=True)
class PairSettings:
    """What a master and a slave are to have."""

    level: int = 1
    """Compromised KMEs that a plan for their keys must withstand."""
    stock: int = 128
    """Keys that are cut ahead once the pair is in use."""
    weight: int = 1
    """Its share where there is too little."""


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory as it is in its file."""

    saes: Mapping[str, Sae]
    pairs: Mapping[tuple[str, str], PairSettings] = field(default_factory=dict)
    """Settings by master and slave; a pair that is not listed has the default."""
    only_pairs: bool = False
    """Whether only pairs that are listed get keys."""

    def kme_of(self, sae_id: str) -> str | None:
        """Return the KME that an SAE is at; None if it is not in the directory."""
        sae = self.saes.get(sae_id)
        return None if sae is None else sae.kme

    def allows(self, master: str, slave: str) -> bool:
        """Whether these two may share keys."""
        known = master in self.saes and slave in self.saes and master != slave
        return known and (not self.only_pairs or (master, slave) in self.pairs)

    def settings(self, master: str, slave: str) -> PairSettings:
        """Return what a pair is to have."""
        return self.pairs.get((master, slave), _DEFAULT)


_DEFAULT = PairSettings()
NO_SAES: Final = Directory({})


def parse_directory(text: str, where: str) -> Directory:
    """Parse a directory's TOML; ``where`` names its origin in errors (TopologyError), with the line."""
    data, file = parse_toml(text, where), TomlFile(where, text)
    for key in data:
        if key not in _ENTRIES:
            raise TopologyError(f"{file.at(key)}: unknown entry {key!r}", hint=did_you_mean(key, _ENTRIES))
    only_pairs = data.get("only_pairs", False)
    if not isinstance(only_pairs, bool):
        raise TopologyError(f"{file.at('only_pairs')}: 'only_pairs' is {only_pairs!r}", hint="it is true or false")
    saes = {sae: _sae(sae, said, file) for sae, said in _table(data, "saes", SAES_MAX, file).items()}
    pairs = {}
    for name, said in _table(data, "pairs", PAIRS_MAX, file).items():
        pair = _pair(name, saes, file)
        if pair in pairs:
            raise TopologyError(f"{file.at(name, 'pairs')}: the pair {name!r} is named twice")
        pairs[pair] = _pair_settings(name, said, file)
    return Directory(saes, pairs, only_pairs)


def load_directory(path: Path) -> Directory:
    """Read a directory. Raises TopologyError."""
    try:
        return parse_directory(read_text(path, DIRECTORY_BYTES_MAX), str(path))
    except FileNotFoundError:
        raise TopologyError(f"{path}: there is no such file", hint="it is the directory of SAEs") from None


def directory_text(directory: Directory) -> str:
    """Return the TOML that `parse_directory` reads as this directory."""

    def sae_text(sae: Sae) -> str:
        return f'"{sae.kme}"' if sae.pin is None else f'{{ kme = "{sae.kme}", pin = "{_PIN_PREFIX}{sae.pin}" }}'

    def pair_text(settings: PairSettings) -> str:
        return ", ".join(f"{name} = {value}" for name, value in asdict(settings).items())

    parts = ["only_pairs = true\n\n"] if directory.only_pairs else []
    parts += ["[saes]\n", *(f'"{sae_id}" = {sae_text(sae)}\n' for sae_id, sae in directory.saes.items())]
    if directory.pairs:
        pairs = directory.pairs.items()
        parts += ["\n[pairs]\n", *(f'"{a} {b}" = {{ {pair_text(settings)} }}\n' for (a, b), settings in pairs)]
    return "".join(parts)


_ENTRIES = ("saes", "pairs", "only_pairs")
_PIN_PREFIX = "sha256:"
_PIN = re.compile(rf"{_PIN_PREFIX}([0-9a-f]{{64}})")
_BOUNDS = {"level": (0, LEVEL_MAX), "stock": (0, STOCK_MAX), "weight": (1, WEIGHT_MAX)}


def _table(data: dict[str, Any], name: str, most: int, file: TomlFile) -> dict[str, object]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise TopologyError(f"{file.at(name)}: {name!r} must be a table", hint=_EXAMPLES[name])
    if len(table) > most:
        raise TopologyError(f"{file.at(name)}: {name!r} has {len(table)} entries; {most} are the most")
    return table


_EXAMPLES = {"saes": '[saes], below it sae-1 = "kme-1"', "pairs": '[pairs], below it "sae-1 sae-8" = { level = 1 }'}


def _sae(sae_id: str, said: object, file: TomlFile) -> Sae:
    at = file.at(sae_id, "saes")
    if not SAE_ID.fullmatch(sae_id):
        raise TopologyError(f"{at}: {sae_id!r} is no SAE ID", hint=SAE_ID_RULE)
    entries = said if isinstance(said, dict) else {"kme": said}
    for key in entries:
        if key not in ("kme", "pin"):
            hint = did_you_mean(key, ("kme", "pin"))
            raise TopologyError(f"{at}: SAE {sae_id!r} has an unknown entry {key!r}", hint=hint)
    kme, pin = entries.get("kme"), entries.get("pin")
    if not isinstance(kme, str) or not KME_NAME.fullmatch(kme):
        raise TopologyError(f"{at}: SAE {sae_id!r} is at {kme!r}, which is no KME name", hint=KME_NAME_RULE)
    if pin is None:
        return Sae(sae_id, kme)
    found = _PIN.fullmatch(pin) if isinstance(pin, str) else None
    if found is None:
        hint = "sha256: and 64 of 0-9 and a-f, as of: openssl x509 -in cert.pem -outform DER | sha256sum"
        raise TopologyError(f"{at}: the pin of SAE {sae_id!r} is no fingerprint", hint=hint)
    return Sae(sae_id, kme, found[1])


def _pair(name: str, saes: Mapping[str, Sae], file: TomlFile) -> tuple[str, str]:
    at, ends = file.at(name, "pairs"), name.split()
    if len(ends) != len(("master", "slave")):
        hint = 'the master, a space, the slave: "sae-1 sae-8"'
        raise TopologyError(f"{at}: {name!r} is no pair of SAEs", hint=hint)
    master, slave = ends
    for sae in (master, slave):
        if sae not in saes:
            hint = did_you_mean(sae, list(saes))
            raise TopologyError(f"{at}: the pair {name!r} names {sae!r}, which is not in 'saes'", hint=hint)
    if master == slave:
        raise TopologyError(f"{at}: the pair {name!r} is one SAE")
    return master, slave


def _pair_settings(name: str, said: object, file: TomlFile) -> PairSettings:
    at = file.at(name, "pairs")
    if not isinstance(said, dict):
        raise TopologyError(f"{at}: the settings of the pair {name!r} must be a table", hint=_EXAMPLES["pairs"])
    for key, value in said.items():
        if key not in _BOUNDS:
            hint = did_you_mean(key, tuple(_BOUNDS))
            raise TopologyError(f"{at}: the pair {name!r} has an unknown entry {key!r}", hint=hint)
        least, most = _BOUNDS[key]
        if type(value) is not int or not least <= value <= most:
            what = f"{key} is {value!r}; it must be a whole number from {least} to {most}"
            raise TopologyError(f"{at}: the pair {name!r}: {what}")
    return PairSettings(**said)
