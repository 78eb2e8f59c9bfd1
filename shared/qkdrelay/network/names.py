"""Names of KMEs, services, links and routes, and the one way they are written in stores, logs and on screen."""

from __future__ import annotations

import re
from typing import Final

Link = tuple[str, str]
"""A QKD link by its two KMEs; where the direction matters, the sender first."""
Route = tuple[str, ...]
"""The KMEs a share has passed, source first, the present holder last."""

KME_NAME: Final = re.compile(r"[a-z0-9-]{1,32}")
KME_NAME_RULE: Final = "1 to 32 of a-z, 0-9 and '-'"
"""`KME_NAME` in words."""
SAE_ID: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,64}")
SAE_ID_RULE: Final = "1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', not '.' or '..'"
"""`SAE_ID` in words: ids of SAEs (secure application entities), compared exactly."""
COORDINATOR: Final = "coordinator"
CLI: Final = "cli"
PAGE: Final = "page"
CLIENTS: Final = (CLI, PAGE)
"""Who asks the coordinator: the command line anything, the page what a viewer may."""
OPERATOR: Final = "operator"
SERVICE_USERS: Final = (COORDINATOR, *CLIENTS, OPERATOR)
"""Users of the broker beside the KMEs; no KME may have such a name."""
CLIENT_QUEUE: Final = re.compile(rf"({CLI}(\.{KME_NAME.pattern})?|{PAGE})\.q\.[0-9a-f-]{{1,64}}")
"""A queue that a client has answers sent to; that of a command line at another site than the coordinator's names it."""
# No name has this character.
_STEP: Final = ">"


def site_user(site: str) -> str:
    """Name the user that a site is at the brokers of others; no KME can have such a name."""
    return f"site.{site}"


def client_queue_prefix(client: str, site: str = "") -> str:
    """Return the beginning of the names of the queues that a client (one of `CLIENTS`) has answers sent to.

    ``site`` is where it is, if that is another than the coordinator's.
    """
    return f"{client}.{site}.q." if site else f"{client}.q."


def parse_client_queue(queue: str) -> tuple[str, str]:
    """Return whose queue it is, by a name that is one of `CLIENT_QUEUE`: the client, and its site if another."""
    client, _, site = queue.rpartition(".q.")[0].partition(".")
    return client, site


def link_name(sender: str, receiver: str) -> str:
    """Return how a direction of a QKD link is written."""
    return f"{sender}{_STEP}{receiver}"


def route_name(route: Route) -> str:
    """Return how a route is written."""
    return _STEP.join(route)


def parse_route(name: str) -> Route:
    """Return the route that `route_name` has written so."""
    return tuple(name.split(_STEP))
