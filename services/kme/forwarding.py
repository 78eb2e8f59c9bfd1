"""A KME's decisions on shares: one share in, effects out. No input or output, no clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from kme.effects import Effect, KeepRelay, KeepShare, LogEvent, SendReport, SendShare, TryRebuild
from kme.memory import Memory
from kme.model import LATE_S, EndpointRelay, NodeSettings
from kme.progress import split_report
from qkdrelay.errors import QkdRelayError
from qkdrelay.messages.assignments import TAG_PAIRS_MAX
from qkdrelay.messages.fields import TIMEOUT_S_MAX
from qkdrelay.messages.keys import KEY_BYTES_MAX
from qkdrelay.messages.link import ShareHeader
from qkdrelay.messages.plans import decode_plan
from qkdrelay.messages.reports import Collected, Forwarded
from qkdrelay.network.key_cost import payload_bytes
from qkdrelay.network.names import Route
from qkdrelay.network.plan import KMES_MAX, Plan
from qkdrelay.schemes.recursive import reshare
from qkdrelay.sharing import amd

PAYLOAD_BYTES_MAX = payload_bytes(1, 8 * KEY_BYTES_MAX, TAG_PAIRS_MAX)
EARLY_SHARES_MAX, EARLY_BYTES_MAX = 2_000, 64 << 20
"""Shares kept at a target for relays it does not expect (yet)."""


class RejectedShareError(QkdRelayError):
    """A share that came over its link with a valid seal, and yet does not fit; the message says why."""


class ShareHandler(Protocol):
    """Whoever decides on shares that come over links."""

    def on_share(self, sender: str, header: ShareHeader, payload: bytes, memory: Memory, now: float) -> list[Effect]:
        """Decide on a share that came over the link from ``sender``; raise RejectedShareError if it does not fit."""
        ...


class Forwarding:
    """An honest KME's decisions on the shares it receives (protocol, sections 2 and 6)."""

    def __init__(self, settings: NodeSettings, random: Callable[[int], bytes]) -> None:
        """``random`` returns that many uniform bytes: the operating system's, except where a test replays them."""
        self._me, self._random = settings, random

    def on_share(self, sender: str, header: ShareHeader, payload: bytes, memory: Memory, now: float) -> list[Effect]:
        """Decide on a share that came over the link from ``sender``; raise RejectedShareError if it does not fit."""
        part = self._check(sender, header, now)
        if len(payload) > amd.encoded_length(PAYLOAD_BYTES_MAX, times=len(header.route) - 1):
            raise RejectedShareError(f"the share has {len(payload)} bytes, more than any relay's can have")
        if part.target == self._me.name:
            return self._collect(header, payload, memory, now)
        relay_id, route = header.relay_id, header.route
        is_split = part.is_split(self._me.name)
        done = split_report(part, relay_id, route) if is_split else Forwarded(relay_id=relay_id, route=route)
        children = reshare(part, payload, self._random)
        return [SendReport(done), *sends(part, relay_id, route, header.deadline, children)]

    def _check(self, sender: str, header: ShareHeader, now: float) -> Plan:
        me, route = self._me.name, header.route
        if len(route) < 2 or route[-2:] != (sender, me):
            raise RejectedShareError(f"the route does not end in {sender} and {me}, the link it came over")
        if len(set(route)) != len(route):
            raise RejectedShareError("the route passes a KME twice")
        if header.deadline > now + TIMEOUT_S_MAX + LATE_S:
            raise RejectedShareError(f"the deadline is more than {TIMEOUT_S_MAX:.0f} s away")
        if now > header.deadline + LATE_S:
            raise RejectedShareError("the deadline has passed")
        try:
            part = decode_plan(header.plan)
        except QkdRelayError as error:
            raise RejectedShareError(f"the part of the plan is not valid: {error}") from None
        if part.source != me:
            raise RejectedShareError(f"the part of the plan begins at {part.source}, not here")
        if len(route) + len(part.order) - 1 > KMES_MAX:
            raise RejectedShareError(f"route and plan together pass more than {KMES_MAX} KMEs")
        if met := set(route[:-1]).intersection(part.order):
            raise RejectedShareError(f"the part of the plan leads back to {min(met)}")
        if strangers := set(part.successors(me)) - self._me.links:
            raise RejectedShareError(f"{me} has no QKD link to {min(strangers)}, which the plan names")
        return part

    def _collect(self, header: ShareHeader, payload: bytes, memory: Memory, now: float) -> list[Effect]:
        relay = memory.relays.get(header.relay_id)
        fields: dict[str, object] = {"relay_id": header.relay_id, "route": header.route}
        if relay is None:
            kept_early, kept_bytes = memory.shares.early()
            if kept_early >= EARLY_SHARES_MAX or kept_bytes + len(payload) > EARLY_BYTES_MAX:
                raise RejectedShareError("the relay is not expected here, and too many such shares are kept")
            # For a minute, then: who sends it must not say how long it takes up room here.
            return [
                KeepShare(header.relay_id, header.route, payload, min(header.deadline, now)),
                LogEvent("share.early", "info", fields),
            ]
        if relay.role != "target":
            raise RejectedShareError("the relay does not end here")
        # The relay's own deadline, not the header's: what is collected must be there for as long as more is, or
        # whoever sends false shares could have them forgotten before the last findings.
        if relay.state in ("failed", "forgotten") or now > relay.deadline + LATE_S:
            return [LogEvent("share.late", "info", fields)]
        check_final_share(relay, header.route, payload)
        kept = memory.shares.get(header.relay_id, header.route)
        if kept is None:
            return [
                KeepShare(header.relay_id, header.route, payload, relay.deadline),
                SendReport(Collected(relay_id=header.relay_id, route=header.route)),
                TryRebuild(header.relay_id),
            ]
        if kept != payload and header.route not in relay.equivocating and len(relay.equivocating) < 1_000:
            return [
                KeepRelay(replace(relay, equivocating=(*relay.equivocating, header.route))),
                LogEvent("share.equivocating", "error", fields),
                TryRebuild(header.relay_id),
            ]
        return [LogEvent("share.duplicate", "info", fields)]


def check_final_share(relay: EndpointRelay, route: Route, payload: bytes) -> None:
    """Raise RejectedShareError unless the target's own plan has this route and the length fits."""
    if route[-1] != relay.plan.target or not relay.plan.is_route(route):
        raise RejectedShareError("the route is not one of the relay's plan")
    length = relay.plan.share_length(route, relay.payload_length)
    if len(payload) != length:
        raise RejectedShareError(f"the share has {len(payload)} bytes; on this route it must have {length}")


def sends(plan: Plan, relay_id: UUID, route: Route, deadline: float, children: list[tuple[str, bytes]]) -> list[Effect]:
    """Return the shares that the holder at ``plan.source`` passes on, having received ``route``."""
    threshold = plan.threshold(plan.source)
    return [
        SendShare(relay_id, (*route, kme), plan.below(kme), deadline, payload, index, threshold)
        for index, (kme, payload) in enumerate(children, 1)
    ]
