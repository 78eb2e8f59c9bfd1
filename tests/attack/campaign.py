"""Many relays under attack, one after another: figures, and what must not be."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from attack.case import Case, draw
from attack.coalition import Coalition
from attack.direct import Direct
from attack.outcome import Outcome
from attack.sealed import Sealed

RELAYS_OF_A_NETWORK = 4
"""On the whole stack; building a network takes longer than a relay."""
SEALED_EVERY = 20
"""Of so many relays one runs on the whole stack."""


def seed() -> str:
    """What everything is drawn from: QKDRELAY_SEED, to replay a run, or a new one."""
    return os.environ.get("QKDRELAY_SEED") or str(int.from_bytes(os.urandom(4)))


@dataclass
class Campaign:
    """The figures of a run from one seed."""

    seed: str
    count: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def run(self, direct: int, networks: int) -> None:
        """Attack so many relays by their decisions alone, and so many networks on the whole stack."""
        for number in range(direct):
            self.note(f"direct/{number}", one_direct(self.seed, number))
        for number in range(networks):
            for outcome in sealed_network(self.seed, number):
                self.note(f"sealed/{number}", outcome)

    def note(self, place: str, outcome: Outcome) -> None:
        """Add one relay to the figures."""
        case, count = outcome.case, self.count
        count["relays"] += 1
        count["confirmed" if outcome.confirmed else "not confirmed"] += not case.dishonest
        count["with a dishonest coordinator"] += case.dishonest
        count["of these confirmed"] += case.dishonest and case.plan.source in outcome.released
        count["messages refused"] += outcome.rejected
        count["beyond what is withstood"] += case.expected.learned
        count["wrong secrets"] += outcome.wrong_secret()
        count["numbers reused"] += outcome.reused
        found = outcome.findings
        count["with false shares named"] += bool(found and found.false)
        count["with shares disputed"] += bool(found and found.disputed)
        count["innocents named"] += within(case) and len(outcome.innocents())
        self.wrong += [f"{self.seed} {place}: {what}; {case}" for what in outcome.wrong()]

    def figures(self) -> str:
        """One line."""
        return f"attacks: seed {self.seed}; " + ", ".join(f"{name} {self.count[name]}" for name in NAMES)


NAMES = (
    "relays",
    "confirmed",
    "not confirmed",
    "with a dishonest coordinator",
    "of these confirmed",
    "beyond what is withstood",
    "with false shares named",
    "with shares disputed",
    "messages refused",
    "wrong secrets",
    "innocents named",
    "numbers reused",
)


def within(case: Case) -> bool:
    """Whether the coalition is one of those the ends reckon with."""
    return not case.dishonest and len(case.coalition) <= case.demanded


def one_direct(seed: str, number: int) -> Outcome:
    """Replay one relay of a run."""
    rng = Random(f"{seed}/direct/{number}")
    case = draw(rng)
    coalition = Coalition(rng, case.coalition, case.plan, case.neighbours, case.tricks)
    return Direct(case, coalition, rng).run()


def sealed_network(seed: str, number: int) -> Iterator[Outcome]:
    """Replay one network of a run."""
    rng = Random(f"{seed}/sealed/{number}")
    case = draw(rng)
    while case.policy == "any" and not case.dishonest:  # an honest coordinator makes its plans by a policy
        case = draw(rng)
    network = Sealed(case, rng)
    for last in (False,) * (RELAYS_OF_A_NETWORK - 1) + (True,):
        outcome = network.relay()
        outcome.reused = network.reused() if last else 0
        yield outcome
