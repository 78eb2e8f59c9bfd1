"""False shares: what is rebuilt all the same, who is named, and who must not be."""

import os

import pytest

from qkdrelay.schemes import recursive
from qkdrelay.sharing import amd, gf256, shamir
from qkdrelay.sharing.work import attempt
from support.plans import at_target, carry, eight, fan, written
from support.sharing_slow import xor

KEYS = os.urandom(96)


def route(*numbers):
    return tuple(f"kme-{number}" for number in numbers)


def middle(*numbers):
    """The routes of a fan's shares with these x."""
    return tuple(("s", f"m{x}", "t") for x in numbers)


def arrived(plan, *altered):
    """What reaches the target if the payloads at the end of the ``altered`` routes are replaced there."""

    def tamper(at, payload):
        return os.urandom(len(payload)) if at in altered else payload

    return at_target(plan, carry(plan, KEYS, os.urandom, tamper))


def shift(shares, xs, difference):
    """Add to the shares at ``xs`` the polynomial whose value at x is difference(x), to every byte."""
    added = {middle(x)[0]: bytes([difference(x)]) * 128 for x in xs}
    return {r: xor(share, added[r]) if r in added else share for r, share in shares.items()}


def through_zero_and(*roots):
    """A polynomial that is zero at 0 and at the roots: x * (x - root) * ..."""

    def value(x):
        product = x
        for root in roots:
            product = gf256.multiply(product, x ^ root)
        return product

    return value


@pytest.mark.parametrize("false", [route(1, 3, 5, 8), route(1, 3, 6, 8), route(1, 3, 7, 8)])
def test_a_false_share_among_three_is_named_with_its_whole_route(false):
    plan = eight()
    result = recursive.rebuild(plan, arrived(plan, false), 96)
    assert (result.secret, result.false, result.disputed) == (KEYS, (false,), ())


def test_a_payload_falsified_before_it_is_split_again_is_named_with_the_route_to_that_kme():
    plan = eight()
    result = recursive.rebuild(plan, arrived(plan, route(1, 2)), 96)
    assert (result.secret, result.false, result.disputed) == (KEYS, (route(1, 2),), ())


def test_what_is_below_a_false_payload_is_not_accused():
    plan = eight()
    result = recursive.rebuild(plan, arrived(plan, route(1, 3), route(1, 3, 5, 8)), 96)
    assert (result.secret, result.false, result.disputed) == (KEYS, (route(1, 3),), ())


def test_a_split_in_which_nothing_decodes_is_disputed_and_the_others_deliver():
    plan = eight()
    result = recursive.rebuild(plan, arrived(plan, route(1, 2, 5, 8)), 96)
    assert (result.secret, result.false) == (KEYS, ())
    assert result.disputed == (recursive.DisputedSplit(route(1, 2), ((route(1, 2, 5, 8),), (route(1, 2, 6, 8),))),)


def test_a_split_without_a_payload_counts_as_missing_above():
    plan = eight()
    result = recursive.rebuild(plan, arrived(plan, route(1, 2, 5, 8), route(1, 4, 6, 8)), 96)
    assert result.secret is None
    assert result.splits == (recursive.SplitStatus(route(1), present=1, needed=2),)
    assert [dispute.route for dispute in result.disputed] == [route(1, 2), route(1, 4)]


def test_below_a_split_that_is_not_confirmed_nobody_is_named():
    plan = eight()
    false = (route(1, 2, 5, 8), route(1, 3, 5, 8), route(1, 4, 6, 8))
    result = recursive.rebuild(plan, arrived(plan, *false), 96)
    assert (result.secret, result.false) == (None, ())
    assert result.disputed[1] == recursive.DisputedSplit(
        route(1, 3), ((route(1, 3, 6, 8), route(1, 3, 7, 8)), (route(1, 3, 5, 8),))
    )


def test_a_share_is_named_if_2k_minus_2_others_agree():
    plan = fan(5, 3)
    result = recursive.rebuild(plan, arrived(plan, *middle(2)), 96)
    assert (result.secret, result.false, result.disputed) == (KEYS, middle(2), ())


def test_a_share_is_only_disputed_if_fewer_than_2k_minus_2_others_agree():
    plan = fan(4, 3)
    result = recursive.rebuild(plan, arrived(plan, *middle(2)), 96)
    assert (result.secret, result.false) == (KEYS, ())
    assert result.disputed == (recursive.DisputedSplit(("s",), (middle(1, 3, 4), middle(2))),)


def test_false_shares_that_cancel_at_0_cannot_frame_an_honest_one():
    # The two false shares lie with the honest third on another polynomial with the true value at 0.
    plan = fan(4, 3)
    shares = shift(arrived(plan), (1, 2), through_zero_and(3))
    result = recursive.rebuild(plan, shares, 96)
    assert (result.secret, result.false) == (KEYS, ())
    assert result.disputed == (recursive.DisputedSplit(("s",), (middle(1, 2, 3), middle(4))),)


def test_false_shares_that_cancel_at_0_are_named_once_enough_honest_ones_disagree():
    plan = fan(6, 3)
    shares = shift(arrived(plan), (1, 2), through_zero_and(3))
    result = recursive.rebuild(plan, shares, 96)
    assert (result.secret, result.false, result.disputed) == (KEYS, middle(1, 2), ())


def test_false_shares_with_all_the_agreement_they_can_have_are_not_trusted():
    # k = 4: three false shares and two honest ones agree, 2k-3 = 5 in all, against the other four honest ones.
    plan = fan(9, 4)
    shares = shift(arrived(plan), (1, 2, 3), through_zero_and(4, 5))
    result = recursive.rebuild(plan, shares, 96)
    assert (result.secret, result.false, result.disputed) == (KEYS, middle(1, 2, 3), ())


def test_two_polynomials_with_enough_agreement_are_a_dispute():
    # Two of three shares of a 2-of-3 split are false: more than the split tolerates, so none may be named.
    plan = fan(4, 2)
    codeword = shamir.combine({1: (shares := arrived(plan))[middle(1)[0]], 2: shares[middle(2)[0]]})
    other = shamir.split(codeword, 4, 2, os.urandom)
    mixed = {**shares, middle(3)[0]: other[2], middle(4)[0]: other[3]}
    result = recursive.rebuild(plan, mixed, 96)
    assert (result.secret, result.false) == (KEYS, ())
    assert result.disputed == (recursive.DisputedSplit(("s",), (middle(1, 2), middle(3, 4))),)


def test_children_that_cancel_are_not_confirmed_so_nobody_below_them_is_named():
    # a and b falsify their shares so that the secret stays; below a, the honest share d alone is true.
    hops = {
        "s": (["a", "b", "c"], 3),
        "a": (["d", "e", "f"], 2),
        **{kme: (["t"], 1) for kme in "bcdef"},
    }
    plan = written(hops, "s", "t")
    difference = through_zero_and(3)
    honest = carry(plan, KEYS, os.urandom)
    added = {("s", "a"): difference(1), ("s", "b"): difference(2)}
    codeword = xor(honest["s", "a"], bytes([added["s", "a"]]) * 128)
    shares = at_target(plan, honest)
    shares["s", "b", "t"] = xor(shares["s", "b", "t"], bytes([added["s", "b"]]) * 128)
    resplit = shamir.split(amd.encode(codeword, os.urandom), 3, 2, os.urandom)
    shares["s", "a", "e", "t"], shares["s", "a", "f", "t"] = resplit[1:]
    result = recursive.rebuild(plan, shares, 96)
    assert (result.secret, result.false) == (KEYS, ())
    assert [dispute.route for dispute in result.disputed] == [("s", "a")]


def test_more_than_one_secret_that_decodes_is_ambiguous():
    plan = fan(2, 1)
    shares = {**arrived(plan), middle(2)[0]: amd.encode(bytes(96), os.urandom)}
    result = recursive.rebuild(plan, shares, 96)
    assert (result.secret, result.ambiguous, result.false) == (None, True, ())
    assert result.disputed == (recursive.DisputedSplit(("s",), (middle(1), middle(2))),)


def test_the_level_above_decides_between_two_payloads():
    # d and e, who can learn a's share, make another out of it; b and c outvote them above.
    hops = {"s": (["a", "b", "c"], 2), "a": (["d", "e", "f", "g"], 2), **{kme: (["t"], 1) for kme in "bcdefg"}}
    plan = written(hops, "s", "t")
    shares = arrived(plan)
    forged = shamir.split(amd.encode(os.urandom(128), os.urandom), 4, 2, os.urandom)
    shares["s", "a", "d", "t"], shares["s", "a", "e", "t"] = forged[:2]
    result = recursive.rebuild(plan, shares, 96)
    assert (result.secret, result.disputed) == (KEYS, ())
    assert result.false == (("s", "a", "d", "t"), ("s", "a", "e", "t"))


def test_the_bound_on_attempts_is_reported():
    plan = fan(8, 4)
    shares = arrived(plan, *middle(1, 2, 3, 4, 5))
    result = recursive.rebuild(plan, shares, 96, search=20 * attempt(4, 128))
    assert (result.secret, result.exhausted) == (None, True)
    assert result.disputed == (recursive.DisputedSplit(("s",), tuple((r,) for r in middle(*range(1, 9)))),)


def test_within_the_bound_nothing_is_left_untried():
    plan = fan(8, 4)
    result = recursive.rebuild(plan, arrived(plan, *middle(1, 2, 3, 4, 5)), 96, search=70 * attempt(4, 128))
    assert (result.secret, result.exhausted) == (None, False)


def test_false_shares_at_the_front_do_not_hide_the_true_ones_behind_the_bound():
    # Five that conspire are more than decoding finds among twenty, any eleven of which are enough.
    plan = fan(20, 11)
    shares = shift(arrived(plan), range(1, 6), lambda x: gf256.power(x, 200))
    result = recursive.rebuild(plan, shares, 96, search=300 * attempt(11, 128))
    assert (result.secret, result.exhausted) == (KEYS, True)


def test_false_shares_in_one_split_do_not_use_up_what_another_needs():
    leaves = [f"{side}{i}" for side in "ab" for i in range(8)]
    hops = {
        "s": (["a", "b"], 1),
        "a": (leaves[:8], 4),
        "b": (leaves[8:], 4),
        **{kme: (["t"], 1) for kme in leaves},
    }
    plan = written(hops, "s", "t")
    false = [("s", "a", f"a{i}", "t") for i in range(5)] + [("s", "b", "b0", "t")]
    result = recursive.rebuild(plan, arrived(plan, *false), 96, search=60 * attempt(4, 128))
    assert (result.secret, result.exhausted) == (KEYS, True)
