"""The texts of which the compose file is made, with what differs in braces."""

from __future__ import annotations

from typing import Final

SAES_FILE: Final = "saes.toml"
APPLICATIONS_PORT_INSIDE: Final = 8443
"""Of the interface for applications, in each KME's container."""

MISSING: Final = "run make up"
MISSING_AT_SITE: Final = "provision the sites again"
"""What to do about a variable that is missing."""

# Kept to what `docker compose` v2 and docker-compose 1.29 both take: no `name:`, no inline configs,
# no `start_interval`, no `depends_on.required`.
ANCHORS = """\
{heading}

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
{build}  user: "10001:10001"
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
{site}  # Health and metrics, for the other containers only: no port is published.
  QKDRELAY_HTTP: 0.0.0.0:{http_port}
"""
BROKER = """\
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
      # Busy waiting would take the cores from the KMEs. A limit that 3.10 does not have yet, and ignores here.
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: >-
        +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {{127,0,0,1}}
        -rabbit consumer_max_per_channel 16
      # Changes with the definitions, so that the broker is started anew to load them.
      QKDRELAY_DEPLOYMENT: ${{QKDRELAY_DEPLOYMENT:?run make up}}
    ports:
{amqps}      - "127.0.0.1:${{QKDRELAY_AMQP_PORT:-{port}}}:${{BROKER_PORT:-{port}}}"
      - "127.0.0.1:${{QKDRELAY_MANAGEMENT_PORT:-15672}}:15672"
    volumes:
      - rabbitmq:/var/lib/rabbitmq
      - ./deploy/rabbitmq.conf:/etc/rabbitmq/conf.d/90-qkdrelay.conf:ro
      - ./deploy/definitions.json:/etc/qkdrelay/definitions.json:ro
{broker_files}    tmpfs: ["/tmp:size=16m", "/var/log/rabbitmq:size=16m,mode=1777"]
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

HEADING = """\
# Written by `coordinator provision` for the network {network}; a test keeps it so. Run it with `make up`,
# which also makes .env (the secrets named here) and deploy/ (the broker's configuration).\
"""
BUILD = """\
  build:
    context: .
    dockerfile: infra/image/Dockerfile
    args:
      PYTHON_IMAGE: ${PYTHON_IMAGE:-python:3.11-slim}
"""

# Of a bundle: one site of several.
SITE_HEADING = """\
# Written by `coordinator provision --sites`: site {site} of the network {network}. README.md says how to start it.\
"""
SITE_ENVIRONMENT = """\
  QKDRELAY_SITE: {site}
  QKDRELAY_SITE_TLS: {tls}
"""
SITES = """\
      QKDRELAY_SITES: >-
        {sites}
"""
AMQPS = """\
      # For those of other sites alone, with a certificate of the network's authority.
      - "${{{variable}:-{published}}}:{port}"
"""

STANDBY_HEADING = """\
# Written by `coordinator provision --standby`: a second coordinator, which leads while the first does not.\
"""
LEADS_OR_WAITS = """\
      QKDRELAY_STANDBY: "true"
"""
COORDINATOR = """\
  {service}:
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
{settings}\
      QKDRELAY_DEPLOYMENT: ${{QKDRELAY_DEPLOYMENT:?run make up}}
      QKDRELAY_CONTROL_KEYS: >-
        {control_keys}
    volumes:
      - {service}:/var/lib/qkdrelay
      - ./{topology}:/etc/qkdrelay/topology.toml:ro
{mounted}\
"""

SITE_KEYS = """\
      QKDRELAY_SITE_KEYS: >-
        {keys}
"""
# Of a bundle: run by `docker compose run --rm cli`, and else not there.
COMMAND_LINE = """\
  cli:
    <<: *service
    profiles: [cli]
    entrypoint: [coordinator]
    healthcheck: {{disable: true}}
    environment:
      <<: *environment
      QKDRELAY_CLI_PASSWORD: {password}
      QKDRELAY_CLI_KEY: {key}
{coordinator}\
    volumes:
{mounted}\
"""
COORDINATOR_AT = """\
      QKDRELAY_COORDINATOR: {broker}
"""

PAGE = """\
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

# Where SAEs are named, and where links have devices. Directories are mounted, since a file that is mounted stays what
# it was when it is replaced.
SAES_DIRECTORY: Final = "/etc/qkdrelay/saes"
DEVICES_DIRECTORY: Final = "/etc/qkdrelay/devices"
DIRECTORY = f"""\
      QKDRELAY_SAES: {SAES_DIRECTORY}/{SAES_FILE}
"""
APPLICATIONS = f"""\
{DIRECTORY}\
      QKDRELAY_ETSI014: 0.0.0.0:{APPLICATIONS_PORT_INSIDE}
      QKDRELAY_ETSI014_TLS: {SAES_DIRECTORY}
"""
APPLICATIONS_PORT = """\
    ports:
      - "${{{address}:-{loopback}}}:${{{variable}:-{published}}}:{port}"
"""

KME = """\
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
{sites}\
      QKDRELAY_LINKS: >-
        {links}
    volumes:
      - {volume}:/var/lib/qkdrelay
{mounted}\
{published}\
"""
