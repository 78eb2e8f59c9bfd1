"""The terms of a relay: what an end accepts, whoever asks (protocol, section 6.2)."""

from __future__ import annotations

from functools import lru_cache

from kme.memory import Memory
from kme.model import LATE_S, EndpointRelay, NodeSettings, Role
from qkdrelay.errors import InvalidPlanError, RequestRefusedError
from qkdrelay.messages.assignments import SUPPLY_BYTES_PER_TAG_PAIR, Supply
from qkdrelay.messages.control import Terms
from qkdrelay.messages.fields import TIMEOUT_S_MAX
from qkdrelay.messages.keys import check_key_amount
from qkdrelay.messages.plans import decode_plan, encode_plan
from qkdrelay.messages.relay_ids import check_relay_id, made_at
from qkdrelay.network.analysis import withstands_compromised, withstands_failed
from qkdrelay.network.demand import Demand
from qkdrelay.network.plan import PLANS_KEPT, Plan

SUPPLY_S_MAX = 31 * 86_400.0
"""How many seconds ahead supply may be assigned until."""


class TermsCheck:
    """The check of terms at one KME, as source or target."""

    def __init__(self, settings: NodeSettings) -> None:
        self._me = settings
        # The same few plans are checked again and again.
        self._withstands_compromised = lru_cache(maxsize=PLANS_KEPT)(withstands_compromised)
        self._withstands_failed = lru_cache(maxsize=PLANS_KEPT)(withstands_failed)

    def known(self, terms: Terms, role: Role, memory: Memory) -> EndpointRelay | None:
        """Return the relay if these very terms were accepted before.

        Raises RequestRefusedError for other terms under a used id.
        """
        relay = memory.relays.get(terms.relay_id)
        if relay is None:
            return None
        asked = (terms.plan, terms.key_count, terms.key_size_bits, terms.withstand, terms.supply)
        had = (encode_plan(relay.plan), relay.key_count, relay.key_size_bits, relay.withstand, relay.supply)
        if (relay.role, *had) != (role, *asked) or relay.state == "failed":
            raise RequestRefusedError("this relay id was used before")
        return relay

    def accepted(self, terms: Terms, role: Role, memory: Memory, now: float) -> EndpointRelay:
        """Return a new relay. Raises RequestRefusedError for terms that this end does not accept, and why."""
        plan: Plan = decode_plan(terms.plan)
        if (plan.source if role == "source" else plan.target) != self._me.name or not plan.hops:
            raise RequestRefusedError(f"the plan does not have this KME as its {role}")
        check_key_amount(terms.key_count, terms.key_size_bits)
        if terms.supply is not None:
            if not self._me.has_applications:
                raise RequestRefusedError("this KME has no applications: supply would be of no use here")
            _check_supply(terms.supply, terms.key_count * terms.key_size_bits // 8, now)
        if not now < terms.deadline <= now + TIMEOUT_S_MAX + LATE_S:
            raise RequestRefusedError("the deadline has passed or is too far away; are the clocks right?")
        check_relay_id(terms.relay_id, now)
        if made_at(terms.relay_id) <= memory.relays.ids_refused_until():
            raise RequestRefusedError("this relay id is older than others that were used and forgotten")
        self._check_withstands(plan, terms.withstand.to_demand())
        if memory.relays.pending() >= self._me.pending_max:
            raise RequestRefusedError(f"{self._me.pending_max} relays are undecided here, the most it keeps")
        if memory.relays.key_bytes() + terms.key_count * terms.key_size_bits // 8 > self._me.key_bytes_max:
            raise RequestRefusedError(f"the key store is full ({self._me.key_bytes_max} bytes)")
        if strangers := self._neighbours(plan, role) - self._me.links:
            raise RequestRefusedError(f"no QKD link to {min(strangers)}, which the plan names")
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
            supply=terms.supply,
        )

    def _neighbours(self, plan: Plan, role: Role) -> set[str]:
        """Return the KMEs that this end has a link with, as the plan has it."""
        me = self._me.name
        return set(plan.successors(me)) if role == "source" else {a for a, b in plan.links if b == me}

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

    def keeps(self, part: Plan, steps_max: int) -> bool:
        """Whether as many compromised KMEs as are reckoned with here cannot learn what ``part`` splits."""
        try:
            return self._withstands_compromised(part, self._me.withstand_compromised, steps_max)
        except InvalidPlanError:  # too large to tell
            return False


def _check_supply(supply: Supply, key_bytes: int, now: float) -> None:
    """Raise RequestRefusedError unless such supply can be assigned."""
    if not now < supply.until <= now + SUPPLY_S_MAX:
        raise RequestRefusedError(
            f"the supply's time is over or more than {SUPPLY_S_MAX / 86_400:.0f} days away; are the clocks right?"
        )
    needed = -(-key_bytes // SUPPLY_BYTES_PER_TAG_PAIR)
    if supply.tag_pairs < needed:
        raise RequestRefusedError(f"{supply.tag_pairs} pairs of tag keys for {key_bytes} bytes; {needed} are needed")


def _kmes(number: int, kind: str = "") -> str:
    return f"{number} {kind}KME{'' if number == 1 else 's'}"
