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
from qkdrelay_deployment.rabbitmq_conf import TLS_DIRECTORY
from qkdrelay_deployment.variables import (
    APPLICATIONS_PORT,
    CLI_KEY,
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
SAES_FILE: Final = "saes.toml"
APPLICATIONS_PORT_INSIDE: Final = 8443
"""Of the interface for applications, in each KME's container."""
HTTP_PORT: Final = 9464
"""Of health and metrics, in each container."""
PAGE_PORT_INSIDE: Final = 8080
BROKER_SERVICE: Final = "rabbitmq"
CLUSTER_SERVICES: Final = (BROKER_SERVICE, "rabbitmq-2", "rabbitmq-3")
"""The broker's services in `CLUSTER_OVERLAY`; without it there is the first alone."""
CLUSTER_NODES: Final = ("rabbit@node-1", "rabbit@node-2", "rabbit@node-3")

# Kept to what `docker compose` v2 and docker-compose 1.29 both take: no `name:`, no inline configs,
# no `start_interval`, no `depends_on.required`.
_HEAD = """\
# Written by `coordinator provision` for the network {network}; a test keeps it so. Run it with `make up`,
# which also makes .env (the secrets named here) and deploy/ (the broker's configuration).

x-hardened: &hardened
  restart: unless-stopped
  read_only: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  logging:
    driver: json-file
    options: {{max-size: 10m, max-file: "3"}}
  # A dump of a KME's memory would hold its keys.
  ulimits: {{core: 0}}

x-service: &service
  <<: *hardened
  image: ${{QKDRELAY_IMAGE:-qkdrelay:local}}
  build:
    context: .
    dockerfile: infra/image/Dockerfile
    args:
      PYTHON_IMAGE: ${{PYTHON_IMAGE:-python:3.11-slim}}
  user: "10001:10001"
  tmpfs: ["/tmp:size=16m"]
  # Messages taken in and not handled yet may be 64 of 1 MiB for each link.
  mem_limit: 512m
  # Threads, most of them of a KME's interface for applications.
  pids_limit: 256
  stop_grace_period: 20s
  depends_on:
    rabbitmq: {{condition: service_healthy}}
  healthcheck:
    # Ready, or the reason why not; by bash, because starting Python every few seconds costs more than relaying.
    test:
      - CMD
      - bash
      - -c
      - >-
        exec 3<>/dev/tcp/127.0.0.1/{http_port} && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 &&
        read -r _ status _ <&3 && tail -n 1 <&3 && [ $$status = 200 ]
    interval: 10s
    timeout: 5s
    retries: 3
    start_period: 30s

x-environment: &environment
  QKDRELAY_BROKER: ${{BROKER_ADDRESSES:-rabbitmq:{port}}}
  QKDRELAY_BROKER_VHOST: {vhost}
  QKDRELAY_LAB: ${{QKDRELAY_LAB:-false}}
  QKDRELAY_LOG_FORMAT: ${{QKDRELAY_LOG_FORMAT:-json}}
  QKDRELAY_LOG_LEVEL: ${{QKDRELAY_LOG_LEVEL:-info}}
  # Health and metrics, for the other containers only: no port is published.
  QKDRELAY_HTTP: 0.0.0.0:{http_port}

services:
  rabbitmq:
    <<: *hardened
    image: ${{RABBITMQ_IMAGE:-rabbitmq:4.2-management}}
    # The node is named after localhost, and only localhost reaches its clustering ports: with the
    # cookie they would give a compromised KME the whole broker.
    hostname: rabbitmq
    # User rabbitmq of the official images and of ours; the official Alpine ones number it otherwise.
    user: "999:999"
    environment:
      RABBITMQ_NODENAME: rabbit@localhost
      ERL_EPMD_ADDRESS: 127.0.0.1
      # Busy waiting would take the cores from the KMEs.
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: >-
        +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {{127,0,0,1}}
      # Changes with the definitions, so that the broker is started anew to load them.
      QKDRELAY_DEPLOYMENT: ${{QKDRELAY_DEPLOYMENT:?run make up}}
    ports:
      - "127.0.0.1:${{QKDRELAY_AMQP_PORT:-{port}}}:${{BROKER_PORT:-{port}}}"
      - "127.0.0.1:${{QKDRELAY_MANAGEMENT_PORT:-15672}}:15672"
    volumes:
      - rabbitmq:/var/lib/rabbitmq
      - ./deploy/rabbitmq.conf:/etc/rabbitmq/conf.d/90-qkdrelay.conf:ro
      - ./deploy/definitions.json:/etc/qkdrelay/definitions.json:ro
    tmpfs: ["/tmp:size=16m", "/var/log/rabbitmq:size=16m,mode=1777"]
    mem_limit: 1g
    pids_limit: 512
    stop_grace_period: 30s
    healthcheck:
      test: [CMD, bash, -c, "</dev/tcp/127.0.0.1/${{BROKER_PORT:-{port}}}"]
      interval: 5s
      timeout: 5s
      retries: 12
      start_period: 60s
"""

_COORDINATOR = """\
  coordinator:
    <<: *service
    command: [coordinator, serve]
    environment:
      <<: *environment
      QKDRELAY_BROKER_USER: {user}
      QKDRELAY_BROKER_PASSWORD: {password}
      QKDRELAY_CLI_PASSWORD: {cli_password}
      QKDRELAY_CLI_KEY: {cli_key}
      QKDRELAY_PAGE_KEY: {page_key}
      QKDRELAY_STORE: /var/lib/qkdrelay/coordinator.sqlite
      QKDRELAY_TOPOLOGY: /etc/qkdrelay/topology.toml
{directory}\
      QKDRELAY_DEPLOYMENT: ${{QKDRELAY_DEPLOYMENT:?run make up}}
      QKDRELAY_CONTROL_KEYS: >-
        {control_keys}
    volumes:
      - coordinator:/var/lib/qkdrelay
      - ./{topology}:/etc/qkdrelay/topology.toml:ro
{mounted}\
"""

_PAGE = """\
  page:
    <<: *service
    command: [coordinator, page]
    environment:
      <<: *environment
      QKDRELAY_BROKER_USER: {user}
      QKDRELAY_BROKER_PASSWORD: {password}
      QKDRELAY_PAGE_KEY: {page_key}
      QKDRELAY_PAGE: 0.0.0.0:{port}
      QKDRELAY_PAGE_HOSTS: ${{QKDRELAY_PAGE_HOSTS:-}}
    ports:
      - "127.0.0.1:${{{variable}:-{published}}}:{port}"
"""

# Where SAEs are named. A directory is mounted, since a file that is mounted stays what it was when it is replaced.
_SAES_DIRECTORY: Final = "/etc/qkdrelay/saes"
_DIRECTORY = f"""\
      QKDRELAY_SAES: {_SAES_DIRECTORY}/{SAES_FILE}
"""
_APPLICATIONS = f"""\
{_DIRECTORY}\
      QKDRELAY_ETSI014: 0.0.0.0:{APPLICATIONS_PORT_INSIDE}
      QKDRELAY_ETSI014_TLS: {_SAES_DIRECTORY}
"""
_APPLICATIONS_PORT = """\
    ports:
      - "127.0.0.1:${{{variable}:-{published}}}:{port}"
"""

_KME = """\
  {kme}:
    <<: *service
    command: [kme, run]
    environment:
      <<: *environment
      QKDRELAY_KME: {kme}
      QKDRELAY_BROKER_USER: {kme}
      QKDRELAY_BROKER_PASSWORD: {password}
      QKDRELAY_STORE: /var/lib/qkdrelay/kme.sqlite
      QKDRELAY_CONTROL_KEY: {control_key}
      QKDRELAY_WITHSTAND_COMPROMISED: {withstand}
{applications}\
      QKDRELAY_LINKS: >-
        {links}
    volumes:
      - {volume}:/var/lib/qkdrelay
{mounted}\
"""


def kme_saes(kme: str) -> str:
    """Return the folder of what ``kme`` has for its interface for applications: directory of SAEs, certificates."""
    return f"deploy/kmes/{kme}/saes"


def compose_file(topology: Topology) -> str:
    """Return the compose file of ``topology``: the broker, the coordinator, and a service for each KME."""
    network = json.dumps(escaped(topology.name, NAME_MAX), ensure_ascii=False)
    services = [
        _HEAD.format(network=network, vhost=VHOST, port=DEFAULT_PORT, http_port=HTTP_PORT),
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
    return _COORDINATOR.format(
        user=COORDINATOR,
        topology=DEPLOYED_TOPOLOGY,
        password=_required(password_variable(COORDINATOR)),
        cli_password=_required(password_variable(CLI)),
        cli_key=_required(CLI_KEY),
        page_key=_required(PAGE_KEY),
        control_keys=_folded(keys),
        directory=_DIRECTORY if topology.saes else "",
        mounted=_mounted_saes(COORDINATOR_SAES) if topology.saes else "",
    )


def _page() -> str:
    return _PAGE.format(
        user=PAGE,
        password=_required(password_variable(PAGE)),
        page_key=_required(PAGE_KEY),
        port=PAGE_PORT_INSIDE,
        variable=PAGE_PORT,
        published=REMEMBERED[PAGE_PORT],
    )


def _mounted_saes(folder: str) -> str:
    return f"      - ./{folder}:{_SAES_DIRECTORY}:ro\n"


def _kme(topology: Topology, kme: str) -> str:
    links = {
        near: {"secret": _required(link_secret_variable(kme, near)), **topology.note(kme, near).settings}
        for near in topology.neighbours[kme]
    }
    return _KME.format(
        kme=_plain(kme),
        password=_required(password_variable(kme)),
        control_key=_required(control_key_variable(kme)),
        withstand=f"${{{withstand_variable(kme)}:-{WITHSTAND_DEFAULT}}}",
        links=_folded(links),
        volume=kme,
        applications=_APPLICATIONS if topology.saes else "",
        mounted=_mounted_saes(kme_saes(kme)) + _published(topology, kme) if topology.saes else "",
    )


def _published(topology: Topology, kme: str) -> str:
    published = int(REMEMBERED[APPLICATIONS_PORT] or 0) + topology.kmes.index(kme)
    variable = applications_port_variable(kme)
    return _APPLICATIONS_PORT.format(variable=variable, published=published, port=APPLICATIONS_PORT_INSIDE)


def _plain(name: str) -> str:
    """Quote a name that YAML might take for a number, a date or a truth value."""
    plain = re.fullmatch(r"[a-z]{3,}[a-z0-9-]*", name) and name not in ("yes", "off", "true", "false", "null")
    return name if plain else f'"{name}"'


def _required(variable: str) -> str:
    return f"${{{variable}:?run make up}}"


def _folded(members: Mapping[str, object]) -> str:
    """Return a JSON object with a member a line, to stand under ``>-``, which joins the lines again."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in members.items()]
    return ("{" + ",\n".join(lines) + "}").replace("\n", "\n" + 8 * " ")
