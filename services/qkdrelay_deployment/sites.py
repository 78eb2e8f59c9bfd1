"""Bundles: for each site of a network a folder that starts by itself, with its own secrets and nobody else's.

Of what others have, too, a bundle holds what two share: the secret of a simulated link with a KME there, the control
key of each KME and the key of each command line, which the coordinator's has as well. The authority that names the
sites is in none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from qkdrelay.broker.definitions import site_definitions
from qkdrelay.errors import SettingsError
from qkdrelay.network.names import Link
from qkdrelay.network.topology import DeviceNote, Topology, one_site_each
from qkdrelay.network.topology_file import format_topology
from qkdrelay.service import dotenv_file
from qkdrelay_deployment.certificates import AUTHORITY_KEY
from qkdrelay_deployment.compose import (
    BROKER_SERVICE,
    COMPOSE_BASE,
    DEPLOYED_TOPOLOGY,
    STANDBY_OVERLAY,
    TLS_FOLDER,
    site_compose_file,
    standby_overlay,
)
from qkdrelay_deployment.devices import provision_devices
from qkdrelay_deployment.environment import (
    DEPLOYMENT,
    OVERLAYS,
    dotenv_text,
    environment_values,
    shared_variables,
    variables_of,
)
from qkdrelay_deployment.files import make_folder, write_file, writing
from qkdrelay_deployment.provision import check_deployable, deployment_digest
from qkdrelay_deployment.rabbitmq_conf import ENABLED_PLUGINS, PLUGINS, site_rabbitmq_conf
from qkdrelay_deployment.saes import Written, provision_saes
from qkdrelay_deployment.site_certificates import AUTHORITY_FOLDER, SitesAuthority
from qkdrelay_deployment.site_texts import readme, tidy_script
from qkdrelay_deployment.variables import (
    AMQP_PORTS,
    COOKIE,
    PAGE_PORT,
    REMEMBERED,
    SITE,
    Deployed,
    part,
    password_variable,
)

README: Final = "README.md"
TIDY: Final = "deploy/tidy.sh"
"""Takes from a site's broker what is no longer of it, which loading definitions never does."""
_OF_SOMEBODY = re.compile(
    r"(PASSWORD|CONTROL_KEY|SITE_KEY|LINK_SECRET|WITHSTAND_COMPROMISED|ETSI014_PORT)_|QKDRELAY_[A-Z]+_(KEY|PASSWORD)"
)
"""Variables that are taken from a bundle once they are no longer of its site: KMEs, and the coordinator, may move."""
IMAGES: Final = ("PYTHON_IMAGE", "RABBITMQ_IMAGE", "QKDRELAY_IMAGE")
_ELSEWHERE: Final = "https://elsewhere.invalid"
"""In place of another site's device, of which only its own KME is to know."""


def write_sites(
    topology: Topology,
    directory: Path,
    *,
    lab: bool = False,
    standby: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, Written]:
    """Write a bundle for each site of ``topology`` into ``directory``, and the authority; return by folder what it was.

    Where the topology names no sites, each KME is one; with ``standby`` the coordinator's has a second one. What
    bundles hold is kept, as of `write_deployment`; what two of them share is made equal where one has it and the other
    does not. Raises TopologyError for a network that cannot be deployed, SettingsError for a folder that cannot be
    written, or what is there and cannot be.
    """
    topology = topology if topology.sites else one_site_each(topology)
    check_deployable(topology, (BROKER_SERVICE,), standby=standby)
    check_names(topology)
    all_of_them = {site: part(topology, site) for site in topology.sites}
    kept = {site: kept_of(directory / site / ".env", all_of_them[site]) for site in all_of_them}
    shared = _shared(all_of_them, kept)
    images = {name: environment[name] for name in IMAGES if environment.get(name)}
    with writing(directory):
        authority = SitesAuthority(directory / AUTHORITY_FOLDER, topology)
        make_folder(directory / AUTHORITY_FOLDER, mode=0o700)
        for path, text in authority.files().items():
            write_file(path, text, mode=0o600 if path.name == AUTHORITY_KEY else 0o644)
        written = {AUTHORITY_FOLDER: Written(tuple(authority.files()))}
        for site, deployed in all_of_them.items():
            values = environment_values(
                deployed,
                {**kept[site], **_known(deployed, shared)},
                images,
                (BROKER_SERVICE,),
                lab=lab,
                tls=False,
                standby=standby and deployed.has_coordinator,
            )
            shared |= {name: values[name] for name in shared_variables(deployed)}
            root = directory / site
            written[site] = write_bundle(topology, site, root, values, authority.files_of(site, root), lab=lab)
    return written


def check_names(topology: Topology) -> None:
    """Raise SettingsError for a site whose folder would be the authority's."""
    if AUTHORITY_FOLDER in topology.sites:
        raise SettingsError(f"{AUTHORITY_FOLDER!r} is the authority's folder", hint="choose another name for that site")


def kept_of(dotenv: Path, deployed: Deployed) -> dict[str, str]:
    """Return what ``.env`` of a bundle says, without what is no longer of its site."""
    try:
        said = dotenv_file.read(dotenv)
    except OSError as error:
        raise SettingsError(f"{dotenv}: {error.strerror}") from None
    own = set(variables_of(deployed))
    return {name: value for name, value in said.items() if name in own or not _OF_SOMEBODY.match(name)}


def _shared(all_of_them: Mapping[str, Deployed], kept: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return what sites share and one of them has. SettingsError if two have something else each."""
    found: dict[str, tuple[str, str]] = {}
    for site, deployed in all_of_them.items():
        for name in shared_variables(deployed):
            if value := kept[site].get(name):
                other, before = found.setdefault(name, (site, value))
                if before != value:
                    raise SettingsError(
                        f"{name} is not the same in {other}/.env and {site}/.env",
                        hint="delete the line in one of them; that site gets the other's",
                    )
    return {name: value for name, (_, value) in found.items()}


def _known(deployed: Deployed, shared: Mapping[str, str]) -> dict[str, str]:
    return {name: shared[name] for name in shared_variables(deployed) if name in shared}


def write_bundle(
    topology: Topology, site: str, root: Path, values: dict[str, str], certificates: Mapping[Path, str], *, lab: bool
) -> Written:
    """Write a site's bundle into ``root``: what is in ``.env`` (``values``), and its certificates, by file.

    SettingsError for what cannot be written.
    """
    deployed, deploy = part(topology, site), root / "deploy"
    passwords = {user: values[password_variable(user)] for user in deployed.users}
    loaded = site_definitions(topology, site, passwords, lab=lab)
    configuration, seen = site_rabbitmq_conf(), as_seen_from(topology, deployed.kmes)
    for name in (COOKIE, *AMQP_PORTS[1:]):  # a site's broker is one node
        values.pop(name, None)
    values[SITE] = site
    values["COMPOSE_PROJECT_NAME"] = _project(values, site)
    values[DEPLOYMENT] = deployment_digest(
        seen if deployed.has_coordinator else None, loaded, passwords, configuration + ENABLED_PLUGINS
    )
    contents = {
        root / COMPOSE_BASE: site_compose_file(topology, site),
        root / README: readme(topology, site, values[PAGE_PORT]),
        root / DEPLOYED_TOPOLOGY: format_topology(seen),
        root / TIDY: tidy_script(),
        root / PLUGINS: ENABLED_PLUGINS,
        deploy / "rabbitmq.conf": configuration,
        deploy / "definitions.json": json.dumps(loaded, indent=1) + "\n",
    }
    if STANDBY_OVERLAY in values.get(OVERLAYS, ""):
        contents[root / STANDBY_OVERLAY] = standby_overlay(topology, site=site)
    make_folder(root, mode=0o755)
    with writing(deploy):
        make_folder(root / TLS_FOLDER, mode=0o700)
        for path, text in certificates.items():
            make_folder(path.parent, mode=0o755)
            write_file(path, text, mode=0o644)
        _forget_who_left(topology, deployed, deploy)
        saes = provision_saes(topology, root, values)
        missing = provision_devices(topology, root, deployed.kmes)
        write_file(root / ".env", dotenv_text(deployed, values), mode=0o600)
        for path, text in contents.items():
            write_file(path, text, mode=0o644)
    return replace(saes, files=(root / ".env", *contents, *certificates, *saes.files), missing=tuple(missing))


def _forget_who_left(topology: Topology, deployed: Deployed, deploy: Path) -> None:
    """Delete the certificates and keys of KMEs, and of SAEs at them, that are no longer at this site. OSError."""
    moved_saes = {sae for sae, kme in topology.saes.items() if kme not in deployed.kmes}
    for folder, stays in (("kmes", deployed.kmes.__contains__), ("saes", lambda sae: sae not in moved_saes)):
        for path in (deploy / folder).glob("*"):
            if not stays(path.name):
                shutil.rmtree(path)


def _project(values: Mapping[str, str], site: str) -> str:
    """Return the name of the bundle's project: what was chosen in ``.env``, or one of the site's own."""
    default = REMEMBERED["COMPOSE_PROJECT_NAME"]
    chosen = values["COMPOSE_PROJECT_NAME"]
    return f"{default}-{site.strip('-')}" if chosen == default else chosen


def as_seen_from(topology: Topology, here: Iterable[str]) -> Topology:
    """Return the network with the devices of these KMEs alone; of those at the other ends, what they are called."""
    kmes = frozenset(here)

    def seen(link: Link, kme: str, device: DeviceNote) -> DeviceNote:
        if kme in kmes:
            return device
        # Two devices of one link never have the same.
        return DeviceNote(_ELSEWHERE, f"elsewhere-{kme}" if kmes.isdisjoint(link) else device.sae)

    notes = {
        link: replace(note, devices={kme: seen(link, kme, device) for kme, device in note.devices.items()})
        for link, note in topology.link_notes.items()
    }
    return replace(topology, link_notes=notes)
