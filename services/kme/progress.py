"""Reports of how far a relay is at a KME: at its end, and at one that split a share of it."""

from __future__ import annotations

from uuid import UUID

from kme.model import EndpointRelay
from qkdrelay.messages.reports import Expected, Rebuilt, Report, Split, Started
from qkdrelay.network.names import Route
from qkdrelay.network.plan import Plan


def endpoint_report(relay: EndpointRelay) -> Report:
    """Return how far a relay is at this end that the other one may not know of yet."""
    if relay.role == "source":
        return Started(relay_id=relay.relay_id)
    if relay.proof is not None:
        return Rebuilt(relay_id=relay.relay_id, proof=relay.proof)
    return Expected(relay_id=relay.relay_id)


def split_report(plan: Plan, relay_id: UUID, route: Route) -> Split:
    """Return the report that the holder at ``plan.source`` split what it received on ``route``."""
    kme = plan.source
    return Split(relay_id=relay_id, route=route, shares=len(plan.successors(kme)), threshold=plan.threshold(kme))
