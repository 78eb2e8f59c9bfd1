"""The canonical encoding of a plan (protocol, section 2)."""

from __future__ import annotations

from functools import lru_cache

import msgpack
import msgspec

from qkdrelay.errors import InvalidPlanError, MalformedMessageError
from qkdrelay.messages.codec import typed
from qkdrelay.messages.fields import PLAN_BYTES_MAX
from qkdrelay.network.plan import KMES_MAX, PLANS_KEPT, SUCCESSORS_MAX, Hop, Plan

_WireHop = tuple[int, tuple[str, ...]]
_DECODER = msgspec.msgpack.Decoder(tuple[str, str, dict[str, _WireHop]])


@lru_cache(maxsize=PLANS_KEPT)
def encode_plan(plan: Plan) -> bytes:
    """Return the canonical bytes of a plan: [source, target, {kme: [threshold, [successor, ...]]}], KMEs sorted."""
    hops = {kme: (hop.threshold, hop.successors) for kme, hop in sorted(plan.hops.items())}
    encoded: bytes = msgpack.packb((plan.source, plan.target, hops))
    return encoded


@lru_cache(maxsize=PLANS_KEPT)
def decode_plan(data: bytes) -> Plan:
    """Return the plan in ``data``, checked (protocol, section 2).

    Raises MalformedMessageError or InvalidPlanError; bytes that are not the canonical encoding are malformed.
    """
    if len(data) > PLAN_BYTES_MAX:
        raise MalformedMessageError(f"the plan has {len(data)} bytes; at most {PLAN_BYTES_MAX} are allowed")
    source, target, wire = typed(_DECODER, data)
    if len(wire) > KMES_MAX or any(len(hop[1]) > SUCCESSORS_MAX for hop in wire.values()):
        raise InvalidPlanError("the plan has too many KMEs or successors")
    plan = Plan.checked(source, target, {kme: Hop(hop[1], hop[0]) for kme, hop in wire.items()})
    if encode_plan(plan) != data:
        raise MalformedMessageError("the plan is not in its canonical encoding")
    return plan
