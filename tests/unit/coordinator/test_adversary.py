"""The adversary uses the target's own code, and knows what it has learned by the target's own proof."""

import os
from dataclasses import replace
from uuid import UUID

import pytest

from coordinator import adversary as module
from coordinator.adversary import Adversary
from coordinator.lifecycle import Relay
from qkdrelay.link.confirmation import Context, Payload
from qkdrelay.messages.leaks import Leak
from support import plans
from support.kme import NOW, RELAY, terms
from support.plans import learns

PLAN = plans.eight()
PAYLOAD = Payload(os.urandom(64), b"", os.urandom(32))
HELD = plans.carry(PLAN, PAYLOAD.to_bytes(), os.urandom)


def relay():
    planned = Relay(terms=terms(), policy="recursive", protected=True, created_at=NOW, state="started")
    context = Context(RELAY, planned.terms.plan, 2, 256, planned.terms.withstand, None)
    return replace(planned, target_proof=PAYLOAD.proof(context))


def seeing(*kmes, held=HELD):
    adversary = Adversary()
    for route, payload in held.items():
        if route[-1] in kmes and len(route) > 1:
            adversary.see(Leak(kme=route[-1], relay_id=RELAY, route=route, payload=payload))
    return adversary


@pytest.mark.parametrize(
    ("kmes", "learned"),
    [
        ((), False),
        (("kme-4",), False),
        (("kme-6",), False),
        (("kme-4", "kme-6"), False),
        (("kme-5", "kme-6"), True),
        (("kme-2", "kme-3"), True),
        (("kme-6", "kme-7"), True),
    ],
)
def test_a_coalition_learns_exactly_what_the_plan_says(kmes, learned):
    assert learns(PLAN, kmes) == learned
    view = seeing(*kmes).attack(relay())
    assert (view.learned, view.kmes) == (learned, tuple(sorted(kmes)))


def test_only_the_named_kmes_count():
    adversary = seeing("kme-5", "kme-6")
    assert adversary.attack(relay(), ["kme-6"]).learned is False
    assert adversary.attack(relay(), ["kme-5", "kme-6"]).learned is True
    assert adversary.attack(relay(), ["kme-6"]).kmes == ("kme-6",)


def test_what_fell_short_is_shown():
    view = seeing("kme-6").attack(relay())
    assert (("kme-1",), 2) in {(split.split, split.needed) for split in view.short_splits}


@pytest.mark.parametrize(("proof", "learned"), [(bytes(16), False), (None, True)])
def test_a_rebuilt_secret_that_does_not_match_a_proof_does_not_count(proof, learned):
    """Where the target has rebuilt nothing there is no proof; what decodes is the secret."""
    assert seeing("kme-5", "kme-6").attack(replace(relay(), target_proof=proof)).learned is learned


def test_what_a_share_is_was_settled_by_the_first_leak():
    adversary = seeing("kme-5", "kme-6")
    for route in HELD:
        if route[-1] == "kme-5":
            adversary.see(Leak(kme="kme-5", relay_id=RELAY, route=route, payload=b"something else"))
    assert adversary.attack(relay()).learned is True


@pytest.mark.parametrize("size", [0, 100])
def test_what_it_holds_is_bounded_and_the_oldest_relay_is_forgotten_first(monkeypatch, size):
    monkeypatch.setattr(module, "LEAKED_BYTES_MAX", 5_000)
    adversary = seeing("kme-5", "kme-6")
    for n in range(100):
        adversary.see(Leak(kme="kme-5", relay_id=UUID(int=n), route=("kme-1", "kme-5"), payload=bytes(size)))
    assert sum(len(p) for held in adversary._leaks.values() for p in held.values()) <= adversary._bytes <= 5_000
    assert 0 < len(adversary._leaks) <= 5_000 / 512
    assert adversary.attack(relay()).shares_held == 0
