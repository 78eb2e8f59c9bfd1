"""SAEs that come and go while a deployment runs: nothing is started anew, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from qkdrelay.errors import RequestRefusedError, SettingsError
from qkdrelay.network.directory import Directory, PairSettings, Sae
from qkdrelay.network.names import SAE_ID, SAE_ID_RULE
from qkdrelay.network.toml_file import did_you_mean
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import load_topology
from qkdrelay.service import dotenv_file
from qkdrelay_deployment.compose import DEPLOYED_TOPOLOGY
from qkdrelay_deployment.files import writing
from qkdrelay_deployment.sae_certificates import sae_certificate_end
from qkdrelay_deployment.saes import (
    SAES_FOLDER,
    Written,
    directory_of,
    has_directory,
    kmes_here,
    sae_url,
    with_saes,
    write_sae_certificates,
    write_saes,
)


@dataclass(frozen=True, slots=True)
class SaeShown:
    """An SAE of a deployment, as people see it."""

    sae_id: str
    kme: str
    url: str
    folder: str
    """Of its certificate and its key, from the deployment's folder."""
    until: datetime | None
    """The end of its certificate; None if it is not there."""
    pairs: Mapping[str, PairSettings] = field(default_factory=dict)
    """Settings with it as the master, by slave, where there are."""


def saes_of(root: Path) -> tuple[list[SaeShown], bool]:
    """Return the SAEs of the deployment in ``root``, and whether only pairs that are listed get keys.

    SettingsError or TopologyError if there is none, or it is damaged.
    """
    topology, ports = _deployment(root)
    directory = directory_of(root)
    here = kmes_here(topology, ports)
    shown = [_shown(sae_id, root, directory, ports) for sae_id, sae in directory.saes.items() if sae.kme in here]
    return shown, directory.only_pairs


def add_sae(root: Path, sae_id: str, kme: str, pairs: Sequence[str] = (), **settings: int) -> SaeShown:
    """Add an SAE at ``kme`` to the deployment in ``root``, with ``settings`` (PairSettings) of pairs with others.

    RequestRefusedError, or TopologyError for a KME that is not there; else as of `saes_of`.
    """
    with _changing(root) as (topology, ports, directory):
        if not SAE_ID.fullmatch(sae_id):
            raise RequestRefusedError(f"{sae_id!r} is no SAE ID", hint=SAE_ID_RULE)
        topology.require(kme)
        if kme not in kmes_here(topology, ports):
            site = topology.site_of[kme]
            raise RequestRefusedError(
                f"{kme} is at site {site}, and this is the bundle of another", hint="add it there"
            )
        if (there := directory.kme_of(sae_id)) is not None:
            hint = f"`coordinator saes remove {sae_id}` strikes it off"
            raise RequestRefusedError(f"there is an SAE {sae_id!r} already, at {there}", hint=hint)
        if settings and not pairs:
            raise RequestRefusedError(
                f"--{next(iter(settings))} says what pairs are to have", hint="name the others: --pair SAE"
            )
        for other in pairs:
            if other == sae_id:
                raise RequestRefusedError(f"{sae_id!r} and {sae_id!r} are no pair", hint="name another SAE")
            _require(other, directory)
        found = dict.fromkeys([pair for other in pairs for pair in ((sae_id, other), (other, sae_id))])
        changed = replace(
            directory,
            saes={**directory.saes, sae_id: Sae(sae_id, kme)},
            pairs={**directory.pairs, **dict.fromkeys(found, PairSettings(**settings))},
        )
        write_saes(topology, root, changed, ports)
        return _shown(sae_id, root, changed, ports)


def remove_sae(root: Path, sae_id: str) -> Written:
    """Strike an SAE off the deployment in ``root``, and revoke its certificate. Errors as of `add_sae`."""
    with _changing(root) as (topology, ports, directory):
        _require(sae_id, directory)
        left = {other: sae for other, sae in directory.saes.items() if other != sae_id}
        return write_saes(topology, root, with_saes(directory, left), ports)


def renew_sae(root: Path, sae_id: str) -> SaeShown:
    """Give an SAE a new certificate, and revoke what it had. Errors as of `add_sae`."""
    with _changing(root) as (topology, ports, directory):
        _require(sae_id, directory)
        write_saes(topology, root, directory, ports, renew=[sae_id])
        return _shown(sae_id, root, directory, ports)


def provision_sae_certificates(topology: Topology, root: Path) -> Written:
    """Write the certificates of KMEs and SAEs, those that last kept; nothing where there are no SAEs.

    Errors as of `saes_of`.
    """
    if not topology.saes:
        return Written()
    ports = dotenv_file.read(root / ".env")
    with writing(root / "deploy"):
        named = Directory({sae: Sae(sae, kme) for sae, kme in topology.saes.items()})
        directory = directory_of(root) if has_directory(root) else named
        found = write_sae_certificates(topology, root, directory, ports)
    return Written((*found.authority, *found.kmes, *found.saes), (), found.not_revoked)


def _deployment(root: Path) -> tuple[Topology, dict[str, str]]:
    """Return the network that is deployed in ``root`` with an interface for applications, and what ``.env`` says."""
    if not (path := root / DEPLOYED_TOPOLOGY).is_file():
        hint = "`make up` does it; --out DIR names another folder"
        raise SettingsError(f"no network is deployed in {root.absolute()}", hint=hint)
    topology = load_topology(path)
    if not topology.saes:
        hint = 'name an SAE in its topology file: [saes], below it sae-1 = "kme-1"; then make up'
        raise SettingsError(f"the KMEs of the network {topology.name} serve no applications", hint=hint)
    return topology, dotenv_file.read(root / ".env")


@contextmanager
def _changing(root: Path) -> Iterator[tuple[Topology, dict[str, str], Directory]]:
    _deployment(root)
    with writing(root / "deploy"):
        yield *_deployment(root), directory_of(root)


def _require(sae_id: str, directory: Directory) -> None:
    if sae_id not in directory.saes:
        hint = did_you_mean(sae_id, tuple(directory.saes)) if directory.saes else "there is none"
        raise RequestRefusedError(f"there is no SAE {sae_id!r}", hint=hint)


def _shown(sae_id: str, root: Path, directory: Directory, ports: Mapping[str, str]) -> SaeShown:
    folder = f"{SAES_FOLDER}/{sae_id}"
    pairs = {slave: settings for (master, slave), settings in directory.pairs.items() if master == sae_id}
    kme, url = directory.saes[sae_id].kme, sae_url(directory, sae_id, ports)
    return SaeShown(sae_id, kme, url, folder, sae_certificate_end(root / folder), pairs)
