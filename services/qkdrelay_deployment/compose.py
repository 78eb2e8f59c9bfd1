"""The compose file of a network: which service gets what, and no secret but by its variable's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from qkdrelay.broker.names import VHOST
from qkdrelay.broker.rabbitmq.settings import DEFAULT_PORT, DEFAULT_TLS_PORT
from qkdrelay.escaping import NAME_MAX, escaped
from qkdrelay.network.names import CLI, COORDINATOR, PAGE
from qkdrelay.network.topology import Topology
from qkdrelay_deployment import compose_texts as texts
from qkdrelay_deployment.compose_texts import APPLICATIONS_PORT_INSIDE
from qkdrelay_deployment.rabbitmq_conf import PLUGINS, TLS_DIRECTORY
from qkdrelay_deployment.variables import (
    AMQPS_PORT,
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
    site_key_variable,
    withstand_variable,
)

COMPOSE_BASE: Final = "docker-compose.yml"
DEPLOYED_TOPOLOGY: Final = "deploy/topology.toml"
TLS_OVERLAY: Final = "deploy/tls.yml"
STANDBY_OVERLAY: Final = "deploy/standby.yml"
CLUSTER_OVERLAY: Final = "infra/cluster/docker-compose.yml"
TLS_FOLDER: Final = "deploy/tls"
"""Has the certificates, beside the compose file."""
SITE_CERTIFICATE: Final = "site"
"""In it, of a bundle: what the brokers of other sites know this one by."""
SITE_TLS_DIRECTORY: Final = "/etc/qkdrelay/site"
"""That folder, in a container."""
COORDINATOR_SAES: Final = "deploy/coordinator/saes"
"""Has the coordinator's directory of SAEs, which is this deployment's; KMEs have copies in `kme_saes`."""
DEVICES_FOLDER: Final = "deploy/devices"
"""Has certificates and keys for QKD devices, which whoever runs the network puts there, in `device_files`."""
HTTP_PORT: Final = 9464
"""Of health and metrics, in each container."""
PAGE_PORT_INSIDE: Final = 8080
BROKER_SERVICE: Final = "rabbitmq"
STANDBY_SERVICE: Final = "coordinator-2"
"""The second coordinator, where there are two."""
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
    heading = texts.HEADING.format(network=_shown(topology.name))
    services = [_head(heading, build=texts.BUILD), _coordinator(topology), _page()]
    services += [_kme(topology, kme, topology.kmes.index(kme)) for kme in topology.kmes]
    return _with_volumes(services, (BROKER_SERVICE, COORDINATOR, *topology.kmes))


def site_compose_file(topology: Topology, site: str) -> str:
    """Return the compose file of one site's bundle: its broker, its KMEs, and the coordinator if that is there."""
    here = topology.sites[site]
    of_site = texts.SITE_ENVIRONMENT.format(site=_plain(site), tls=SITE_TLS_DIRECTORY)
    files = {f"{TLS_FOLDER}/{BROKER_SERVICE}": TLS_DIRECTORY, PLUGINS: "/etc/rabbitmq/enabled_plugins"}
    head = _head(
        texts.SITE_HEADING.format(site=site, network=_shown(topology.name)),
        site=of_site,
        amqps=texts.AMQPS.format(variable=AMQPS_PORT, published=here.port, port=DEFAULT_TLS_PORT),
        broker_files="".join(_mounted(folder, inside) for folder, inside in files.items()),
    )
    services, volumes = [head], [BROKER_SERVICE]
    own_files = _mounted(f"{TLS_FOLDER}/{SITE_CERTIFICATE}", SITE_TLS_DIRECTORY)
    if site == topology.coordinator:
        services += [_coordinator(topology, own_files), _page()]
        volumes.append(COORDINATOR)
    for number, kme in enumerate(here.kmes):
        services.append(_kme(topology, kme, number, own_files))
        volumes.append(kme)
    services.append(_command_line(topology, site, own_files))
    return _with_volumes(services, volumes).replace(f":?{texts.MISSING}}}", f":?{texts.MISSING_AT_SITE}}}")


def _head(heading: str, *, build: str = "", site: str = "", amqps: str = "", broker_files: str = "") -> str:
    broker = texts.BROKER.format(port=DEFAULT_PORT, amqps=amqps, broker_files=broker_files)
    return f"{_anchors(heading, build=build, site=site)}\n{broker}"


def _anchors(heading: str, *, build: str, site: str) -> str:
    """Return what the services of a file have in common."""
    return texts.ANCHORS.format(
        heading=heading, vhost=VHOST, port=DEFAULT_PORT, http_port=HTTP_PORT, build=build, site=site
    )


def _with_volumes(services: Iterable[str], names: Iterable[str]) -> str:
    volumes = "".join(f"  {_plain(name)}:\n" for name in names)
    return "\n".join((*services, f"volumes:\n{volumes}"))


def _shown(name: str) -> str:
    return json.dumps(escaped(name, NAME_MAX), ensure_ascii=False)


def standby_overlay(topology: Topology, *, site: str = "", tls: bool = False) -> str:
    """Return what is laid over the compose file, that of one ``site`` or of all, for a second coordinator."""
    of_site = texts.SITE_ENVIRONMENT.format(site=_plain(site), tls=SITE_TLS_DIRECTORY) if site else ""
    anchors = _anchors(texts.STANDBY_HEADING, build="" if site else texts.BUILD, site=of_site)
    first = f"services:\n  {COORDINATOR}:\n    environment:\n{texts.LEADS_OR_WAITS}"
    own_files = _mounted(f"{TLS_FOLDER}/{SITE_CERTIFICATE}", SITE_TLS_DIRECTORY) if site else ""
    settings = texts.LEADS_OR_WAITS
    if tls:
        settings += f"      QKDRELAY_BROKER_TLS: {TLS_DIRECTORY}\n"
        own_files += _mounted(f"{TLS_FOLDER}/{COORDINATOR}", TLS_DIRECTORY)
    second = _coordinator(topology, own_files, service=STANDBY_SERVICE, settings=settings)
    overlay = _with_volumes([anchors, first, second], [STANDBY_SERVICE])
    return overlay.replace(f":?{texts.MISSING}}}", f":?{texts.MISSING_AT_SITE}}}") if site else overlay


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


def _coordinator(topology: Topology, own_files: str = "", *, service: str = COORDINATOR, settings: str = "") -> str:
    keys = {kme: _required(control_key_variable(kme)) for kme in topology.kmes}
    others = {site: _required(site_key_variable(site)) for site in topology.sites if site != topology.coordinator}
    site_keys = texts.SITE_KEYS.format(keys=_folded(others)) if others else ""
    return texts.COORDINATOR.format(
        service=service,
        user=COORDINATOR,
        topology=DEPLOYED_TOPOLOGY,
        password=_required(password_variable(COORDINATOR)),
        cli_password=_required(password_variable(CLI)),
        cli_key=_required(CLI_KEY),
        page_key=_required(PAGE_KEY),
        control_keys=_folded(keys),
        settings=settings + site_keys + (texts.DIRECTORY if topology.saes else ""),
        mounted=own_files + (_mounted(COORDINATOR_SAES, texts.SAES_DIRECTORY) if topology.saes else ""),
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


def _command_line(topology: Topology, site: str, own_files: str) -> str:
    """Return the command line of a site: at another than the coordinator's it is told where that is."""
    elsewhere = site != topology.coordinator
    broker = topology.sites[topology.coordinator].broker
    return texts.COMMAND_LINE.format(
        password=_required(password_variable(CLI)),
        key=_required(site_key_variable(site) if elsewhere else CLI_KEY),
        coordinator=texts.COORDINATOR_AT.format(broker=broker) if elsewhere else "",
        mounted=own_files,
    )


def _mounted(folder: str, inside: str) -> str:
    return f"      - ./{folder}:{inside}:ro\n"


def _kme(topology: Topology, kme: str, number: int, site_files: str = "") -> str:
    """Return the service of a KME, the ``number``th at its place, from 0."""
    near = topology.neighbours[kme]
    mounted = [site_files, *([_mounted(kme_saes(kme), texts.SAES_DIRECTORY)] if topology.saes else [])]
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
        published=_published(kme, number) if topology.saes else "",
        sites=_sites(topology, kme),
    )


def _sites(topology: Topology, kme: str) -> str:
    """Return what ``kme`` is told of the other sites that it reads at; nothing where there is one for all."""
    if not topology.sites:
        return ""
    elsewhere = topology.elsewhere(topology.site_of[kme])
    near = {peer: elsewhere[peer] for peer in topology.neighbours[kme] if peer in elsewhere}
    leading = elsewhere.get(COORDINATOR)
    told: dict[str, object] = {}
    for site in topology.sites:
        kmes = [peer for peer, where in near.items() if where == site]
        if kmes or site == leading:
            of_coordinator = {"coordinator": True} if site == leading else {}
            told[site] = {"broker": topology.sites[site].broker, "kmes": kmes, **of_coordinator}
    return texts.SITES.format(sites=_folded(told))


def _link(topology: Topology, kme: str, peer: str) -> dict[str, object]:
    """Return what ``kme`` is told of its link with ``peer``."""
    note = topology.note(kme, peer)
    said = {name: _unsubstituted(value) for name, value in note.settings(kme, peer).items()}
    if note.source == "etsi014":
        return {**said, "tls": _device_files_inside(peer)}
    return {"secret": _required(link_secret_variable(kme, peer)), **said}


def _device_files_inside(peer: str) -> str:
    return f"{texts.DEVICES_DIRECTORY}/{peer}"


def _published(kme: str, number: int) -> str:
    published = int(REMEMBERED[APPLICATIONS_PORT] or 0) + number
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
    return f"${{{variable}:?{texts.MISSING}}}"


def _unsubstituted(value: object) -> object:
    """Return a value that compose takes as it is, although it puts variables where there is a dollar."""
    return value.replace("$", "$$") if isinstance(value, str) else value


def _folded(members: Mapping[str, object]) -> str:
    """Return a JSON object with a member a line, to stand under ``>-``, which joins the lines again."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in members.items()]
    return ("{" + ",\n".join(lines) + "}").replace("\n", "\n" + 8 * " ")
