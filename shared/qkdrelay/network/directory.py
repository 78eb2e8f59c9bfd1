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

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

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
    raise NotImplementedError


def load_directory(path: Path) -> Directory:
    """Read a directory. Raises TopologyError."""
    raise NotImplementedError


def directory_text(directory: Directory) -> str:
    """Return the TOML that `parse_directory` reads as this directory."""
    raise NotImplementedError
