"""Hints for refusals that are data, in the options of the command line."""

from __future__ import annotations

from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.keys import KeyAmountError
from qkdrelay.network.demand import Demand
from qkdrelay.network.refusals import NoPlanError, UnprotectedError

_ENDS_ALLOW = "if the settings of both ends allow it, too (QKDRELAY_WITHSTAND_COMPROMISED=0)"


def hint_for(error: QkdRelayError) -> str | None:
    """Return one line for the person at the terminal, or None: what would be right."""
    match error:
        case NoPlanError():
            return _instead(error)
        case UnprotectedError():
            return f"--allow-unprotected relays them all the same, {_ENDS_ALLOW}"
        case KeyAmountError():
            return "ask for fewer or other keys (--keys, --key-size)"
    return error.hint


def _instead(refusal: NoPlanError) -> str:
    if refusal.meeting is not None:
        other = f"--policy {refusal.meeting.policy} does, with {refusal.meeting.messages} share messages"
        return other if refusal.of_policy else f"{other}, and there is nothing to allow"
    if refusal.allowed:
        return "without --policy the best plan there is, of all kinds, is taken"
    demand, nearest, have = refusal.demand, refusal.nearest, refusal.nearest.resilience
    if nearest.relies_on:
        honest = f"a plan that does if {', '.join(nearest.relies_on)} can be trusted, as the topology says"
        return f"{honest}, is taken with --allow-unprotected, {_ENDS_ALLOW}"
    if have.compromised == 0 and demand.readers > 0:
        return f"--allow-unprotected relays all the same, {_ENDS_ALLOW}; one KME on the way can then learn the keys"
    reach = Demand(min(have.compromised, demand.compromised), min(have.failed, demand.failed or 0))
    return f"possible with policy {nearest.policy}: --withstand {reach}"
