"""Who can learn a secret carried over the eight-KME reference network: the adversary rebuilds as the target does."""

import os
from itertools import combinations

import pytest

from qkdrelay.schemes import recursive
from support.plans import carry, eight

KEYS = os.urandom(96)
PLAN = eight()
HELD = carry(PLAN, KEYS, os.urandom)


def learns(*numbers):
    coalition = {f"kme-{number}" for number in numbers}
    held = {route: payload for route, payload in HELD.items() if route[-1] in coalition}
    return recursive.rebuild(PLAN, held, 96).secret == KEYS


@pytest.mark.parametrize("coalition", [(4,), (6,), (4, 6), (5, 7), (2, 5), (4, 5), (2, 7)])
def test_a_coalition_below_the_thresholds_learns_nothing(coalition):
    assert not learns(*coalition)


@pytest.mark.parametrize("coalition", [(5, 6), (2, 3)])
def test_a_coalition_that_meets_the_thresholds_learns_the_secret(coalition):
    assert learns(*coalition)


def test_the_minimal_learning_coalitions_are_these_seven():
    minimal = []
    for size in range(7):
        for coalition in combinations(range(2, 8), size):
            if not any(set(known) <= set(coalition) for known in minimal) and learns(*coalition):
                minimal.append(coalition)
    assert minimal == [(2, 3), (2, 4), (3, 4), (5, 6), (6, 7), (2, 5, 7), (4, 5, 7)]


@pytest.mark.parametrize("end", [1, 8])
def test_both_ends_have_it_anyway(end):
    assert learns(end)
