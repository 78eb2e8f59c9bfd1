"""Observations of one run of the scenario, and the claims that they must bear out.

Nothing is taken for granted: each claim has the expected and the observed in words, and holds if
the two are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

from qkdrelay.messages.answers import RelayView, ShortSplit
from qkdrelay.messages.keys import key_id
from qkdrelay.messages.plans import decode_plan
from qkdrelay.network.names import Route, link_name
from qkdrelay.network.plan import Plan

NOBODY = "none"
OK = "200"
"""The status of an answer that has a key."""


@dataclass(frozen=True)
class Attack:
    """An attack on one relay with what some KMEs have leaked, and its outcome."""

    relay_id: UUID
    kmes: tuple[str, ...]
    leaked_by: tuple[str, ...]
    shares_held: int
    learned: bool
    short_splits: tuple[ShortSplit, ...]
    """Splits of which a failed attack had too few shares, nearest to the source first."""

    @property
    def outcome(self) -> str:
        """In words; an attack that had no leaks to work on proves nothing, and says so."""
        if set(self.leaked_by) != set(self.kmes):
            return "(no leaks seen)"
        return "the keys" if self.learned else "nothing"


@dataclass(frozen=True)
class ApplicationKey:
    """A key that one application took from the KME at its site, and another is to have fetched at its own."""

    master: str
    master_kme: str
    slave: str
    slave_kme: str
    key_id: str | None
    """As the master was told it; None if it got none."""
    answers: tuple[str, str]
    """What master and slave were answered: the HTTP status, or what was wrong."""
    equal: bool
    """Whether both were given the same key."""
    compromised: int | None
    """How many compromised KMEs it withstands, as both were told; None if they were not told the same."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, without the key."""
        return {
            "master": self.master,
            "slave": self.slave,
            "key_id": self.key_id,
            "equal": self.equal,
            "compromised": self.compromised,
        }


@dataclass(frozen=True)
class Claim:
    """One thing the demo says, with what was seen of it."""

    text: str
    expected: str
    observed: str

    @property
    def held(self) -> bool:
        """Whether it was really observed."""
        return self.expected == self.observed


@dataclass(frozen=True)
class Gathered:
    """A split as the target finds it: how many of its shares are there, and how many it needs."""

    route: Route
    present: int
    needed: int
    of: int


@dataclass(frozen=True)
class Observation:
    """Everything that was seen of one run; no key is in it, nor anything made of one."""

    relay: RelayView
    cut_links: tuple[tuple[str, str], ...]
    """QKD links that both their KMEs report down."""
    compromised: tuple[str, ...]
    """KMEs that say, being in the lab, that they leak."""
    carried: tuple[Route, ...]
    """Share messages that went over a QKD link, as an onlooker at the broker saw them."""
    received: tuple[Route, ...]
    """Share messages whose receivers reported what they did with them."""
    rebuilt_by: tuple[str, ...]
    confirmed_by: tuple[str, ...]
    """Who found the proof of the target valid, and so released the keys, too."""
    keys_equal: bool
    attacks: tuple[Attack, ...]
    counter_example: Attack
    application: ApplicationKey

    @property
    def plan(self) -> Plan:
        """The plan both ends have checked."""
        return decode_plan(self.relay.plan)

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """The claims of the reference scenario, with what was seen of each."""
        return _claims(self)

    @property
    def ok(self) -> bool:
        """Whether every claim was observed."""
        return all(claim.held for claim in self.claims)

    @property
    def splits(self) -> tuple[Gathered, ...]:
        """Every split that was made and what of it reached the target, nearest to the source first."""
        plan, there = self.plan, set(self.relay.collected)

        def shares_of(route: Route) -> int:
            return sum(has((*route, kme)) for kme in plan.successors(route[-1]))

        def has(route: Route) -> bool:
            return route in there if route[-1] == plan.target else shares_of(route) >= plan.threshold(route[-1])

        return tuple(
            Gathered(route, shares_of(route), plan.threshold(route[-1]), self.shares_from(route))
            for route in self.relay.split
        )

    def shares_from(self, route: Route) -> int:
        """Return how many shares the holder at the end of ``route`` made: those sent and those that wait."""
        made = {*self.carried, *(stuck.route for stuck in self.relay.stuck)}
        return sum(child[:-1] == route for child in made)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data; routes are lists of KMEs, links are written a>b."""
        relay = self.relay
        confirmed = relay.state == "confirmed"
        return {
            "ok": self.ok,
            "relay_id": str(relay.relay_id),
            "source": relay.source,
            "target": relay.target,
            "state": relay.state,
            "reason": relay.reason,
            "key_count": relay.key_count,
            "key_size_bits": relay.key_size_bits,
            "key_ids": [str(key_id(relay.relay_id, i)) for i in range(relay.key_count)] if confirmed else [],
            "keys_equal": self.keys_equal,
            "planned_share_messages": relay.planned_share_messages,
            "share_messages": len(self.carried),
            "shares": dict(sorted(Counter(link_name(*route[-2:]) for route in self.carried).items())),
            "collected": [list(route) for route in relay.collected],
            "missing": [list(route) for route in relay.missing],
            "cut_links": [list(link) for link in self.cut_links],
            "compromised": list(self.compromised),
            "attacks": [_attack_json(attack) for attack in self.attacks],
            "counter_example": {"relay_id": str(self.counter_example.relay_id), **_attack_json(self.counter_example)},
            "application": self.application.to_json(),
            "elapsed_s": round(relay.elapsed_s, 6),
            "claims": [
                {"claim": c.text, "expected": c.expected, "observed": c.observed, "held": c.held} for c in self.claims
            ],
        }


def _attack_json(attack: Attack) -> dict[str, Any]:
    return {"kmes": list(attack.kmes), "learned": attack.learned, "shares_held": attack.shares_held}


def _claims(seen: Observation) -> tuple[Claim, ...]:
    """Return the reference scenario's claims, in the order of the story."""
    relay = seen.relay
    splitters = {split.route: f"{split.needed} of {split.of}" for split in seen.splits}
    first = {route[-1]: how for route, how in splitters.items() if len(route) == 1}
    second = {route[-1]: how for route, how in splitters.items() if len(route) == 2}
    forwards = Counter(route[-1] for route in relay.forwarded)
    waiting = Counter(link_name(*stuck.route[-2:]) for stuck in relay.stuck)
    return (
        Claim("QKD link down at both its ends", "kme-7 - kme-8", _listed(f"{a} - {b}" for a, b in seen.cut_links)),
        Claim("KMEs that leak all they receive", "kme-4, kme-6", _listed(seen.compromised)),
        Claim("who splits the keys, and how", "kme-1: 2 of 3", _pairs(first)),
        Claim("who splits on, and how", "kme-2: 2 of 2, kme-3: 2 of 3, kme-4: 2 of 2", _pairs(second)),
        Claim("who forwards shares, and how many", "kme-5: 2, kme-6: 3, kme-7: 2", _pairs(forwards)),
        Claim("shares that wait for the link", "kme-7>kme-8: 2", _pairs(waiting)),
        Claim(
            "share messages seen on the QKD links",
            "15 of 17",
            f"{len(seen.carried)} of {relay.planned_share_messages}",
        ),
        Claim("the same, as their receivers report", "15", str(len(set(seen.received)))),
        *(Claim(f"{who(attack.kmes)} learned", "nothing", attack.outcome) for attack in seen.attacks),
        Claim("shares at kme-8", "5 of 7", f"{len(relay.collected)} of {seen.plan.final_shares}"),
        Claim("who rebuilt and released the keys", "kme-8", _listed(seen.rebuilt_by)),
        Claim("who found its proof valid, and did, too", "kme-1", _listed(seen.confirmed_by)),
        Claim("state of the relay", "confirmed", relay.state),
        Claim("keys are equal at both ends", "yes", "yes" if seen.keys_equal else "no"),
        Claim(
            f"counter-example: {' and '.join(seen.counter_example.kmes)} learned",
            "the keys",
            seen.counter_example.outcome,
        ),
        Claim("sae-1 and sae-8 were given", "the same key", _given(seen.application)),
        Claim("compromised KMEs that it withstands", "1", str(seen.application.compromised)),
    )


def _given(application: ApplicationKey) -> str:
    if application.equal:
        return "the same key"
    wrong = [answer for answer in application.answers if answer != OK]
    return wrong[0] if wrong else "different keys"


def who(kmes: tuple[str, ...]) -> str:
    """Name one KME or several as one adversary."""
    return f"{kmes[0]} alone" if len(kmes) == 1 else f"{' and '.join(kmes)} together"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or NOBODY


def _pairs(values: Mapping[str, object]) -> str:
    return _listed(f"{name}: {value}" for name, value in sorted(values.items()))
