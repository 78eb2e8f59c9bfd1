"""The compose file of a network: which service gets what, and no secret but by its variable's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from qkdrelay.broker.names import VHOST
from qkdrelay.broker.rabbitmq.settings import DEFAULT_PORT
from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.network.names import CLI, COORDINATOR, PAGE
from qkdrelay.network.topology import Topology
from qkdrelay_deployment import compose_texts as texts
from qkdrelay_deployment.compose_texts import APPLICATIONS_PORT_INSIDE
from qkdrelay_deployment.rabbitmq_conf import TLS_DIRECTORY
from qkdrelay_deployment.variables import (
    APPLICATIONS_ADDRESS,
    APPLICATIONS_PORT,
    CLI_KEY,
    LOOPBACK,
    PAGE_KEY,
    PAGE_PORT,
    REMEMBERED,
    WITHSTAND_DEFAULT,
    applications_port_variable,
    control_key_variable,
    link_secret_variable,
    password_variable,
    withstand_variable,
)

COMPOSE_BASE: Final = "docker-compose.yml"
DEPLOYED_TOPOLOGY: Final = "deploy/topology.toml"
TLS_OVERLAY: Final = "deploy/tls.yml"
CLUSTER_OVERLAY: Final = "infra/cluster/docker-compose.yml"
TLS_FOLDER: Final = "deploy/tls"
"""Has the certificates, beside the compose file."""
COORDINATOR_SAES: Final = "deploy/coordinator/saes"
"""Has the coordinator's directory of SAEs, which is this deployment's; KMEs have copies in `kme_saes`."""
DEVICES_FOLDER: Final = "deploy/devices"
"""Has certificates and keys for QKD devices, which whoever runs the network puts there, in `device_files`."""
HTTP_PORT: Final = 9464
"""Of health and metrics, in each container."""
PAGE_PORT_INSIDE: Final = 8080
BROKER_SERVICE: Final = "rabbitmq"
CLUSTER_SERVICES: Final = (BROKER_SERVICE, "rabbitmq-2", "rabbitmq-3")
"""The broker's services in `CLUSTER_OVERLAY`; without it there is the first alone."""
CLUSTER_NODES: Final = ("rabbit@node-1", "rabbit@node-2", "rabbit@node-3")


def kme_saes(kme: str) -> str:
    """Return the folder of what ``kme`` has for its interface for applications: directory of SAEs, certificates."""
    return f"deploy/kmes/{kme}/saes"


def device_files(kme: str, peer: str) -> str:
    """Return the folder of what ``kme`` shows to its device of the link with ``peer``, and knows that by."""
    return f"{DEVICES_FOLDER}/{kme}/{peer}"


def compose_file(topology: Topology) -> str:
    """Return the compose file of ``topology``: the broker, the coordinator, and a service for each KME."""
    network = json.dumps(escaped(topology.name, NAME_MAX), ensure_ascii=False)
    services = [
        texts.HEAD.format(network=network, vhost=VHOST, port=DEFAULT_PORT, http_port=HTTP_PORT),
        _coordinator(topology),
        _page(),
    ]
    services += [_kme(topology, kme) for kme in topology.kmes]
    volumes = "".join(f"  {_plain(name)}:\n" for name in (BROKER_SERVICE, COORDINATOR, *topology.kmes))
    return "\n".join((*services, f"volumes:\n{volumes}"))


def tls_overlay(topology: Topology, brokers: Iterable[str]) -> str:
    """Return what is laid over the compose file for TLS: each service's certificates, and where they are."""
    services = [f"  {name}:\n    volumes: [{_mounted_certificates(BROKER_SERVICE)}]\n" for name in brokers]
    for name in (COORDINATOR, PAGE, *topology.kmes):
        services += [
            f"  {_plain(name)}:\n",
            f"    environment: {{QKDRELAY_BROKER_TLS: {TLS_DIRECTORY}}}\n",
            f"    volumes: [{_mounted_certificates(name)}]\n",
        ]
    head = f"# Written by `coordinator provision`: TLS, laid over {COMPOSE_BASE}."
    return f"{head}\n\nservices:\n{''.join(services)}"


def _mounted_certificates(name: str) -> str:
    return f'"./{TLS_FOLDER}/{name}:{TLS_DIRECTORY}:ro"'


def _coordinator(topology: Topology) -> str:
    keys = {kme: _required(control_key_variable(kme)) for kme in topology.kmes}
    return texts.COORDINATOR.format(
        user=COORDINATOR,
        topology=DEPLOYED_TOPOLOGY,
        password=_required(password_variable(COORDINATOR)),
        cli_password=_required(password_variable(CLI)),
        cli_key=_required(CLI_KEY),
        page_key=_required(PAGE_KEY),
        control_keys=_folded(keys),
        directory=texts.DIRECTORY if topology.saes else "",
        mounted=_mounted(COORDINATOR_SAES, texts.SAES_DIRECTORY) if topology.saes else "",
    )


def _page() -> str:
    return texts.PAGE.format(
        user=PAGE,
        password=_required(password_variable(PAGE)),
        page_key=_required(PAGE_KEY),
        port=PAGE_PORT_INSIDE,
        variable=PAGE_PORT,
        published=REMEMBERED[PAGE_PORT],
    )


def _mounted(folder: str, inside: str) -> str:
    return f"      - ./{folder}:{inside}:ro\n"


def _kme(topology: Topology, kme: str) -> str:
    near = topology.neighbours[kme]
    mounted = [_mounted(kme_saes(kme), texts.SAES_DIRECTORY)] if topology.saes else []
    mounted += [
        _mounted(device_files(kme, peer), _device_files_inside(peer))
        for peer in near
        if topology.note(kme, peer).source == "etsi014"
    ]
    return texts.KME.format(
        kme=_plain(kme),
        password=_required(password_variable(kme)),
        control_key=_required(control_key_variable(kme)),
        withstand=f"${{{withstand_variable(kme)}:-{WITHSTAND_DEFAULT}}}",
        links=_folded({peer: _link(topology, kme, peer) for peer in near}),
        volume=kme,
        applications=texts.APPLICATIONS if topology.saes else "",
        mounted="".join(mounted),
        published=_published(topology, kme) if topology.saes else "",
    )


def _link(topology: Topology, kme: str, peer: str) -> dict[str, object]:
    """Return what ``kme`` is told of its link with ``peer``."""
    note = topology.note(kme, peer)
    said = {name: _unsubstituted(value) for name, value in note.settings(kme, peer).items()}
    if note.source == "etsi014":
        return {**said, "tls": _device_files_inside(peer)}
    return {"secret": _required(link_secret_variable(kme, peer)), **said}


def _device_files_inside(peer: str) -> str:
    return f"{texts.DEVICES_DIRECTORY}/{peer}"


def _published(topology: Topology, kme: str) -> str:
    published = int(REMEMBERED[APPLICATIONS_PORT] or 0) + topology.kmes.index(kme)
    variable = applications_port_variable(kme)
    return texts.APPLICATIONS_PORT.format(
        address=APPLICATIONS_ADDRESS,
        loopback=LOOPBACK,
        variable=variable,
        published=published,
        port=APPLICATIONS_PORT_INSIDE,
    )


def _plain(name: str) -> str:
    """Quote a name that YAML might take for a number, a date or a truth value."""
    plain = re.fullmatch(r"[a-z]{3,}[a-z0-9-]*", name) and name not in ("yes", "off", "true", "false", "null")
    return name if plain else f'"{name}"'


def _required(variable: str) -> str:
    return f"${{{variable}:?run make up}}"


def _unsubstituted(value: object) -> object:
    """Return a value that compose takes as it is, although it puts variables where there is a dollar."""
    return value.replace("$", "$$") if isinstance(value, str) else value


def _folded(members: Mapping[str, object]) -> str:
    """Return a JSON object with a member a line, to stand under ``>-``, which joins the lines again."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in members.items()]
    return ("{" + ",\n".join(lines) + "}").replace("\n", "\n" + 8 * " ")
