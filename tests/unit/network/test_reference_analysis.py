"""What is known of the reference plan, kme-1 to kme-8, and of layers, in numbers worked out by hand."""

import os
from itertools import pairwise

import pytest

from qkdrelay.errors import RequestRefusedError
from qkdrelay.network import minimal_sets, probability
from qkdrelay.network.minimal_sets import Resilience
from qkdrelay.network.planner import path_plan, recursive_plan
from qkdrelay.network.probability import Probability
from qkdrelay.network.threshold_circuit import learning
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import reference_topology
from qkdrelay.network.what_if import case
from qkdrelay.schemes import recursive
from qkdrelay.sharing import amd
from support.plans import at_target, carry, delivers, fan, written

PLAN = recursive_plan(reference_topology(), "kme-1", "kme-8")


def kmes(*sets):
    return tuple(tuple(f"kme-{digit}" for digit in digits) for digits in sets)


def layers(count, width=3):
    """``count`` layers of ``width`` KMEs between two ends, each KME linked to all of the next layer."""
    middle = [[f"kme-{layer}-{i}" for i in range(width)] for layer in range(count)]
    rows = [["source"], *middle, ["target"]]
    links = tuple((a, b) for near, far in pairwise(rows) for a in near for b in far)
    return Topology("layers", tuple(kme for row in rows for kme in row), links)


def test_it_has_seventeen_messages():
    assert PLAN.share_messages == 17


def test_its_minimal_learning_coalitions_are_these_seven():
    found = minimal_sets.minimal_learning_coalitions(PLAN)
    assert found.sets == kmes("23", "24", "34", "56", "67", "257", "457")
    assert (found.smallest, found.counts, found.complete) == (2, {2: 5, 3: 2}, True)


def test_its_minimal_blocking_kmes_are_these_nine():
    assert minimal_sets.minimal_blocking_kmes(PLAN).sets == kmes("6", "23", "24", "27", "34", "35", "37", "45", "57")


def test_one_link_blocks_it_and_28_pairs_and_18_triples_do():
    found = minimal_sets.minimal_blocking_links(PLAN)
    assert found.sets[0] == (("kme-6", "kme-8"),)
    assert found.counts == {1: 1, 2: 28, 3: 18}
    assert len(found.sets) == 47


def test_it_withstands_one_compromised_and_no_failed_kme():
    assert minimal_sets.resilience(PLAN, others=6) == Resilience(compromised=1, failed=0, failed_links=0, tampering=0)


def test_a_list_that_is_cut_short_says_so_and_begins_with_the_smallest():
    found = minimal_sets.minimal_blocking_links(PLAN, limit=5)
    assert [len(chosen) for chosen in found.sets] == [1, 2, 2, 2, 2]
    assert (found.complete, sum(found.counts.values())) == (False, 47)


def test_three_disjoint_paths_withstand_one_of_everything():
    plan = path_plan([("s", "a", "t"), ("s", "b", "c", "t"), ("s", "d", "t")], 2)
    assert minimal_sets.resilience(plan, others=4) == Resilience(1, 1, 1, 1)


def test_what_no_set_can_do_is_withstood_by_all_others():
    direct = written({"s": (("t",), 1)}, "s", "t")
    assert minimal_sets.resilience(direct, others=9) == Resilience(9, 9, 0, 9)
    assert minimal_sets.minimal_learning_coalitions(direct).smallest is None


def test_trusted_kmes_are_in_no_coalition_but_may_fail():
    plan = written({"s": (("a",), 1), "a": (("t",), 1)}, "s", "t")
    assert minimal_sets.resilience(plan, others=5).compromised == 0
    assert minimal_sets.resilience(plan, others=5, trusted=["a"]) == Resilience(5, 0, 0, 0)


def test_no_tampering_is_withstood_if_the_target_could_not_try_all_subsets():
    assert minimal_sets.resilience(fan(9, 5), others=9).tampering == 4
    assert minimal_sets.rebuild_is_exhaustive(fan(16, 9))
    assert not minimal_sets.rebuild_is_exhaustive(fan(40, 20))
    # 19,600 subsets of all 50 shares, but 13 times as many if each share is looked at when it comes.
    assert not minimal_sets.rebuild_is_exhaustive(fan(50, 3))
    assert minimal_sets.resilience(fan(40, 20), others=40) == Resilience(19, 20, 20, 0)


def test_a_tamperer_who_learns_leaves_the_target_with_two_answers():
    plan, keys = fan(3, 1), bytes(48)
    assert delivers(plan, failed=["m1"])
    assert minimal_sets.resilience(plan, others=3).tampering == 0

    def tamper(route, payload):
        return amd.encode(b"another secret".ljust(48), os.urandom) if route == ("s", "m1") else payload

    rebuilt = recursive.rebuild(plan, at_target(plan, carry(plan, keys, os.urandom, tamper)), 48)
    assert (rebuilt.secret, rebuilt.ambiguous) == (None, True)


@pytest.mark.parametrize("coalition", [("m1", "m2"), ("m1", "m5"), ("m3", "m4")])
def test_two_of_five_who_plant_valid_shares_of_one_another_secret_change_nothing(coalition):
    plan, keys = fan(5, 3), bytes(48)
    assert minimal_sets.resilience(plan, others=5).tampering == 2
    planted = dict(recursive.deal(plan, b"another secret".ljust(48), os.urandom))

    def tamper(route, payload):
        return planted[route[-1]] if route[-1] in coalition else payload

    rebuilt = recursive.rebuild(plan, at_target(plan, carry(plan, keys, os.urandom, tamper)), 48)
    assert (rebuilt.secret, rebuilt.ambiguous) == (keys, False)


# --- why --------------------------------------------------------------------------------------------


def test_the_case_of_a_failed_kme_says_which_splits_fall_short():
    found = case(PLAN, failed=["kme-6"])
    assert (found.delivered, found.learned, found.held) == (False, False, ())
    assert [(s.kme, s.present, s.missing, s.needed) for s in found.short] == [
        ("kme-1", ("kme-3",), ("kme-2", "kme-4"), 2),
        ("kme-4", ("kme-7",), ("kme-6",), 2),
        ("kme-2", ("kme-5",), ("kme-6",), 2),
    ]


def test_the_case_of_a_coalition_says_what_it_holds():
    found = case(PLAN, compromised=["kme-5", "kme-6"], cut=[("kme-8", "kme-5")])
    assert (found.delivered, found.learned, found.short[0].kme) == (True, True, "kme-2")
    assert [(h.kme, h.member, h.shares) for h in found.held] == [
        ("kme-1", False, ("kme-2", "kme-3")),
        ("kme-3", False, ("kme-5", "kme-6")),
        ("kme-2", False, ("kme-5", "kme-6")),
        ("kme-6", True, ()),
        ("kme-5", True, ()),
    ]


def test_an_end_that_is_down_delivers_nothing():
    assert not case(PLAN, failed=["kme-8"]).delivered
    assert not case(PLAN, failed=["kme-1"]).delivered


# --- probabilities ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "leak"), [(1, 0.0280), (2, 0.0552), (3, 0.0817)])
def test_layers_leak_as_the_formula_says(count, leak):
    plan = recursive_plan(layers(count), "source", "target")
    found = probability.leak(plan, 0.1)
    kept = sum((0.9**3, 3 * 0.1 * 0.9**2)) ** count
    assert found.exact
    assert found.low == pytest.approx(1 - kept)
    assert found.low == pytest.approx(leak, abs=5e-5)


def test_a_path_is_lost_with_any_of_its_parts():
    plan = written({"s": (("a",), 1), "a": (("t",), 1)}, "s", "t")
    assert probability.loss(plan, {"a": 0.5}, {("t", "a"): 0.5}).low == pytest.approx(0.75)
    assert probability.loss(plan) == Probability(0.0, 0.0, exact=True)


def test_a_very_small_probability_is_not_lost_in_rounding():
    assert probability.leak(fan(20, 20), 1e-3).low == pytest.approx(1e-60)


def test_where_a_diagram_is_too_large_the_answer_is_an_interval(monkeypatch):
    monkeypatch.setattr(probability.Diagram, "__init__", lambda *_: (_ for _ in ()).throw(probability.TooLargeError))
    plan = recursive_plan(layers(3), "source", "target")
    found = probability.leak(plan, 0.1, samples=1 << 16)
    assert (found.exact, found.confidence) == (False, 0.999)
    assert found.low < 0.081669952 < found.high < found.low + 0.01


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_a_probability_that_is_none_is_refused(wrong):
    with pytest.raises(RequestRefusedError, match="the probability of kme-"):
        probability.leak(PLAN, wrong)


def test_a_circuit_keeps_its_smallest_sets_without_kmes_that_only_forward():
    paths = path_plan([("s", "a", "b", "t"), ("s", "c", "d", "e", "t")], 2)
    assert set(learning(paths).without_dominated().elements) == {"b", "e"}
