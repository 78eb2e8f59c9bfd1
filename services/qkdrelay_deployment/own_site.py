"""The bundle of one site, completed at that site from what it has made, accepted and exchanged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from qkdrelay.errors import RequestRefusedError, SettingsError
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import format_topology
from qkdrelay_deployment.certificates import pair_files
from qkdrelay_deployment.compose import BROKER_SERVICE
from qkdrelay_deployment.environment import environment_values
from qkdrelay_deployment.files import writing
from qkdrelay_deployment.provision import check_deployable
from qkdrelay_deployment.saes import Written
from qkdrelay_deployment.site_answers import accepted
from qkdrelay_deployment.site_certificates import broker_name
from qkdrelay_deployment.site_exchange import shared_between, standing
from qkdrelay_deployment.site_papers import check_certificate, key_files, load_certificate
from qkdrelay_deployment.site_requests import require_site, with_sites
from qkdrelay_deployment.sites import IMAGES, as_seen_from, kept_of, write_bundle
from qkdrelay_deployment.variables import control_key_variable, link_secret_variable, part, site_key_variable


def write_site(
    topology: Topology,
    site: str,
    directory: Path,
    *,
    lab: bool = False,
    standby: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Written:
    """Complete the bundle of ``site`` in ``directory``, as `write_sites` would have written it.

    SettingsError that names all that is missing, and how it is got; nothing is written then.
    """
    topology = with_sites(topology)
    check_deployable(topology, (BROKER_SERVICE,), standby=standby)
    require_site(topology, site)
    root, deployed = directory / site, part(topology, site)
    with writing(directory):
        kept = kept_of(root / ".env", deployed)
        files = _certificates(topology, site, directory, kept)
        images = {name: environment[name] for name in IMAGES if environment.get(name)}
        values = environment_values(
            deployed, kept, images, (BROKER_SERVICE,), lab=lab, tls=False, standby=standby and deployed.has_coordinator
        )
        return write_bundle(topology, site, root, values, files, lab=lab)


def _certificates(topology: Topology, site: str, directory: Path, kept: Mapping[str, str]) -> dict[Path, str]:
    """Return the certificates and keys by file, if nothing is missing."""
    root = directory / site
    if missing := list(_missing(topology, site, root, kept)):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise SettingsError(f"site {site} is not complete{more}: " + "; ".join(missing))
    here = standing(directory, site)
    if here.answer.topology != format_topology(as_seen_from(topology, topology.sites[site].kmes)):
        what = f"this topology is not the one that the authority has given site {site}"
        raise RequestRefusedError(what, hint=f"use {root / 'deploy/topology.toml'}; or have the request signed again")
    broker = load_certificate(here.answer.broker_certificate, broker_name(site))
    check_certificate(broker, broker_name(site), here.authority, f"the certificate of {broker_name(site)}")
    pems = (here.answer.site_certificate, here.answer.broker_certificate)
    files: dict[Path, str] = {}
    for file, pem in zip(key_files(root), pems, strict=True):
        files |= pair_files(file.parent, here.authority, (pem, file.read_text(encoding="utf-8")))
    return files


def _missing(topology: Topology, site: str, root: Path, kept: Mapping[str, str]) -> Iterator[str]:
    """Say what the bundle lacks, each with the command that gets it."""
    if not all(path.exists() for path in key_files(root)):
        yield f"the private keys: `coordinator site init {site}`"
    if accepted(root) is None:
        yield f"the certificates: `coordinator site accept {site}.signed`"
    known = {control_key_variable(kme): f"the control key of {kme}" for kme in topology.kmes}
    known |= {site_key_variable(name): f"the key of {name}'s command line" for name in topology.sites}
    known |= {link_secret_variable(*link): f"the secret of the link {link[0]} to {link[1]}" for link in topology.links}
    for other in topology.sites:
        lacking = (
            [name for name in shared_between(topology, site, other) if not kept.get(name)] if other != site else []
        )
        if not lacking:
            continue
        what = ", ".join(known[name] for name in lacking)
        if site < other:
            yield f"{what}: `coordinator site offer {other}`"
        else:
            yield f"{what}: ask site {other} for an offer, then `coordinator site take {other}-to-{site}.offer`"
