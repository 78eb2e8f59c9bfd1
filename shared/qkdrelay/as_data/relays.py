"""Relays, and the flow of the shares of one."""

from __future__ import annotations

from typing import Any

import msgspec

from qkdrelay.as_data.flow import Flow
from qkdrelay.messages.answers import AttackView, RelaySummary, RelayView, ShortSplit
from qkdrelay.messages.keys import key_id
from qkdrelay.network.names import Route, link_name


def relay_as_data(view: RelayView) -> dict[str, Any]:
    """Return a relay for programs; routes are lists of KMEs, links are written a>b."""
    flow = Flow(view)
    return {
        "relay_id": str(view.relay_id),
        "source": view.source,
        "target": view.target,
        "state": view.state,
        "reason": view.reason,
        "policy": view.policy,
        "withstand": msgspec.to_builtins(view.withstand),
        "protected": view.protected,
        "relies_on": list(view.relies_on),
        "key_count": view.key_count,
        "key_size_bits": view.key_size_bits,
        "key_ids": [str(key_id(view.relay_id, i)) for i in range(view.key_count)] if view.state == "confirmed" else [],
        "created_at": view.created_at,
        "elapsed_s": round(view.elapsed_s, 6),
        "shares": {link_name(*load.link): load.carried for load in flow.loads()},
        "planned_shares": {link_name(*load.link): load.planned for load in flow.loads()},
        "share_messages": flow.share_messages,
        "planned_share_messages": view.planned_share_messages,
        "missing": [list(route) for route in view.missing],
        "stuck": [{"route": list(s.route), "reason": s.reason} for s in view.stuck],
        "short_splits": _short(view.short_splits),
        "false_shares": [list(route) for route in view.false_shares],
        "disputed": [
            {"split": list(d.split), "sets": [[list(route) for route in group] for group in d.sets]}
            for d in view.disputed
        ],
        "equivocating": [list(route) for route in view.equivocating],
        "released_at": list(view.released_at),
        "final": view.final,
    }


def summary_as_data(relay: RelaySummary) -> dict[str, Any]:
    """Return a line of the list of relays for programs."""
    return {
        "relay_id": str(relay.relay_id),
        "source": relay.source,
        "target": relay.target,
        "state": relay.state,
        "reason": relay.reason,
        "key_count": relay.key_count,
        "key_size_bits": relay.key_size_bits,
        "supply": relay.supply,
        "created_at": relay.created_at,
        "elapsed_s": round(relay.elapsed_s, 6),
    }


def tree_as_data(view: RelayView) -> dict[str, Any]:
    """Return the tree for programs: each node with its KME, route, state and children."""
    flow = Flow(view)
    return {"relay_id": str(view.relay_id), "state": view.state, "flow": _node(flow, (view.source,))}


def _node(flow: Flow, route: Route) -> dict[str, Any]:
    kme = route[-1]
    node: dict[str, Any] = {"kme": kme, "route": list(route), "state": _state(flow, route)}
    if flow.plan.is_split(kme):
        node |= {"threshold": flow.plan.threshold(kme), "shares": len(flow.plan.successors(kme))}
    if reason := flow.stuck.get(route):
        node["reason"] = reason
    if marks := flow.marks(route):
        node["marks"] = [mark.lower() for mark in marks]
    if kme != flow.plan.target:
        node["children"] = [_node(flow, (*route, successor)) for successor in flow.plan.successors(kme)]
    return node


def _state(flow: Flow, route: Route) -> str:
    for state, routes in (("split", flow.split), ("forwarded", flow.forwarded), ("arrived", flow.collected)):
        if route in routes:
            return state
    return "held" if route in flow.seen else "stuck" if route in flow.stuck else "not seen"


def attack_as_data(view: AttackView) -> dict[str, Any]:
    """Return what an attack came to, for programs."""
    return {
        "relay_id": str(view.relay_id),
        "kmes": list(view.kmes),
        "shares_held": view.shares_held,
        "learned": view.learned,
        "short_splits": _short(view.short_splits),
    }


def _short(splits: tuple[ShortSplit, ...]) -> list[dict[str, Any]]:
    return [{"split": list(s.split), "present": s.present, "needed": s.needed} for s in splits]
