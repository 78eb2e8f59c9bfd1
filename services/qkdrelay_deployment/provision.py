"""Provisioning: all files of a deployment, from a topology.

Secrets live in one file, ``.env``, readable by its owner alone; the compose file names them and
hands each service its own. What is mounted into the broker holds salted hashes only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from qkdrelay.broker.definitions import definitions
from qkdrelay.broker.rabbitmq.tls import CERTIFICATE
from qkdrelay.errors import SettingsError, TopologyError
from qkdrelay.network.names import CLIENTS, COORDINATOR, Link
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import format_topology
from qkdrelay.service import dotenv_file
from qkdrelay_deployment.certificates import AUTHORITY_KEY, certificate_files
from qkdrelay_deployment.compose import (
    BROKER_SERVICE,
    CLUSTER_NODES,
    CLUSTER_SERVICES,
    COMPOSE_BASE,
    DEPLOYED_TOPOLOGY,
    STANDBY_OVERLAY,
    STANDBY_SERVICE,
    TLS_FOLDER,
    TLS_OVERLAY,
    compose_file,
    standby_overlay,
    tls_overlay,
)
from qkdrelay_deployment.devices import provision_devices
from qkdrelay_deployment.environment import DEPLOYMENT, check_environment, dotenv_text, environment_values
from qkdrelay_deployment.files import make_folder, write_file, writing
from qkdrelay_deployment.rabbitmq_conf import rabbitmq_conf
from qkdrelay_deployment.saes import Written, provision_saes
from qkdrelay_deployment.variables import link_secret_variable, password_variable, whole

_BROKER_HOSTS: Final = (*CLUSTER_SERVICES, "localhost", "127.0.0.1", "::1")


def write_deployment(
    topology: Topology,
    directory: Path,
    *,
    lab: bool = False,
    tls: bool = False,
    cluster: bool = False,
    standby: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Written:
    """Write all that a deployment of ``topology`` needs into ``directory``; return what that was.

    Secrets that ``.env`` already holds are kept, SAEs that were added, certificates that are good for another while,
    and what was put there for QKD devices, so doing it twice changes nothing. ``lab`` switches the lab on or off,
    ``tls`` TLS to the broker, ``cluster`` three broker nodes instead of one, ``standby`` a second coordinator. Raises
    TopologyError for a network that cannot be deployed, SettingsError for a directory that cannot be written, or for a
    secret or a certificate authority there that cannot be one.
    """
    topology = replace(topology, sites={}, coordinator="")  # all on one host
    brokers = CLUSTER_SERVICES if cluster else (BROKER_SERVICE,)
    check_deployable(topology, brokers, standby=standby)
    dotenv = directory / ".env"
    deploy = directory / "deploy"
    try:
        kept = dotenv_file.read(dotenv)
    except OSError as error:
        raise SettingsError(f"{dotenv}: {error.strerror}") from None
    deployed = whole(topology)
    values = environment_values(deployed, kept, environment, brokers, lab=lab, tls=tls, standby=standby)
    composed = compose_file(topology)
    check_environment(deployed, values, composed, environment)
    passwords = {user: values[password_variable(user)] for user in deployed.users}
    loaded = definitions(topology.kmes, topology.links, passwords, lab=lab)
    configuration = rabbitmq_conf(tls=tls, nodes=CLUSTER_NODES if cluster else ())
    contents = {
        directory / COMPOSE_BASE: composed,
        directory / DEPLOYED_TOPOLOGY: format_topology(topology),
        deploy / "rabbitmq.conf": configuration,
        deploy / "definitions.json": json.dumps(loaded, indent=1) + "\n",
    }
    if standby:
        contents[directory / STANDBY_OVERLAY] = standby_overlay(topology, tls=tls)
    with writing(deploy):
        certificates: list[Path] = []
        if tls:
            contents[directory / TLS_OVERLAY] = tls_overlay(topology, brokers)
            certificates = _write_certificates(topology, directory)
            # The broker reads its certificate when it starts.
            configuration += (directory / TLS_FOLDER / BROKER_SERVICE / CERTIFICATE).read_text(encoding="utf-8")
        saes = provision_saes(topology, directory, values)
        missing = provision_devices(topology, directory, topology.kmes)
        values[DEPLOYMENT] = deployment_digest(topology, loaded, passwords, configuration)
        write_file(dotenv, dotenv_text(deployed, values), mode=0o600)
        for path, text in contents.items():
            # The services run as users of their own, so what is mounted into them is for all to read.
            write_file(path, text, mode=0o644)
    return replace(saes, files=(dotenv, *contents, *certificates, *saes.files), missing=tuple(missing))


def provision_certificates(topology: Topology, directory: Path) -> list[Path]:
    """Write the certificates of a deployment in ``directory``, those that last kept; return the files.

    Nobody but their owner comes to the keys, and each service, by what is mounted into it, to its own. Raises
    SettingsError as `write_deployment` does.
    """
    with writing(directory / "deploy"):
        return _write_certificates(topology, directory)


def _write_certificates(topology: Topology, directory: Path) -> list[Path]:
    folder = directory / TLS_FOLDER
    clients = (COORDINATOR, *CLIENTS, *topology.kmes)
    files = certificate_files(folder, topology.name, BROKER_SERVICE, _BROKER_HOSTS, clients)
    make_folder(folder, mode=0o700)
    for path, text in files.items():
        if path.parent != folder:
            make_folder(path.parent, mode=0o755)
        write_file(path, text, mode=0o600 if path.name == AUTHORITY_KEY else 0o644)
    return list(files)


def check_deployable(topology: Topology, brokers: Sequence[str], *, standby: bool = False) -> None:
    """Raise TopologyError for a network whose KMEs, or links, cannot have names of their own beside other services.

    These are the ``brokers`` and, with ``standby``, the second coordinator.
    """
    others = {*brokers, *([STANDBY_SERVICE] if standby else [])}
    if taken := sorted(others & set(topology.kmes)):
        raise TopologyError(
            f"{taken[0]!r} is the {'broker' if taken[0] in brokers else 'second coordinator'}'s name in a deployment",
            hint="choose another name for that KME",
        )
    seen: dict[str, Link] = {}
    for link in topology.links_of("simulated"):
        twin = seen.setdefault(link_secret_variable(*link), link)
        if twin != link:
            raise TopologyError(
                f"links {'/'.join(twin)} and {'/'.join(link)} would share one secret's name",
                hint="use single dashes, and only inside a name",
            )


def deployment_digest(
    topology: Topology | None, definitions: Mapping[str, Any], passwords: Mapping[str, str], configuration: str
) -> str:
    """Return the value of `DEPLOYMENT`, where the coordinator is for the network that it plans for."""
    users = [
        {name: value for name, value in user.items() if name != "password_hash"}  # salted anew each time
        for user in definitions["users"]
    ]
    network = ""
    if topology is not None:
        # SAEs are read again without a restart; where devices are is their KMEs' alone.
        notes = {link: replace(note, devices={}) for link, note in topology.link_notes.items()}
        network = format_topology(replace(topology, saes={}, link_notes=notes))
    meant = [{**definitions, "users": users}, dict(passwords), configuration, network]
    return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()[:16]
