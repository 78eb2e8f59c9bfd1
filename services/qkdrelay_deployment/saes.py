"""The SAEs of a deployment: one directory of them, which the coordinator and every KME have, and their certificates.

The coordinator's copy is what counts; the topology's table of SAEs says who is in it at first, and what changes there
is carried over. Each file is replaced in one step, the coordinator's copy last, so that what was interrupted can be
done again. Services read them again by themselves.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from qkdrelay.broker.rabbitmq.tls import AUTHORITY, CERTIFICATE, KEY
from qkdrelay.errors import SettingsError
from qkdrelay.network.directory import NO_SAES, Directory, Sae, directory_text, load_directory, parse_directory
from qkdrelay.network.topology import Topology
from qkdrelay_deployment.certificates import AUTHORITY_KEY
from qkdrelay_deployment.compose import COORDINATOR_SAES, kme_saes
from qkdrelay_deployment.compose_texts import SAES_FILE
from qkdrelay_deployment.files import make_folder, write_file
from qkdrelay_deployment.sae_certificates import SaeCertificates, sae_certificates
from qkdrelay_deployment.variables import APPLICATIONS_ADDRESS, LOOPBACK, SITE, applications_port_variable

SAES_FOLDER: Final = "deploy/saes"
"""Has a folder with certificate and key for each SAE, for its owner alone."""
SAE_AUTHORITY: Final = "deploy/sae-authority"
SAES_JSON: Final = "deploy/saes.json"
"""Says where each SAE finds its KME and its certificate."""
_ANY: Final = "0.0.0.0"  # noqa: S104 - it is what a setting may say
_KMES_FOLDER: Final = "deploy/kmes"
_DIRECTORY: Final = f"{COORDINATOR_SAES}/{SAES_FILE}"
_OF_TOPOLOGY: Final = f"{COORDINATOR_SAES}/of-topology.json"
_HEADER: Final = (
    "# Written by `coordinator saes` and `coordinator provision`, which keep what it says, but no comments.\n\n"
)


@dataclass(frozen=True, slots=True)
class Written:
    """What was written of a deployment."""

    files: tuple[Path, ...] = ()
    struck_off: tuple[str, ...] = ()
    """SAEs that were in the directory before."""
    not_revoked: tuple[str, ...] = ()
    """Of all that were ever struck off, those whose certificates are not revoked yet: the authority's key is away."""
    missing: tuple[Path, ...] = ()
    """Files for QKD devices that are still to be put there."""


def has_directory(root: Path) -> bool:
    """Whether there is a directory of SAEs in the deployment in ``root``."""
    return (root / _DIRECTORY).exists()


def directory_of(root: Path) -> Directory:
    """Return the directory of the deployment in ``root``, without SAEs if there is none. TopologyError."""
    return load_directory(root / _DIRECTORY) if has_directory(root) else NO_SAES


def provision_saes(topology: Topology, root: Path, ports: Mapping[str, str]) -> Written:
    """Write what the SAEs of ``topology`` need, and those that were added since; where it names none, nothing.

    ``ports`` are the variables of ``.env``. TopologyError or SettingsError for what is there and damaged; OSError.
    """
    if not topology.saes:
        (root / SAES_JSON).unlink(missing_ok=True)
        return Written()
    before = _said_by_topology(root) if has_directory(root) else {}
    written = write_saes(topology, root, _carried_over(directory_of(root), before, topology), ports)
    of_topology = root / _OF_TOPOLOGY
    write_file(of_topology, json.dumps(dict(topology.saes), indent=1) + "\n", mode=0o644)
    return replace(written, files=(*written.files, of_topology))


def write_saes(
    topology: Topology, root: Path, directory: Directory, ports: Mapping[str, str], *, renew: Collection[str] = ()
) -> Written:
    """Write ``directory`` for the coordinator and all KMEs, certificates, and `SAES_JSON`; strike off who has left.

    SAEs of ``renew`` get new certificates, and their old ones are revoked. Errors as of `provision_saes`.
    """
    text = _HEADER + directory_text(directory)
    parse_directory(text, _DIRECTORY)  # its bounds
    before = directory_of(root)
    struck_off = tuple(sae for sae in before.saes if sae not in directory.saes)
    certificates = write_sae_certificates(topology, root, directory, ports, renew=renew)
    files = [*certificates.authority, *certificates.kmes, *certificates.saes]
    # The KMEs first: the coordinator plans for nobody whom they do not know.
    kmes = kmes_here(topology, ports)
    for folder in (*(root / kme_saes(kme) for kme in kmes), root / COORDINATOR_SAES):
        make_folder(folder, mode=0o755)
    for kme in kmes:
        files.append(root / kme_saes(kme) / SAES_FILE)
        write_file(files[-1], text, mode=0o644)
    files.append(root / SAES_JSON)
    here = with_saes(directory, {sae_id: sae for sae_id, sae in directory.saes.items() if sae.kme in kmes})
    write_file(files[-1], _saes_json(here, ports), mode=0o644)
    files.append(own := root / _DIRECTORY)
    if directory != before or not own.exists():
        write_file(own, text, mode=0o644)
    for sae in struck_off:
        shutil.rmtree(root / SAES_FOLDER / sae, ignore_errors=True)
    return Written(tuple(files), struck_off, certificates.not_revoked)


def write_sae_certificates(
    topology: Topology, root: Path, directory: Directory, ports: Mapping[str, str], *, renew: Collection[str] = ()
) -> SaeCertificates:
    """Write the certificates of the KMEs and of the SAEs of ``directory``, those that last kept; return them."""
    address, kmes = _address(ports), kmes_here(topology, ports)
    authority = root / SAE_AUTHORITY
    found = sae_certificates(
        topology.name,
        authority,
        {kme: root / kme_saes(kme) for kme in kmes},
        {sae_id: root / SAES_FOLDER / sae_id for sae_id, sae in directory.saes.items() if sae.kme in kmes},
        renew,
        address=None if address == LOOPBACK else address,
    )
    # What a KME's container mounts is for its user to read, behind a folder that is its owner's alone.
    for folder in (authority, root / SAES_FOLDER, root / _KMES_FOLDER):
        make_folder(folder, mode=0o700)
    for files, keys_mode in ((found.authority, 0o600), (found.kmes, 0o644), (found.saes, 0o600)):
        for path, text in files.items():
            if path.parent != authority:
                make_folder(path.parent, mode=0o755)
            write_file(path, text, mode=keys_mode if path.name in (KEY, AUTHORITY_KEY) else 0o644)
    return found


def kmes_here(topology: Topology, ports: Mapping[str, str]) -> tuple[str, ...]:
    """Return the KMEs of a deployment: those of its site, if it is the bundle of one."""
    site = topology.sites.get(ports.get(SITE, ""))
    return topology.kmes if site is None else site.kmes


def _address(ports: Mapping[str, str]) -> str:
    """Return where SAEs find KMEs: on this host, or at the one address that they are published at."""
    address = ports.get(APPLICATIONS_ADDRESS, LOOPBACK)
    return LOOPBACK if address == _ANY else address


def sae_url(directory: Directory, sae_id: str, ports: Mapping[str, str]) -> str:
    """Return where an SAE finds its KME."""
    variable = applications_port_variable(directory.saes[sae_id].kme)
    try:
        return f"https://{_address(ports)}:{ports[variable]}"
    except KeyError:
        raise SettingsError(f"{variable} is not in .env", hint="make up writes it") from None


def _saes_json(directory: Directory, ports: Mapping[str, str]) -> str:
    said = {}
    for sae_id, sae in directory.saes.items():
        folder = f"{SAES_FOLDER}/{sae_id}"
        files = {"ca": f"{folder}/{AUTHORITY}", "cert": f"{folder}/{CERTIFICATE}", "key": f"{folder}/{KEY}"}
        said[sae_id] = {"kme": sae.kme, "url": sae_url(directory, sae_id, ports), **files}
    return json.dumps(said, indent=1) + "\n"


def _carried_over(directory: Directory, before: Mapping[str, str], topology: Topology) -> Directory:
    """Return the directory with what has changed in the topology's table since it was ``before``."""
    saes = {sae_id: sae for sae_id, sae in directory.saes.items() if sae_id in topology.saes or sae_id not in before}
    for sae_id, kme in topology.saes.items():
        if before.get(sae_id) != kme and directory.kme_of(sae_id) != kme:
            saes[sae_id] = Sae(sae_id, kme)
    return with_saes(directory, {sae_id: sae for sae_id, sae in saes.items() if sae.kme in topology.neighbours})


def with_saes(directory: Directory, saes: Mapping[str, Sae]) -> Directory:
    """Return the directory with these SAEs instead, and the settings of their pairs."""
    pairs = {pair: settings for pair, settings in directory.pairs.items() if set(pair) <= saes.keys()}
    return replace(directory, saes=saes, pairs=pairs)


def _said_by_topology(root: Path) -> dict[str, str]:
    """Return the topology's table of SAEs as it was carried over the last time."""
    try:
        said = json.loads((root / _OF_TOPOLOGY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        said = None
    if not isinstance(said, dict):
        hint = "delete it: the SAEs that the topology names are added again, those struck off among them"
        raise SettingsError(f"{root / _OF_TOPOLOGY} is not what was written there", hint=hint)
    return said
