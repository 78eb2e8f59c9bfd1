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
OPERATOR: Final = "operator"
SERVICE_USERS: Final = (COORDINATOR, CLI, OPERATOR)
"""Users of the broker beside the KMEs; no KME may have such a name."""
CLIENT_QUEUE_PREFIX: Final = f"{CLI}.q."
"""Of the queues that the command line has answers sent to."""
# No name has this character.
_STEP: Final = ">"


def link_name(sender: str, receiver: str) -> str:
    """Return how a direction of a QKD link is written."""
    return f"{sender}{_STEP}{receiver}"


def route_name(route: Route) -> str:
    """Return how a route is written."""
    return _STEP.join(route)


def parse_route(name: str) -> Route:
    """Return the route that `route_name` has written so."""
    return tuple(name.split(_STEP))
