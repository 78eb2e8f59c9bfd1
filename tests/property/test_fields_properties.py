"""The axioms of both fields, and the sharing and the code on any data."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdrelay.errors import AmdError
from qkdrelay.sharing import amd, gf128, gf256, shamir, shamir_numpy
from support import sharing_slow as slow

BYTES = st.integers(0, 255)
BLOCKS = st.binary(min_size=16, max_size=16)
RANDOM = st.integers(0, 2**32).map(lambda seed: Random(seed).randbytes)

EDGES = (shamir.LONG, 2 * shamir.LONG, shamir_numpy.BLOCK, 2 * shamir_numpy.BLOCK)
MESSAGES = st.binary(max_size=80) | st.binary(min_size=amd.SHORT - 20, max_size=amd.SHORT + 60)
LENGTHS = st.builds(int.__add__, st.sampled_from(EDGES), st.integers(-9, 9)) | st.integers(1, 3 * shamir_numpy.BLOCK)


def pieces(data):
    """``data`` cut into what is too short for numpy."""
    return [data[start : start + shamir.LONG - 1] for start in range(0, len(data), shamir.LONG - 1)]


def split_in_pieces(secret, n, k, random):
    """The shares, each piece of them by the short way: the sharing goes byte by byte."""
    size = len(secret)
    drawn = random((k - 1) * size) if k > 1 else b""
    rows = [pieces(drawn[start : start + size]) for start in range(0, len(drawn), size)]
    shares = [b""] * n
    for number, piece in enumerate(pieces(secret)):
        here = shamir.split(piece, n, k, lambda _, number=number: b"".join(row[number] for row in rows))
        shares = [share + value for share, value in zip(shares, here, strict=True)]
    return shares


@given(BYTES, BYTES, BYTES)
def test_gf256_is_a_field(a, b, c):
    times = gf256.multiply
    assert times(a, b) == times(b, a)
    assert times(a, times(b, c)) == times(times(a, b), c)
    assert times(a, b ^ c) == times(a, b) ^ times(a, c)
    assert times(a, 1) == a
    assert a == 0 or times(a, gf256.inverse(a)) == 1


@given(BLOCKS, BLOCKS, BLOCKS)
def test_gf128_is_a_commutative_ring_with_one(a, b, c):
    times = gf128.evaluate
    assert times(a, b) == times(b, a)
    assert times(a, times(b, c)) == times(times(a, b), c)
    assert times(a, slow.xor(b, c)) == slow.xor(times(a, b), times(a, c))
    assert times(a, (1).to_bytes(16)) == a


@given(BLOCKS)
def test_gf128_is_a_field_because_each_element_is_its_own_2_to_the_128th_power(a):
    power = a
    for _ in range(128):
        power = gf128.evaluate(power, power)
    assert power == a


@given(BLOCKS, BLOCKS)
def test_gf128_multiplies_as_polynomials_do(a, b):
    assert int.from_bytes(gf128.evaluate(a, b)) == slow.mul128(int.from_bytes(a), int.from_bytes(b))


@given(st.data(), st.binary(min_size=1, max_size=64), RANDOM)
def test_any_threshold_of_shares_rebuilds_the_secret_and_the_other_shares(data, secret, random):
    n = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, n))
    shares = dict(enumerate(shamir.split(secret, n, k, random), start=1))
    chosen = data.draw(st.lists(st.sampled_from(sorted(shares)), min_size=k, unique=True))
    points = {x: shares[x] for x in chosen}
    assert shamir.combine(points) == secret
    assert all(shamir.combine(points, at=x) == share for x, share in shares.items())


@settings(max_examples=60)
@given(st.data(), LENGTHS, st.integers(0, 2**32))
def test_a_long_secret_is_shared_as_its_pieces_are(data, size, seed):
    n = data.draw(st.integers(1, 9) | st.integers(1, 255 if size < 2 * shamir.LONG else 20))
    k = data.draw(st.integers(1, min(n, 6)) | st.integers(1, min(n, 40)))
    secret = Random(~seed).randbytes(size)
    shares = shamir.split(secret, n, k, Random(seed).randbytes)
    assert shares == split_in_pieces(secret, n, k, Random(seed).randbytes)

    xs = data.draw(st.lists(st.integers(1, n), min_size=k, max_size=max(k, 8), unique=True))
    assert shamir.combine({x: shares[x - 1] for x in xs}) == secret
    at = data.draw(st.integers(1, n))
    assert shamir.combine({x: shares[x - 1] for x in xs}, at=at) == shares[at - 1]


@settings(max_examples=60)
@given(st.data(), LENGTHS, RANDOM)
def test_long_points_are_combined_as_their_pieces_are(data, size, random):
    xs = data.draw(st.lists(st.integers(1, 255), min_size=1, max_size=6, unique=True))
    at = data.draw(BYTES)
    points = {x: random(size) for x in xs}
    in_pieces = zip(*(pieces(y) for y in points.values()), strict=True)
    assert shamir.combine(points, at) == b"".join(
        shamir.combine(dict(zip(points, ys, strict=True)), at) for ys in in_pieces
    )


@given(st.data(), MESSAGES, RANDOM)
def test_any_change_of_a_code_word_is_seen(data, message, random):
    codeword = amd.encode(message, random)
    some = st.binary(min_size=len(codeword), max_size=len(codeword)).filter(any)
    one = st.integers(0, 8 * len(codeword) - 1).map(lambda bit: (1 << bit).to_bytes(len(codeword)))
    with pytest.raises(AmdError):
        amd.decode(slow.xor(codeword, data.draw(some | one)))


@given(MESSAGES, RANDOM)
def test_the_code_word_is_the_one_of_the_definition(message, random):
    codeword = amd.encode(message, random)
    assert codeword == slow.amd_codeword(message, codeword[len(message) : -16])
    assert len(codeword) == amd.encoded_length(len(message))
    assert amd.decode(codeword) == message
