"""A KME's decisions as an end of relays: source or target, from the terms to the release of the keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from kme.effects import DropShares, Effect, KeepRelay, KeepShare, LogEvent, SendReport, TryRebuild
from kme.forwarding import RejectedShareError, check_final_share, sends
from kme.memory import Memory
from kme.model import EndpointRelay, NodeSettings
from kme.progress import endpoint_report, split_report
from kme.rebuilding import Rebuilder
from kme.terms import TermsCheck
from qkdrelay.errors import QkdRelayError
from qkdrelay.link.confirmation import Payload
from qkdrelay.messages.control import Decide, Expect, Prove, Start, Terms
from qkdrelay.messages.reports import Alarm, Collected, Decided, Expected, Refused, Verified
from qkdrelay.network.key_cost import CONFIRMATION_KEY_BYTES
from qkdrelay.schemes.recursive import deal


class Endpoint:
    """The decisions of one KME on the coordinator's commands about relays."""

    def __init__(self, settings: NodeSettings, random: Callable[[int], bytes]) -> None:
        """``random`` as for `kme.forwarding.Forwarding`."""
        self._me, self._random = settings, random
        self._terms = TermsCheck(settings)
        self.rebuilder = Rebuilder(self._terms)

    def on_command(self, command: Expect | Start | Prove | Decide, memory: Memory, now: float) -> list[Effect]:
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

    def recall(self, relays: Iterable[EndpointRelay]) -> list[Effect]:
        """Report once more, at a start, how far the undecided relays are.

        The coordinator has heard that, unless this store is an old copy: then it may have told its decision
        already, and tells it again.
        """
        return [SendReport(endpoint_report(relay)) for relay in relays]

    def _or_refuse(
        self, handle: Callable[[Terms, Memory, float], list[Effect]], terms: Terms, memory: Memory, now: float
    ) -> list[Effect]:
        try:
            return handle(terms, memory, now)
        except QkdRelayError as error:
            return [SendReport(Refused(relay_id=terms.relay_id, reason=f"{self._me.name}: {error}"[:500]))]

    # --- the terms ---------------------------------------------------------------------------------

    def _expect(self, terms: Terms, memory: Memory, now: float) -> list[Effect]:
        relay = self._terms.known(terms, "target", memory)
        if relay is not None:
            return [SendReport(Expected(relay_id=terms.relay_id))]
        relay = self._terms.accepted(terms, "target", memory, now)
        effects: list[Effect] = [KeepRelay(relay), SendReport(Expected(relay_id=terms.relay_id))]
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
            if relay.payload is None or relay.state != "pending":
                return []  # decided already: the coordinator knows
            return [SendReport(endpoint_report(relay))]
        relay = self._terms.accepted(terms, "source", memory, now)
        payload = Payload(
            self._random(terms.key_count * terms.key_size_bits // 8),
            self._random(CONFIRMATION_KEY_BYTES),
            self._random(CONFIRMATION_KEY_BYTES),
        )
        relay = replace(relay, state="pending", payload=payload)
        children = deal(relay.plan, payload.to_bytes(), self._random)
        return [
            KeepRelay(relay),
            SendReport(endpoint_report(relay)),
            SendReport(split_report(relay.plan, terms.relay_id, (self._me.name,))),
            *sends(relay.plan, terms.relay_id, (self._me.name,), terms.deadline, children),
        ]

    # --- proof and decision ------------------------------------------------------------------------

    def _prove(self, command: Prove, memory: Memory) -> list[Effect]:
        relay = memory.relays.get(command.relay_id)
        if relay is not None and relay.is_released:
            return [SendReport(Verified(relay_id=command.relay_id, valid=True))]
        if relay is None or relay.payload is None:
            reason = f"{self._me.name}: there are no keys of this relay"
            return [SendReport(Refused(relay_id=command.relay_id, reason=reason))]
        check = Payload.target_proof_is_valid if relay.role == "source" else Payload.source_proof_is_valid
        valid = check(relay.payload, relay.context, command.peer_proof)
        return [
            KeepRelay(replace(relay, peer_valid=valid)),
            SendReport(Verified(relay_id=command.relay_id, valid=valid)),
        ]

    def _decide(self, command: Decide, memory: Memory) -> list[Effect]:
        """Release the keys, or destroy them; once that is done it stays."""
        relay = memory.relays.get(command.relay_id)
        decided = SendReport(Decided(relay_id=command.relay_id, confirmed=command.confirmed))
        if relay is None:
            return [] if command.confirmed else [decided]
        if not relay.is_undecided:
            if relay.is_released != command.confirmed:
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
