"""Plans for a relay and what each withstands."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from qkdrelay.network.candidates import Candidate
from qkdrelay.network.names import link_name


def candidate_as_data(candidate: Candidate) -> dict[str, Any]:
    """Return a candidate for programs; links are written a>b, link key is in bytes."""
    hops = candidate.plan.hops
    return {
        "policy": candidate.policy,
        "withstands": asdict(candidate.resilience),
        "messages": candidate.messages,
        "link_key": {link_name(*link): drawn for link, drawn in candidate.link_key.items()},
        "link_key_batch": {link_name(*link): drawn for link, drawn in candidate.link_key_batch.items()},
        "successors": {kme: list(hops[kme].successors) for kme in candidate.plan.order if kme in hops},
        "thresholds": {kme: hops[kme].threshold for kme in candidate.plan.order if kme in hops},
        "rate_bps": None if math.isinf(candidate.rate_bps) else candidate.rate_bps,
        "meets_wish": candidate.meets_demand,
        "relies_on": list(candidate.relies_on),
        "chosen": candidate.chosen,
    }
