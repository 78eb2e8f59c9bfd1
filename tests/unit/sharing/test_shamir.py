import os
from collections import Counter
from itertools import permutations

import pytest

from qkdrelay.errors import SharingError
from qkdrelay.sharing import shamir, shamir_numpy
from support import sharing_slow as slow

SECRET = bytes(range(32))
LONG = 2 * shamir_numpy.BLOCK + 5


def test_every_ordered_subset_of_enough_shares_rebuilds_the_secret():
    shares = dict(enumerate(shamir.split(SECRET, 5, 3, os.urandom), start=1))
    for size in (3, 4, 5):
        for xs in permutations(shares, size):
            assert shamir.combine({x: shares[x] for x in xs}) == SECRET


def test_enough_shares_give_every_other_share():
    shares = dict(enumerate(shamir.split(SECRET, 5, 3, os.urandom), start=1))
    for at, share in shares.items():
        assert shamir.combine({x: shares[x] for x in (1, 3, 4)}, at=at) == share


@pytest.mark.parametrize("x", [1, 2, 255])
def test_one_share_too_few_is_uniform_whatever_the_secret(x):
    for secret in (b"\x00", b"\x2a", b"\xff"):
        shares = Counter(shamir.split(secret, 255, 2, lambda n, c=c: bytes([c]))[x - 1] for c in range(256))
        assert set(shares.values()) == {1}
        assert len(shares) == 256


def test_the_top_coefficient_may_be_zero():
    assert shamir.split(b"\x07", 3, 2, bytes) == [b"\x07"] * 3


def test_a_threshold_of_one_copies_and_draws_nothing():
    def never(_):
        pytest.fail("randomness was drawn")

    assert shamir.split(SECRET, 3, 1, never) == [SECRET] * 3


def test_all_255_points_can_be_used():
    shares = shamir.split(SECRET, 255, 255, os.urandom)
    assert shamir.combine(dict(enumerate(shares, start=1))) == SECRET


@pytest.mark.parametrize("edge", [shamir.LONG, shamir_numpy.BLOCK, 2 * shamir_numpy.BLOCK])
@pytest.mark.parametrize("more", [-1, 0, 1, 7])
@pytest.mark.parametrize(("n", "k"), [(2, 2), (3, 2), (5, 3), (9, 5), (40, 2)])
def test_a_long_secret_is_shared_by_the_definition_and_draws_once(edge, more, n, k):
    size = edge + more
    secret, drawn = os.urandom(size), os.urandom((k - 1) * size)
    asked = []
    shares = shamir.split(secret, n, k, lambda size: (asked.append(size), drawn)[1])
    assert asked == [(k - 1) * size]
    assert {len(share) for share in shares} == {size}
    edges = range(0, size, shamir_numpy.BLOCK)
    places = sorted({at + i for at in (*edges, size) for i in range(-2, 2)} & {*range(size)} | {*range(0, size, 9001)})
    coefficients = [bytes(drawn[row * size + place] for place in places) for row in range(k - 1)]
    expected = slow.shamir_shares(bytes(secret[place] for place in places), n, coefficients)
    assert [bytes(share[place] for place in places) for share in shares] == expected
    for chosen in (range(1, k + 1), range(n, n - k, -1)):
        assert shamir.combine({x: shares[x - 1] for x in chosen}) == secret


def test_all_255_points_can_be_used_for_a_long_secret():
    secret = os.urandom(shamir.LONG + 1)
    shares = shamir.split(secret, 255, 255, os.urandom)
    assert shamir.combine(dict(enumerate(shares, start=1))) == secret
    assert shamir.combine(dict(list(enumerate(shares, start=1))[1:])) != secret


def test_splitting_and_combining_leave_what_they_are_given_as_it_was():
    secret, drawn = os.urandom(LONG), os.urandom(LONG)
    given = secret, drawn, *shamir.split(secret, 2, 2, lambda _: drawn)
    copies = [bytes(bytearray(each)) for each in given]
    shamir.split(secret, 2, 2, lambda _: drawn)
    shamir.combine({1: given[2], 2: given[3]})
    assert list(given) == copies


@pytest.mark.parametrize(
    ("secret", "n", "k"),
    [(b"s", 0, 0), (b"s", 3, 0), (b"s", 3, -1), (b"s", 2, 3), (b"s", 256, 2), (b"s", -1, -1), (b"", 3, 2)],
)
def test_a_split_that_cannot_be_is_refused(secret, n, k):
    with pytest.raises(SharingError):
        shamir.split(secret, n, k, os.urandom)


@pytest.mark.parametrize(
    ("secret", "drawn"), [(32, 0), (32, 31), (32, 33), (LONG, 0), (LONG, LONG - 1), (LONG, LONG + 1)]
)
def test_randomness_of_the_wrong_length_is_refused(secret, drawn):
    with pytest.raises(SharingError):
        shamir.split(bytes(secret), 3, 2, lambda _: bytes(drawn))


@pytest.mark.parametrize(
    ("points", "at"),
    [
        ({}, 0),
        ({0: b"a", 1: b"b"}, 0),
        ({1: b"a", 256: b"b"}, 0),
        ({1: b"a", -1: b"b"}, 0),
        ({1: b"a", 2: b"bc"}, 0),
        ({1: bytes(LONG), 2: bytes(LONG - 1)}, 0),
        ({1: b"", 2: b""}, 0),
        ({1: b"a", 2: b"b"}, 256),
        ({1: b"a", 2: b"b"}, -1),
    ],
)
def test_points_that_cannot_be_shares_are_refused(points, at):
    with pytest.raises(SharingError):
        shamir.combine(points, at)


def test_a_share_opens_with_code_that_is_not_ours():
    vault = pytest.importorskip("pyshamir")
    shares = shamir.split(SECRET, 5, 3, os.urandom)
    for xs in permutations(range(1, 6), 3):
        assert bytes(vault.combine([bytearray(shares[x - 1] + bytes([x])) for x in xs])) == SECRET


def test_a_share_of_code_that_is_not_ours_opens_with_ours():
    vault = pytest.importorskip("pyshamir")
    shares = [bytes(share) for share in vault.split(SECRET, 5, 3)]
    assert shamir.combine({share[-1]: share[:-1] for share in shares[:3]}) == SECRET
