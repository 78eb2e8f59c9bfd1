"""Variables of a deployment: ``.env`` holds them, and the compose file hands each service its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from qkdrelay.broker.definitions import site_contents
from qkdrelay.broker.rabbitmq.settings import DEFAULT_PORT
from qkdrelay.messages.dialogue import key_setting
from qkdrelay.network.names import CLI, PAGE, SERVICE_USERS, Link
from qkdrelay.network.topology import Topology

CLI_KEY: Final = key_setting(CLI)
PAGE_KEY: Final = key_setting(PAGE)
COOKIE: Final = "CLUSTER_COOKIE"
AMQP_PORTS: Final = ("QKDRELAY_AMQP_PORT", "QKDRELAY_AMQP_PORT_2", "QKDRELAY_AMQP_PORT_3")
"""Ports of this host that the broker's nodes are published at."""
SITE: Final = "QKDRELAY_SITE"
"""Name of the site that a bundle is of."""
AMQPS_PORT: Final = "QKDRELAY_AMQPS_PORT"
"""Port of this host at which a site's broker is there for those of other sites."""
MANAGEMENT_PORT: Final = "QKDRELAY_MANAGEMENT_PORT"
PAGE_PORT: Final = "QKDRELAY_PAGE_PORT"
"""Port of this host that the page is served at."""
APPLICATIONS_PORT: Final = "QKDRELAY_ETSI014_PORT"
"""Port of this host that the first KME serves applications at; each of the others has the next one."""
APPLICATIONS_ADDRESS: Final = "QKDRELAY_ETSI014_ADDRESS"
"""Address of this host that those ports are published at."""
LOOPBACK: Final = "127.0.0.1"
REMEMBERED: Final = {
    "PYTHON_IMAGE": None,
    "RABBITMQ_IMAGE": None,
    "QKDRELAY_IMAGE": None,
    "COMPOSE_PROJECT_NAME": "qkdrelay",
    **{name: str(DEFAULT_PORT + number) for number, name in enumerate(AMQP_PORTS)},
    MANAGEMENT_PORT: "15672",
    PAGE_PORT: "8080",
    APPLICATIONS_PORT: "8443",
    APPLICATIONS_ADDRESS: LOOPBACK,
}
"""Settings taken over from the environment into ``.env``, so that later commands agree with the first one; defaults."""
WITHSTAND_DEFAULT: Final = "1"


@dataclass(frozen=True)
class Deployed:
    """What a deployment has variables for: a whole network, or one site of it."""

    users: tuple[str, ...]
    """Those with a password at the broker."""
    kmes: tuple[str, ...]
    """Those that are here."""
    controlled: tuple[str, ...]
    """KMEs whose key with the coordinator is here."""
    links: tuple[Link, ...]
    """Simulated links with a KME here."""
    asking: tuple[str, ...]
    """Sites whose command lines' keys with the coordinator are here: at its own all others, else this one."""
    has_coordinator: bool
    has_applications: bool
    """Whether KMEs serve the interface for applications."""


def whole(topology: Topology) -> Deployed:
    """Return a network that is deployed as one."""
    kmes, links = topology.kmes, topology.links_of("simulated")
    return Deployed((*kmes, *SERVICE_USERS), kmes, kmes, links, (), True, bool(topology.saes))


def part(topology: Topology, site: str) -> Deployed:
    """Return one site of a network."""
    here, has_coordinator = topology.sites[site].kmes, site == topology.coordinator
    links = tuple(link for link in topology.links_of("simulated") if not set(link).isdisjoint(here))
    users = site_contents(topology, site).users
    asking = tuple(name for name in topology.sites if name != site) if has_coordinator else (site,)
    controlled = topology.kmes if has_coordinator else here
    return Deployed(users, here, controlled, links, asking, has_coordinator, bool(topology.saes))


def password_variable(user: str) -> str:
    """Name the variable with the password of one of the broker's users."""
    return f"QKDRELAY_{user.upper()}_PASSWORD" if user in SERVICE_USERS else f"PASSWORD_{_upper(user)}"


def control_key_variable(kme: str) -> str:
    """Name the variable with the key that the coordinator shares with ``kme``."""
    return f"CONTROL_KEY_{_upper(kme)}"


def site_key_variable(site: str) -> str:
    """Name the variable with the key that the coordinator shares with the command line of another site."""
    return f"SITE_KEY_{_upper(site)}"


def withstand_variable(kme: str) -> str:
    """Name the variable with how many compromised KMEs a plan must withstand for ``kme`` to be an end of it."""
    return f"WITHSTAND_COMPROMISED_{_upper(kme)}"


def applications_port_variable(kme: str) -> str:
    """Name the variable with the port of this host that ``kme`` serves applications at."""
    return f"ETSI014_PORT_{_upper(kme)}"


def link_secret_variable(a: str, b: str) -> str:
    """Name the variable with the secret of the simulated QKD link between two KMEs, in either order."""
    first, second = sorted((a, b))
    return f"LINK_SECRET_{_upper(first)}__{_upper(second)}"


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")
