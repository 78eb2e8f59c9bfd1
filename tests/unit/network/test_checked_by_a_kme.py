"""The check a KME makes of a plan it is given: exact, bounded in work, without a solver."""

import subprocess
import sys

import pytest

from qkdrelay.errors import InvalidPlanError
from qkdrelay.network.analysis import withstands_compromised
from qkdrelay.network.exhaustive import SETS_AT_ONCE_MAX, STEPS_MAX
from qkdrelay.network.plan import SHARE_MESSAGES_MAX, Hop, Plan
from support.plans import chain, counted_steps, eight, fan, ladder, layers


def test_the_reference_plan_withstands_one_and_not_two():
    assert [withstands_compromised(eight(), size) for size in (0, 1, 2, 3, 6, 9)] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_a_plan_in_which_498_kmes_split_is_checked_against_all_pairs():
    assert withstands_compromised(ladder(498), 1)
    assert withstands_compromised(ladder(498), 2)


def test_the_one_pair_among_498_kmes_that_learns_is_found():
    plan = ladder(498)
    hops = {**plan.hops, "s": Hop(("k0", "k1", "k2", "k3"), 2)}
    assert withstands_compromised(Plan.checked("s", "t", hops), 1)
    assert not withstands_compromised(Plan.checked("s", "t", hops), 2)


@pytest.mark.parametrize("demanded", [1, 2, 3])
@pytest.mark.parametrize(
    "plan",
    [ladder(498), fan(255, 4), chain(490), layers(3, 6), layers(40, 2), layers(12, 3)],
    ids=lambda plan: str(len(plan.links)),
)
def test_the_work_of_a_check_is_bounded_for_the_largest_plans_there_may_be(plan, demanded, monkeypatch):
    assert SHARE_MESSAGES_MAX / 9 < plan.share_messages <= SHARE_MESSAGES_MAX
    steps, sets = counted_steps(monkeypatch)
    withstands_compromised(plan, demanded)
    assert 0 < sum(steps) <= 2 * STEPS_MAX
    assert max(sets) <= SETS_AT_ONCE_MAX


@pytest.mark.parametrize("demanded", [4, 5, 100])
def test_a_check_that_would_take_too_long_is_refused_before_it_begins(demanded, monkeypatch):
    steps, _ = counted_steps(monkeypatch)
    with pytest.raises(InvalidPlanError, match="more than a KME checks") as caught:
        withstands_compromised(ladder(498), demanded)
    assert f"demand less than {demanded}" in caught.value.hint
    assert steps == []


def test_a_kme_needs_neither_solver_nor_graph_library():
    heavy = "print([m for m in ('scipy', 'numpy', 'networkx') if m in sys.modules])"
    code = f"import sys, qkdrelay.network.analysis, qkdrelay.network.plan, qkdrelay.network.selection; {heavy}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
