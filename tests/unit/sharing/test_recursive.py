"""Missing shares: what rebuilds and what is reported, and what it costs."""

import os
import random

import pytest

from qkdrelay.schemes import recursive
from qkdrelay.sharing import shamir
from qkdrelay.sharing.work import attempt
from support.plans import at_target, carry, eight, fan, written

KEYS = os.urandom(96)
FORWARDS = {"a": (["b"], 1), "b": (["c"], 1), "c": (["d"], 1)}


def route(*numbers):
    return tuple(f"kme-{number}" for number in numbers)


@pytest.fixture
def interpolations(monkeypatch):
    """Count the calls of combine: at 0, and elsewhere."""
    counted = {"interpolated": 0, "evaluated": 0}
    combine = shamir.combine

    def counting(points, at=0):
        counted["evaluated" if at else "interpolated"] += 1
        return combine(points, at)

    monkeypatch.setattr(shamir, "combine", counting)
    return counted


def test_the_reference_network_takes_17_share_messages():
    held = carry(eight(), KEYS, os.urandom)
    assert len(held) - 1 == 17
    assert len(at_target(eight(), held)) == 7


def test_all_shares_rebuild_the_secret_and_nothing_is_reported():
    plan = eight()
    result = recursive.rebuild(plan, at_target(plan, carry(plan, KEYS, os.urandom)), 96)
    assert result == recursive.RebuildResult(KEYS, (), ())


def test_the_order_in_which_shares_come_does_not_matter():
    plan = eight()
    shares = list(at_target(plan, carry(plan, KEYS, os.urandom)).items())
    random.Random(1).shuffle(shares)
    assert recursive.rebuild(plan, dict(shares), 96).secret == KEYS


def test_a_failed_link_costs_one_share_and_its_split():
    plan = eight()
    shares = at_target(plan, carry(plan, KEYS, os.urandom))
    lost = {r: share for r, share in shares.items() if r[-2:] != ("kme-7", "kme-8")}
    result = recursive.rebuild(plan, lost, 96)
    assert result.secret == KEYS
    assert result.missing == (route(1, 3, 7, 8), route(1, 4, 7, 8))
    assert result.splits == (recursive.SplitStatus(route(1, 4), present=1, needed=2),)


def test_too_few_shares_name_every_split_that_fell_short():
    plan = eight()
    shares = at_target(plan, carry(plan, KEYS, os.urandom))
    few = {r: shares[r] for r in (route(1, 2, 5, 8), route(1, 3, 5, 8), route(1, 3, 6, 8))}
    result = recursive.rebuild(plan, few, 96)
    assert result.secret is None
    assert result.splits == (
        recursive.SplitStatus(route(1), present=1, needed=2),
        recursive.SplitStatus(route(1, 2), present=1, needed=2),
        recursive.SplitStatus(route(1, 4), present=0, needed=2),
    )
    assert set(result.missing) == set(shares) - set(few)


def test_nothing_is_interpolated_while_too_few_shares_are_there(interpolations):
    plan = eight()
    shares = at_target(plan, carry(plan, KEYS, os.urandom))
    few = {r: share for r, share in shares.items() if r[1] == "kme-3"}
    assert recursive.rebuild(plan, few, 96).secret is None
    assert interpolations == {"interpolated": 0, "evaluated": 0}


def test_an_honest_split_costs_one_interpolation_and_an_evaluation_for_each_further_share(interpolations):
    plan = fan(20, 11)
    result = recursive.rebuild(plan, at_target(plan, carry(plan, KEYS, os.urandom)), 96)
    assert (result.secret, result.exhausted) == (KEYS, False)
    assert interpolations == {"interpolated": 1, "evaluated": 9}


def test_all_splits_together_stay_within_the_bound_but_for_one_first_try_each(interpolations):
    leaves = [f"{side}{i}" for side in "ab" for i in range(8)]
    hops = {"s": (["a", "b"], 2), "a": (leaves[:8], 4), "b": (leaves[8:], 4)}
    plan = written({**hops, **{kme: (["t"], 1) for kme in leaves}}, "s", "t")
    shares = at_target(plan, carry(plan, KEYS, os.urandom))
    result = recursive.rebuild(
        plan, {r: os.urandom(len(share)) for r, share in shares.items()}, 96, search=60 * attempt(4, 128)
    )
    assert (result.secret, result.exhausted) == (None, True)
    assert interpolations["interpolated"] <= 60 + 3


@pytest.mark.parametrize("size", [0, 1, 127, 129])
def test_a_share_of_the_wrong_length_counts_as_missing(size):
    plan = fan(2, 2)
    shares = at_target(plan, carry(plan, KEYS, os.urandom))
    result = recursive.rebuild(plan, {**shares, ("s", "m1", "t"): bytes(size)}, 96)
    assert (result.secret, result.missing) == (None, (("s", "m1", "t"),))


@pytest.mark.parametrize("stray", [(), ("t",), ("s", "t"), ("s", "m9", "t"), ("s", "m1", "t", "t"), ("x", "y")])
def test_what_is_on_no_route_of_the_plan_is_ignored(stray):
    plan = fan(3, 2)
    shares = at_target(plan, carry(plan, KEYS, os.urandom))
    assert recursive.rebuild(plan, {**shares, stray: bytes(128)}, 96) == recursive.RebuildResult(KEYS, (), ())


def test_a_source_with_one_successor_encodes_and_does_not_split():
    plan = written(FORWARDS, "a", "d")
    held = carry(plan, KEYS, os.urandom)
    assert held["a", "b"] == held["a", "b", "c", "d"] != KEYS
    assert recursive.rebuild(plan, at_target(plan, held), 96).secret == KEYS


def test_a_changed_payload_on_a_single_route_is_disputed():
    plan = written(FORWARDS, "a", "d")
    result = recursive.rebuild(plan, {("a", "b", "c", "d"): os.urandom(128)}, 96)
    assert result.secret is None
    assert result.disputed == (recursive.DisputedSplit(("a",), ((("a", "b", "c", "d"),),)),)


def test_a_kme_with_one_successor_forwards_unchanged():
    plan = written(FORWARDS, "a", "d")
    assert recursive.reshare(plan.below("b"), b"payload", os.urandom) == [("c", b"payload")]


def test_the_target_hands_nothing_on():
    assert recursive.reshare(eight().below("kme-8"), b"payload", os.urandom) == []


def test_a_route_of_a_thousand_kmes_is_rebuilt():
    class Line:
        source = "0"

        def successors(self, kme):
            return (str(int(kme) + 1),) if int(kme) < 1000 else ()

        def threshold(self, kme):
            return 1

        def share_length(self, route, payload_length):
            return payload_length + 32

    [(_, codeword)] = recursive.deal(Line(), KEYS, os.urandom)
    assert recursive.rebuild(Line(), {tuple(map(str, range(1001))): codeword}, 96).secret == KEYS


def test_the_result_shows_no_secret():
    plan = fan(2, 2)
    result = recursive.rebuild(plan, at_target(plan, carry(plan, KEYS, os.urandom)), 96)
    assert repr(KEYS)[2:12] not in repr(result)
