"""A target's decision to rebuild a relay's keys from the shares it has, and to name the false ones."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from uuid import UUID

from kme.effects import Effect, KeepRelay, SendReport, SupplyChanged
from kme.findings import findings_of, no_findings, rebuilt_splits
from kme.memory import Memory
from kme.progress import endpoint_report
from kme.searches import Searches
from kme.terms import TermsCheck
from qkdrelay.link.confirmation import Payload
from qkdrelay.network.analysis import least_shares
from qkdrelay.network.exhaustive import STEPS_MAX
from qkdrelay.network.names import Route
from qkdrelay.sharing.work import Budget


class Rebuilder:
    """Rebuilds the relays that end at one KME."""

    def __init__(self, terms: TermsCheck) -> None:
        """``terms`` says which part of a plan withstands what this KME reckons with."""
        self._terms, self._searches = terms, Searches()

    def try_rebuild(
        self, relay_id: UUID, memory: Memory, turn: Budget | None = None, *, keep: bool = False
    ) -> list[Effect] | None:
        """Try to rebuild from what is collected; after the rebuild, see which shares were false.

        None if this takes more work than is left of ``turn``; `Searches.rebuild` says what ``keep`` does then.
        """
        before = relay = memory.relays.get(relay_id)
        if relay is None or relay.role != "target" or relay.state in ("failed", "forgotten"):
            self._searches.drop(relay_id)
            return []
        plan = relay.plan
        count = memory.shares.count(relay_id)
        if count < least_shares(plan):
            return []

        def fitting() -> dict[Route, bytes]:
            return {route: share for route, share in memory.shares.of(relay_id).items() if plan.is_route(route)}

        # However many parts a plan has, looking at all of them takes no more than one check of a plan may.
        may_name = cache(lambda kme: self._terms.keeps(plan.below(kme), STEPS_MAX // len(plan.hops)))
        result = self._searches.rebuild(relay, count, fitting, may_name, turn or Budget(sys.maxsize), keep=keep)
        if result is None:
            return None
        effects: list[Effect] = []
        if relay.state == "expecting" and result.secret is not None:
            # Released, and from this commit on there is a confirmation tag: the source may use what is held here.
            payload = Payload.parse(result.secret, relay.context)
            relay = replace(relay, state="held", payload=payload, proof=payload.proof(relay.context))
            effects += [*rebuilt_splits(relay, fitting(), result), SendReport(endpoint_report(relay))]
            if relay.supply is not None:
                # Whoever keeps supply has its bytes from now on, and deletes them as they are assigned.
                effects.append(SupplyChanged(relay))
                relay = replace(relay, payload=None)
        findings = findings_of(relay, result)
        if findings != (relay.findings or no_findings(relay_id)):
            relay = replace(relay, findings=findings)
            effects.append(SendReport(findings))
        if relay is not before:
            effects.insert(0, KeepRelay(relay))
        return effects

    def is_urgent(self, relay_id: UUID, memory: Memory, *, calm: bool) -> bool:
        """Whether to try at once; what comes after the rebuild can only name false shares, best all together."""
        relay = memory.relays.get(relay_id)
        if relay is None or relay.equivocating or (calm and relay.state == "expecting"):
            return True
        return memory.shares.count(relay_id) >= relay.plan.final_shares
