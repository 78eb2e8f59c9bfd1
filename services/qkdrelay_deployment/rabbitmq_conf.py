"""RabbitMQ's configuration file in a deployment, for RabbitMQ 3.10 to 4.2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qkdrelay.broker.rabbitmq.settings import DEFAULT_TLS_PORT
from qkdrelay.broker.rabbitmq.tls import AUTHORITY, CERTIFICATE, KEY
from qkdrelay.messages.codec import MESSAGE_BYTES_MAX

TLS_DIRECTORY: Final = "/etc/qkdrelay/tls"
"""Folder of a container's certificates, in it."""

_COMMON = """\
# Written by `coordinator provision`, for RabbitMQ 3.10 to 4.2.

load_definitions = /etc/qkdrelay/definitions.json

# Larger relays are cut into several messages; prefetch times this bounds what a KME holds in memory.
max_message_size = {message_bytes}

# Sized for the container's memory and for a few QKD links, not for a host of its own.
total_memory_available_override_value = 1GB
raft.wal_max_size_bytes = 67108864
disk_free_limit.absolute = 256MB

# The root file system is read-only: logs go to the container's output, where `make logs` shows them.
log.file = false
log.console = true
log.console.formatter = json
log.ra.level = warning
"""

_TLS = """
# By TLS alone, and only for who has a certificate of this deployment's authority.
listeners.tcp = none
listeners.ssl.default = {port}
"""

_TLS_OPTIONS = """\
ssl_options.cacertfile = {directory}/{authority}
ssl_options.certfile = {directory}/{certificate}
ssl_options.keyfile = {directory}/{key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
ssl_options.versions.1 = tlsv1.3
ssl_options.versions.2 = tlsv1.2
"""

_SITE = """
# Those who are here come by the plain port, with passwords. Other sites come by TLS, each by the certificate of its
# name, and may read what is for them.
listeners.ssl.default = {port}
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = EXTERNAL
ssl_cert_login_from = common_name
"""
PLUGINS: Final = "deploy/enabled_plugins"
"""Of a site's broker, beside the compose file."""
ENABLED_PLUGINS: Final = "[rabbitmq_management,rabbitmq_prometheus,rabbitmq_auth_mechanism_ssl].\n"

_CLUSTER = """
# A node that cannot see most of the others pauses, and comes back by itself.
cluster_partition_handling = pause_minority
cluster_formation.peer_discovery_backend = classic_config
queue_leader_locator = balanced
# No queue is made before all are there: it would not be on those that come later.
cluster_formation.target_cluster_size_hint = {nodes}
"""


def rabbitmq_conf(*, tls: bool, nodes: Sequence[str]) -> str:
    """Return the configuration of a broker, or of each of a cluster's ``nodes`` if there are several."""
    text = _COMMON.format(message_bytes=MESSAGE_BYTES_MAX)
    if tls:
        text += _TLS.format(port=DEFAULT_TLS_PORT) + tls_options(TLS_DIRECTORY)
    if len(nodes) > 1:
        text += _CLUSTER.format(nodes=len(nodes))
        text += "".join(f"cluster_formation.classic_config.nodes.{i} = {node}\n" for i, node in enumerate(nodes, 1))
    return text


def site_rabbitmq_conf() -> str:
    """Return the configuration of the broker of a site."""
    text = _COMMON.format(message_bytes=MESSAGE_BYTES_MAX) + _SITE.format(port=DEFAULT_TLS_PORT)
    return text + tls_options(TLS_DIRECTORY)


def tls_options(directory: str) -> str:
    """Return how the broker's TLS listener finds its certificates in ``directory`` and checks those of clients."""
    return _TLS_OPTIONS.format(directory=directory, authority=AUTHORITY, certificate=CERTIFICATE, key=KEY)
