"""The check a KME makes of a plan it is given: exact, bounded in work, without a solver."""

import subprocess
import sys
import time

import pytest

from qkdrelay.errors import InvalidPlanError
from qkdrelay.network.analysis import withstands
from qkdrelay.network.plan import Hop, Plan
from support.plans import eight


def ladder(n):
    """Four ways side by side, on which each of ``n`` KMEs splits: it keeps a share from the KMEs after it."""
    hops = {"s": Hop(("k0", "k1", "k2", "k3"), 4)}
    for i in range(n):
        on = (f"k{i + 4}", "t") if i + 4 < n else ("t",)
        hops[f"k{i}"] = Hop(on, len(on))
    return Plan.checked("s", "t", hops)


def test_the_reference_plan_withstands_one_and_not_two():
    assert [withstands(eight(), size) for size in (0, 1, 2, 3, 6, 9)] == [True, True, False, False, False, False]


def test_a_plan_in_which_498_kmes_split_is_checked_against_all_pairs_in_little_time():
    plan, start = ladder(498), time.process_time()
    assert withstands(plan, 1)
    assert withstands(plan, 2)
    assert time.process_time() - start < 2


def test_the_one_pair_among_498_kmes_that_learns_is_found():
    plan = ladder(498)
    hops = {**plan.hops, "s": Hop(("k0", "k1", "k2", "k3"), 2)}
    assert withstands(Plan.checked("s", "t", hops), 1)
    assert not withstands(Plan.checked("s", "t", hops), 2)


def test_a_check_that_would_take_too_long_is_refused_before_it_begins():
    start = time.process_time()
    with pytest.raises(InvalidPlanError, match="more than a KME checks") as caught:
        withstands(ladder(498), 4)
    assert "demand less than 4" in caught.value.hint
    assert time.process_time() - start < 1


def test_a_kme_needs_neither_solver_nor_graph_library():
    heavy = "print([m for m in ('scipy', 'numpy', 'networkx') if m in sys.modules])"
    code = f"import sys, qkdrelay.network.analysis, qkdrelay.network.plan, qkdrelay.network.candidates; {heavy}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
