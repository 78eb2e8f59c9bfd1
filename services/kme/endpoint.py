"""A KME's decisions as an end of relays: source or target, from the terms to the release of the keys."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import cache, lru_cache
from typing import TypeVar
from uuid import UUID

import msgspec

from kme.effects import (
    DropShares,
    Effect,
    EndpointRelay,
    KeepRelay,
    KeepShare,
    LogEvent,
    Role,
    SendReport,
    SetLabMode,
    SwitchLink,
    TryRebuild,
)
from kme.forwarding import LATE_S, Memory, NodeSettings, RejectedShareError, check_final_share, sends, split_report
from kme.rebuilding import Rebuilds
from qkdrelay.errors import InvalidPlanError, QkdRelayError, RequestRefusedError
from qkdrelay.link.confirmation import Payload
from qkdrelay.messages.control import Command, Decide, Expect, Prove, SetLab, SetLink, Start, Terms
from qkdrelay.messages.fields import TIMEOUT_S_MAX
from qkdrelay.messages.keys import check_key_amount
from qkdrelay.messages.plans import decode_plan, encode_plan
from qkdrelay.messages.relay_ids import check_relay_id, made_at
from qkdrelay.messages.reports import (
    Alarm,
    Collected,
    Decided,
    Dispute,
    Done,
    Expected,
    Findings,
    Rebuilt,
    Refused,
    Report,
    Started,
    Verified,
)
from qkdrelay.network.analysis import least_shares, withstands_compromised, withstands_failed
from qkdrelay.network.demand import Demand
from qkdrelay.network.exhaustive import STEPS_MAX
from qkdrelay.network.key_cost import CONFIRMATION_KEY_BYTES
from qkdrelay.network.names import Route
from qkdrelay.network.plan import PLANS_KEPT, Plan
from qkdrelay.schemes.recursive import RebuildResult, deal
from qkdrelay.sharing.work import Budget

KMES_REPORTED_MAX = 24_000
"""In the routes of one relay's findings, so that they fit a message whatever the KMEs are called."""

_RELEASED = ("delivered", "forgotten")

T = TypeVar("T")


class Endpoint:
    """The decisions of one KME on the coordinator's commands."""

    def __init__(self, settings: NodeSettings, random: Callable[[int], bytes]) -> None:
        """``random`` as for `Node`."""
        self._me, self._random = settings, random
        self._rebuilds = Rebuilds()
        # The same few plans are checked again and again.
        self._withstands_compromised = lru_cache(maxsize=PLANS_KEPT)(withstands_compromised)
        self._withstands_failed = lru_cache(maxsize=PLANS_KEPT)(withstands_failed)

    def on_command(self, command: Command, memory: Memory, now: float) -> list[Effect]:
        """Decide on a command; every command may come again and then has the same outcome."""
        match command:
            case Expect(terms=terms):
                return self._or_refuse(self._expect, terms, memory, now)
            case Start(terms=terms):
                return self._or_refuse(self._start, terms, memory, now)
            case Prove():
                return self._prove(command, memory)
            case Decide():
                return self._decide(command, memory)
            case SetLink():
                return self._set_link(command)
            case SetLab():
                return self._set_lab(command)

    def _or_refuse(
        self, handle: Callable[[Terms, Memory, float], list[Effect]], terms: Terms, memory: Memory, now: float
    ) -> list[Effect]:
        try:
            return handle(terms, memory, now)
        except QkdRelayError as error:
            return [SendReport(Refused(relay_id=terms.relay_id, reason=f"{self._me.name}: {error}"[:500]))]

    # --- the target --------------------------------------------------------------------------------

    def _expect(self, terms: Terms, memory: Memory, now: float) -> list[Effect]:
        relay = self._known(terms, "target", memory)
        if relay is not None:
            return [SendReport(Expected(relay_id=terms.relay_id))]
        relay = self._checked(terms, "target", memory, now)
        if strangers := {k for k, s in relay.plan.links if s == self._me.name} - self._me.links:
            raise RequestRefusedError(f"no QKD link to {min(strangers)}, which the plan names")
        effects: list[Effect] = [KeepRelay(relay), SendReport(Expected(relay_id=terms.relay_id))]
        # Shares that came before their terms were kept unchecked: look at them now.
        early = memory.shares(terms.relay_id)
        good = []
        for route, payload in early.items():
            try:
                check_final_share(relay, route, payload)
                effects.append(KeepShare(terms.relay_id, route, payload, relay.deadline))
                good.append(SendReport(Collected(relay_id=terms.relay_id, route=route)))
            except RejectedShareError as error:
                fields: dict[str, object] = {"relay_id": terms.relay_id, "route": route, "reason": str(error)}
                effects.append(LogEvent("share.rejected", "warning", fields))
        return [*effects, *good, TryRebuild(terms.relay_id)] if good else effects

    def recall(self, relays: Iterable[EndpointRelay]) -> list[Effect]:
        """Report once more, at a start, how far the undecided relays are.

        The coordinator has heard that, unless this store is an old copy: then it may have told its decision
        already, and tells it again.
        """
        return [SendReport(_progress(relay)) for relay in relays]

    def settle(
        self, relay_id: UUID, memory: Memory, turn: Budget | None = None, *, keep: bool = False
    ) -> list[Effect] | None:
        """Try to rebuild from what is collected; after the rebuild, see which shares were false.

        None if this takes more work than is left of ``turn``; `Rebuilds.rebuild` says what ``keep`` does then.
        """
        before = relay = memory.relay(relay_id)
        if relay is None or relay.role != "target" or relay.state in ("failed", "forgotten"):
            self._rebuilds.drop(relay_id)
            return []
        plan = relay.plan
        count = memory.share_count(relay_id)
        if count < least_shares(plan):
            return []

        def fitting() -> dict[Route, bytes]:
            return {route: share for route, share in memory.shares(relay_id).items() if plan.is_route(route)}

        # However many parts a plan has, looking at all of them takes no more than one check of a plan may.
        may_name = cache(lambda kme: self._keeps(plan.below(kme), STEPS_MAX // len(plan.hops)))
        result = self._rebuilds.rebuild(relay, count, fitting, may_name, turn or Budget(sys.maxsize), keep=keep)
        if result is None:
            return None
        effects: list[Effect] = []
        if relay.state == "expecting" and result.secret is not None:
            payload = Payload.parse(result.secret)
            relay = replace(relay, state="pending", payload=payload)
            effects += [
                *_rebuilt_splits(relay, fitting(), result),
                SendReport(_progress(relay)),
            ]
        findings = _findings(relay, result)
        if findings != (relay.findings or _findings_none(relay_id)):
            relay = replace(relay, findings=findings)
            effects.append(SendReport(findings))
        if relay is not before:
            effects.insert(0, KeepRelay(relay))
        return effects

    def is_urgent(self, relay_id: UUID, memory: Memory, *, calm: bool) -> bool:
        """Whether to `settle` at once; what comes after the rebuild can only name false shares, best all together."""
        relay = memory.relay(relay_id)
        if relay is None or relay.equivocating or (calm and relay.state == "expecting"):
            return True
        return memory.share_count(relay_id) >= relay.plan.final_shares

    def _keeps(self, part: Plan, steps_max: int) -> bool:
        """Whether as many compromised KMEs as are reckoned with cannot learn what ``part`` splits."""
        try:
            return self._withstands_compromised(part, self._me.withstand_compromised, steps_max)
        except InvalidPlanError:  # too large to tell
            return False

    # --- the source --------------------------------------------------------------------------------

    def _start(self, terms: Terms, memory: Memory, now: float) -> list[Effect]:
        relay = self._known(terms, "source", memory)
        if relay is not None:
            if relay.payload is None or relay.state != "pending":
                return []  # decided already: the coordinator knows
            return [SendReport(_progress(relay))]
        relay = self._checked(terms, "source", memory, now)
        if strangers := set(relay.plan.successors(self._me.name)) - self._me.links:
            raise RequestRefusedError(f"no QKD link to {min(strangers)}, which the plan names")
        payload = Payload(
            self._random(terms.key_count * terms.key_size_bits // 8),
            self._random(CONFIRMATION_KEY_BYTES),
            self._random(CONFIRMATION_KEY_BYTES),
        )
        relay = replace(relay, state="pending", payload=payload)
        children = deal(relay.plan, payload.to_bytes(), self._random)
        return [
            KeepRelay(relay),
            SendReport(_progress(relay)),
            SendReport(split_report(relay.plan, terms.relay_id, (self._me.name,))),
            *sends(relay.plan, terms.relay_id, (self._me.name,), terms.deadline, children),
        ]

    # --- either end --------------------------------------------------------------------------------

    def _known(self, terms: Terms, role: Role, memory: Memory) -> EndpointRelay | None:
        """Return the relay if these very terms were accepted before; refuse a used id."""
        relay = memory.relay(terms.relay_id)
        if relay is None:
            return None
        same = (relay.role, encode_plan(relay.plan), relay.key_count, relay.key_size_bits, relay.withstand) == (
            role,
            terms.plan,
            terms.key_count,
            terms.key_size_bits,
            terms.withstand,
        )
        if not same or relay.state == "failed":
            raise RequestRefusedError("this relay id was used before")
        return relay

    def _checked(self, terms: Terms, role: Role, memory: Memory, now: float) -> EndpointRelay:
        """Return a new relay, or raise with what an end does not accept, whoever asks (protocol, section 6.2)."""
        plan: Plan = decode_plan(terms.plan)
        if (plan.source if role == "source" else plan.target) != self._me.name or not plan.hops:
            raise RequestRefusedError(f"the plan does not have this KME as its {role}")
        check_key_amount(terms.key_count, terms.key_size_bits)
        if not now < terms.deadline <= now + TIMEOUT_S_MAX + LATE_S:
            raise RequestRefusedError("the deadline has passed or is too far away; are the clocks right?")
        check_relay_id(terms.relay_id, now)
        if made_at(terms.relay_id) <= memory.ids_refused_until():
            raise RequestRefusedError("this relay id is older than others that were used and forgotten")
        self._check_withstands(plan, terms.withstand.to_demand())
        if memory.pending() >= self._me.pending_max:
            raise RequestRefusedError(f"{self._me.pending_max} relays are undecided here, the most it keeps")
        if memory.key_bytes() + terms.key_count * terms.key_size_bits // 8 > self._me.key_bytes_max:
            raise RequestRefusedError(f"the key store is full ({self._me.key_bytes_max} bytes)")
        return EndpointRelay(
            terms.relay_id,
            role,
            "expecting",
            plan,
            terms.key_count,
            terms.key_size_bits,
            terms.withstand,
            self._me.withstand_compromised,
            terms.deadline,
        )

    def _check_withstands(self, plan: Plan, demand: Demand) -> None:
        """Raise RequestRefusedError unless the plan withstands what this end's settings and the terms demand."""
        own = self._me.withstand_compromised
        if not self._withstands_compromised(plan, own):
            variable = f"WITHSTAND_COMPROMISED_{self._me.name.upper().replace('-', '_')}"
            raise RequestRefusedError(
                f"the plan does not withstand {_kmes(own, 'compromised ')}, which this KME's own settings demand"
                f" (QKDRELAY_WITHSTAND_COMPROMISED={own}; in a deployment, {variable} in .env, then make up)"
            )
        if not self._withstands_compromised(plan, demand.readers):
            raise RequestRefusedError(
                f"the plan does not withstand {_kmes(demand.readers, 'compromised ')}, as demanded"
            )
        if not self._withstands_failed(plan, demand.lost):
            raise RequestRefusedError(f"the plan does not withstand the loss of {_kmes(demand.lost)}, as demanded")

    def _prove(self, command: Prove, memory: Memory) -> list[Effect]:
        relay = memory.relay(command.relay_id)
        if relay is not None and relay.state in _RELEASED:
            return [SendReport(Verified(relay_id=command.relay_id, valid=True))]
        if relay is None or relay.payload is None:
            return [
                SendReport(
                    Refused(relay_id=command.relay_id, reason=f"{self._me.name}: there are no keys of this relay")
                )
            ]
        check = Payload.target_proof_is_valid if relay.role == "source" else Payload.source_proof_is_valid
        valid = check(relay.payload, relay.context, command.peer_proof)
        return [
            KeepRelay(replace(relay, peer_valid=valid)),
            SendReport(Verified(relay_id=command.relay_id, valid=valid)),
        ]

    def _decide(self, command: Decide, memory: Memory) -> list[Effect]:
        relay = memory.relay(command.relay_id)
        decided = SendReport(Decided(relay_id=command.relay_id, confirmed=command.confirmed))
        if relay is None:
            return [] if command.confirmed else [decided]
        if relay.state in (*_RELEASED, "failed"):
            if (relay.state in _RELEASED) != command.confirmed:
                text = f"relay {command.relay_id} was decided before, as {relay.state}; that stays"
                return [SendReport(Alarm(event="decision.contradicted", text=text))]
            return [decided]
        if not command.confirmed:
            gone = replace(relay, state="failed", payload=None, findings=None)
            return [KeepRelay(gone), DropShares(command.relay_id), decided]
        if relay.peer_valid is not True:
            text = f"relay {command.relay_id} was to be released without a valid tag of {relay.peer}; it was not"
            return [SendReport(Alarm(event="decision.unproven", text=text))]
        return [KeepRelay(replace(relay, state="delivered")), decided]

    def _set_link(self, command: SetLink) -> list[Effect]:
        if command.peer not in self._me.links:
            return [SendReport(Done(command=command, error=f"{self._me.name} has no link to {command.peer}"))]
        return [SwitchLink(command.peer, command.up), SendReport(Done(command=command, error=""))]

    def _set_lab(self, command: SetLab) -> list[Effect]:
        if not self._me.lab:
            error = f"the lab is off at {self._me.name}"
            return [SendReport(Done(command=command, error=error))]
        return [SetLabMode(command.mode), SendReport(Done(command=command, error=""))]


def _kmes(number: int, kind: str = "") -> str:
    return f"{number} {kind}KME{'' if number == 1 else 's'}"


def _progress(relay: EndpointRelay) -> Report:
    """Return what this end has last reported of an undecided relay."""
    if relay.payload is None:
        return Expected(relay_id=relay.relay_id)
    if relay.role == "source":
        return Started(relay_id=relay.relay_id, proof=relay.payload.source_proof(relay.context))
    return Rebuilt(relay_id=relay.relay_id, proof=relay.payload.target_proof(relay.context))


def _rebuilt_splits(relay: EndpointRelay, shares: Collection[Route], result: RebuildResult) -> Iterator[LogEvent]:
    """Log each split that was rebuilt, innermost first."""
    unsound = {status.route for status in result.splits} | {dispute.route for dispute in result.disputed}
    holders = {route[:n] for route in shares for n in range(1, len(route))}
    for route in sorted(holders - unsound, key=len, reverse=True):
        if relay.plan.is_split(route[-1]) and not any(route[: len(f)] == f for f in result.false):
            fields: dict[str, object] = {
                "relay_id": relay.relay_id,
                "route": route,
                "threshold": relay.plan.threshold(route[-1]),
            }
            yield LogEvent("split.rebuilt", "info", fields)


def _findings_none(relay_id: UUID) -> Findings:
    return Findings(relay_id=relay_id, false=(), disputed=(), equivocating=(), unclear="")


def _findings(relay: EndpointRelay, result: RebuildResult) -> Findings:
    """Return what to report; cut to what fits a message, and then said to be incomplete."""
    false, left = _fitting(result.false, KMES_REPORTED_MAX, len)
    disputed, left = _fitting(result.disputed, left, lambda d: sum(len(route) for part in d.sets for route in part))
    equivocating, _ = _fitting(relay.equivocating, left, len)
    whole = (false, disputed, equivocating) == (result.false, result.disputed, relay.equivocating)
    return msgspec.structs.replace(
        _findings_none(relay.relay_id),
        false=false,
        disputed=tuple(Dispute(split=dispute.route, sets=dispute.sets) for dispute in disputed),
        equivocating=equivocating,
        unclear="ambiguous" if result.ambiguous else "exhausted" if result.exhausted else "" if whole else "cut",
    )


def _fitting(items: tuple[T, ...], room: int, length: Callable[[T], int]) -> tuple[tuple[T, ...], int]:
    """Return the first of ``items`` that fit into ``room`` together, and how much room is left."""
    for number, item in enumerate(items):
        if length(item) > room:
            return items[:number], room
        room -= length(item)
    return items, room
