"""False shares are found by decoding: about the work of an honest rebuild, counted; and what decoding cannot find."""

import os
import random

import pytest

from qkdrelay.schemes import recursive
from qkdrelay.sharing import amd, decoding, gf256, shamir
from qkdrelay.sharing.decoding import false_among
from qkdrelay.sharing.work import finished
from support.plans import at_target, carry, fan, written
from support.sharing_slow import xor
from support.work import counted

KEYS = os.urandom(96)
HUBS = [(18, 10), (24, 13), (40, 21), (255, 128)]


def conspired(share, x):
    """The same difference everywhere but for a factor, which decoding tells apart least."""
    return xor(share, bytes([gf256.power(x, 200)]) * len(share))


def invented(share, _x):
    return os.urandom(len(share))


def hub(n, k, length=96):
    plan, keys = fan(n, k), os.urandom(length)
    return plan, at_target(plan, carry(plan, keys, os.urandom)), keys


def falsified(shares, xs, how):
    return {
        route: how(share, int(route[1][1:])) if int(route[1][1:]) in xs else share for route, share in shares.items()
    }


@pytest.mark.parametrize("how", [conspired, invented])
@pytest.mark.parametrize(("n", "k", "length"), [*((n, k, 96) for n, k in HUBS), (24, 13, 3200), (18, 10, 1 << 17)])
def test_up_to_half_of_what_is_redundant_may_be_false_for_a_few_times_the_work_of_an_honest_rebuild(n, k, length, how):
    plan, shares, keys = hub(n, k, length)
    _, honest, _ = counted(plan, shares, length)
    for bad in {1, (n - k) // 4, (n - k) // 2}:
        for xs in (range(1, bad + 1), range(n - bad + 1, n + 1), random.sample(range(1, n + 1), bad)):
            result, work, _ = counted(plan, falsified(shares, xs, how), length)
            assert (result.secret, result.exhausted, result.ambiguous) == (keys, False, False)
            assert work <= 4 * honest


def test_shares_that_are_missing_take_half_as_much_as_false_ones():
    plan, shares, keys = hub(40, 21)
    there = dict(random.sample(sorted(shares.items()), 31))
    bad = {int(route[1][1:]) for route in random.sample(sorted(there), 5)}
    result, work, _ = counted(plan, falsified(there, bad, conspired), 96)
    assert (result.secret, result.exhausted) == (keys, False)
    assert work <= 4 * counted(plan, shares, 96)[1]


def test_false_shares_are_named_where_enough_agree():
    plan, shares, keys = hub(60, 11)
    xs = set(random.sample(range(1, 61), 10))
    result, _, _ = counted(plan, falsified(shares, xs, conspired), 96)
    assert (result.secret, result.exhausted) == (keys, False)
    assert set(result.false) == {("s", f"m{x}", "t") for x in xs}


@pytest.mark.parametrize("length", [16, 17, 31, 32, 33, 100, 1000, 9000])
def test_the_false_shares_are_found_among_shares_of_any_length(length):
    drawn = random.Random(length).randbytes  # of others, one in some hundred folds hides a false share
    shares = dict(enumerate(shamir.split(drawn(length), 20, 9, drawn), 1))
    for x in (3, 7, 11, 12, 20):
        shares[x] = conspired(shares[x], x)
    assert finished(false_among(shares, 9, 0)) == {3, 7, 11, 12, 20}


def test_more_are_found_if_those_who_made_them_did_not_conspire():
    shares = dict(enumerate(shamir.split(os.urandom(128), 18, 10, os.urandom), 1))
    for x in range(2, 9):
        shares[x] = invented(shares[x], x)
    assert finished(false_among(shares, 10, 0)) == set(range(2, 9))


def test_none_is_named_among_shares_that_are_true_and_none_can_be_among_noise():
    shares = dict(enumerate(shamir.split(os.urandom(128), 18, 10, os.urandom), 1))
    assert finished(false_among(shares, 10, 0)) == frozenset()
    assert finished(false_among({x: os.urandom(128) for x in shares}, 10, 0)) is None


def test_a_false_share_that_a_fold_hides_is_found_by_another():
    """Who knows all shares can try false ones until the fold that they decide hides one."""
    plan, shares, keys = hub(18, 10)
    route = ("s", "m1", "t")
    true = shares[route]
    for attempt in range(1, 1 << 16):
        difference = bytes([attempt % 255 + 1]).ljust(64, b"\0") + bytes([attempt // 255]).ljust(64, b"\0")
        shares[route] = xor(true, difference)
        by_x = {int(r[1][1:]): share for r, share in shares.items()}
        if not any(decoding._folded(difference, finished(decoding._factors(by_x, 0)))):
            break
    assert finished(false_among(by_x, 10, 0)) == frozenset()
    result, work, _ = counted(plan, shares, 96)
    assert (result.secret, result.exhausted) == (keys, False)
    assert work <= 8 * counted(plan, falsified(shares, {1}, lambda *_: true), 96)[1]


def test_two_camps_are_both_found():
    plan, shares, _ = hub(40, 5)
    other = os.urandom(96)
    planted = dict(recursive.deal(plan, other, os.urandom))
    xs = random.sample(range(1, 41), 14)
    result, _, found = counted(plan, falsified(shares, xs, lambda _share, x: planted[f"m{x}"]), 96, search=0)
    assert (result.secret, result.ambiguous, result.exhausted) == (None, True, True)
    assert sorted(len(places) for places in found) == [14, 26]


def test_a_payload_of_a_few_survives_at_a_split_that_is_no_majority():
    """Seven of nine who make another payload of an inner split do not hide the true one, of which two are enough."""
    hops = {"s": (["a", "b", "c"], 2), "a": ([f"d{i}" for i in range(9)], 2)}
    plan = written({**hops, **{kme: (["t"], 1) for kme in ["b", "c", *hops["a"][0]]}}, "s", "t")
    shares = at_target(plan, carry(plan, KEYS, os.urandom))
    forged = shamir.split(amd.encode(os.urandom(128), os.urandom), 9, 2, os.urandom)
    for i in range(7):
        shares["s", "a", f"d{i}", "t"] = forged[i]
    shares.pop(("s", "b", "t"))
    assert recursive.rebuild(plan, shares, 96).secret == KEYS
