"""A KME's decisions as an end of relays: source or target, from the terms to the release of the keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from uuid import UUID

from kme.effects import DropShares, Effect, KeepRelay, KeepShare, LogEvent, SendReport, SupplyChanged, TryRebuild
from kme.forwarding import RejectedShareError, check_final_share, sends
from kme.memory import Memory
from kme.model import EndpointRelay, EndpointState, NodeSettings
from kme.progress import endpoint_report, split_report
from kme.rebuilding import Rebuilder
from kme.terms import TermsCheck
from qkdrelay.errors import QkdRelayError
from qkdrelay.link.confirmation import Payload
from qkdrelay.messages.control import Cancel, Confirm, Deliver, Expect, Start, Terms, ToAnEnd
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.reports import Collected, Confirmed, Recalled, Refused
from qkdrelay.network.key_cost import CONFIRMATION_KEY_BYTES, TAG_PAIR_BYTES
from qkdrelay.schemes.recursive import deal
from qkdrelay.service.logs import LogLevel

RECALLED_BYTES_MAX = 4 << 20
"""Bytes of plans that are told of at once."""


class Endpoint:
    """The decisions of one KME on the coordinator's commands about relays."""

    def __init__(self, settings: NodeSettings, random: Callable[[int], bytes]) -> None:
        """``random`` as for `kme.forwarding.Forwarding`."""
        self._me, self._random = settings, random
        self._terms = TermsCheck(settings)
        self.rebuilder = Rebuilder(self._terms)

    def on_command(self, command: ToAnEnd, memory: Memory, now: float) -> list[Effect]:
        """Decide on a command; every command may come again and then has the same outcome."""
        match command:
            case Expect(terms=terms):
                return self._or_refuse(self._expect, terms, memory, now)
            case Start(terms=terms):
                return self._or_refuse(self._start, terms, memory, now)
            case Confirm():
                return self._confirm(command, memory)
            case Cancel(relay_id=relay_id):
                return self._cancel(relay_id, memory)
            case Deliver(relay_id=relay_id):
                return self._deliver(relay_id, memory)

    def _or_refuse(
        self, handle: Callable[[Terms, Memory, float], list[Effect]], terms: Terms, memory: Memory, now: float
    ) -> list[Effect]:
        try:
            return handle(terms, memory, now)
        except QkdRelayError as error:
            return [self._refused(terms.relay_id, str(error))]

    # --- the terms ---------------------------------------------------------------------------------

    def _expect(self, terms: Terms, memory: Memory, now: float) -> list[Effect]:
        relay = self._terms.known(terms, "target", memory)
        if relay is not None:
            return [SendReport(endpoint_report(relay))]
        relay = self._terms.accepted(terms, "target", memory, now)
        effects: list[Effect] = [KeepRelay(relay), SendReport(endpoint_report(relay)), *_begun(relay)]
        # Shares that came before their terms were kept unchecked: look at them now.
        early = memory.shares.of(terms.relay_id)
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

    def _start(self, terms: Terms, memory: Memory, now: float) -> list[Effect]:
        relay = self._terms.known(terms, "source", memory)
        if relay is not None:
            return [SendReport(endpoint_report(relay))]
        relay = self._terms.accepted(terms, "source", memory, now)
        payload = Payload(
            self._random(terms.key_count * terms.key_size_bits // 8),
            self._random(relay.context.tag_pairs * TAG_PAIR_BYTES),
            self._random(CONFIRMATION_KEY_BYTES),
        )
        relay = replace(relay, state="pending", payload=payload)
        children = deal(relay.plan, payload.to_bytes(), self._random)
        return [
            KeepRelay(relay),
            SendReport(endpoint_report(relay)),
            SendReport(split_report(relay.plan, terms.relay_id, (self._me.name,))),
            *sends(relay.plan, terms.relay_id, (self._me.name,), terms.deadline, children),
            *_begun(relay),
        ]

    # --- the confirmation --------------------------------------------------------------------------

    def _confirm(self, command: Confirm, memory: Memory) -> list[Effect]:
        """Release the keys if the target has shown that it holds them; destroy them if it holds others."""
        relay = memory.relays.get(command.relay_id)
        confirmed = SendReport(Confirmed(relay_id=command.relay_id))
        if relay is not None and relay.role == "source" and relay.is_released:
            return [confirmed]
        if relay is None or relay.role != "source" or relay.payload is None:
            return [self._refused(command.relay_id, "there are no keys of this relay")]
        if not relay.payload.proof_is_valid(relay.context, command.proof):
            reason = f"the confirmation tag of {relay.peer} is not that of these keys and terms"
            return [*_failed(relay, reason, "error"), self._refused(relay.relay_id, reason)]
        released = replace(relay, state="delivered")
        if relay.supply is None:
            return [KeepRelay(released), confirmed]
        return [KeepRelay(replace(released, state="forgotten", payload=None)), confirmed, SupplyChanged(released)]

    def _cancel(self, relay_id: UUID, memory: Memory) -> list[Effect]:
        """Give up what is not released here: the keys of a target that has released them may be in use."""
        relay = memory.relays.get(relay_id)
        return _failed(relay, "it was given up") if relay is not None and relay.is_undecided else []

    def _deliver(self, relay_id: UUID, memory: Memory) -> list[Effect]:
        """Note, for people, that the source has released the keys that are held here."""
        relay = memory.relays.get(relay_id)
        if relay is None or relay.state != "held" or relay.supply is not None:
            return []
        told = LogEvent("relay.confirmed", "info", {"relay_id": relay_id})
        return [KeepRelay(replace(relay, state="delivered")), told]

    # --- the end of what nobody ends ---------------------------------------------------------------

    def recall(self, relays: Iterable[EndpointRelay]) -> list[Effect]:
        """Report once more, at a start, how far the open relays are: what was reported may have been lost.

        Supply was in memory only at its source.
        """
        effects: list[Effect] = []
        for relay in relays:
            if relay.role == "source" and relay.payload is None:
                reason = "its supply was in memory only, and the KME has been started since"
                effects += [*_failed(relay, reason), self._refused(relay.relay_id, reason)]
            else:
                effects.append(SendReport(endpoint_report(relay)))
        return effects

    def recalled(self, relays: Iterable[EndpointRelay]) -> list[Effect]:
        """Tell a coordinator that may know none of these relays of their terms, and how far they are.

        Of terms no more than fit into the queue; what is left out ends by itself.
        """
        effects: list[Effect] = []
        left = RECALLED_BYTES_MAX
        for relay in relays:
            terms = _terms(relay)
            left -= len(terms.plan)
            if left >= 0:
                effects.append(SendReport(Recalled(terms=terms)))
            effects.append(SendReport(endpoint_report(relay)))
        return effects

    def end(self, relays: Iterable[EndpointRelay]) -> list[Effect]:
        """End what has come to its own end (`EndpointRelay.ends_at`), whatever the coordinator says or does not."""
        effects: list[Effect] = []
        for relay in relays:
            if relay.is_undecided:
                reason = "nothing was heard of it for long after its deadline"
                effects += _failed(relay, reason)
                if relay.role == "source":
                    effects.append(self._refused(relay.relay_id, reason))
            else:
                effects += _gone(relay, "forgotten")
                effects.append(LogEvent("supply.expired", "info", {"relay_id": relay.relay_id, "source": relay.peer}))
        return effects

    def _refused(self, relay_id: UUID, reason: str) -> SendReport:
        return SendReport(Refused(relay_id=relay_id, reason=f"{self._me.name}: {reason}"[:500]))


def _terms(relay: EndpointRelay) -> Terms:
    return Terms(
        relay_id=relay.relay_id,
        plan=encode_plan(relay.plan),
        key_count=relay.key_count,
        key_size_bits=relay.key_size_bits,
        withstand=relay.withstand,
        supply=relay.supply,
        deadline=relay.deadline,
    )


def _begun(relay: EndpointRelay) -> list[Effect]:
    return [] if relay.supply is None else [SupplyChanged(relay)]


def _failed(relay: EndpointRelay, reason: str, level: LogLevel = "warning") -> list[Effect]:
    """Return the destruction of all that there is of a relay here."""
    return [*_gone(relay, "failed"), LogEvent("relay.failed", level, {"relay_id": relay.relay_id, "reason": reason})]


def _gone(relay: EndpointRelay, state: EndpointState) -> list[Effect]:
    gone = replace(relay, state=state, payload=None, findings=None, equivocating=())
    effects: list[Effect] = [KeepRelay(gone), DropShares(relay.relay_id)]
    return effects if relay.supply is None else [*effects, SupplyChanged(gone)]
