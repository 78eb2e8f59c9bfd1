"""The axioms of both fields, and the sharing and the code on any data."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdrelay.errors import AmdError
from qkdrelay.sharing import amd, gf128, gf256, shamir
from support import sharing_slow as slow

BYTES = st.integers(0, 255)
BLOCKS = st.binary(min_size=16, max_size=16)
RANDOM = st.integers(0, 2**32).map(lambda seed: Random(seed).randbytes)


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
    times = gf128.multiply
    assert times(a, b) == times(b, a)
    assert times(a, times(b, c)) == times(times(a, b), c)
    assert times(a, slow.xor(b, c)) == slow.xor(times(a, b), times(a, c))
    assert times(a, (1).to_bytes(16)) == a


@given(BLOCKS)
def test_gf128_is_a_field_because_each_element_is_its_own_2_to_the_128th_power(a):
    power = a
    for _ in range(128):
        power = gf128.multiply(power, power)
    assert power == a


@given(BLOCKS, BLOCKS)
def test_gf128_multiplies_as_polynomials_do(a, b):
    assert int.from_bytes(gf128.multiply(a, b)) == slow.mul128(int.from_bytes(a), int.from_bytes(b))


@given(st.data(), st.binary(min_size=1, max_size=64), RANDOM)
def test_any_threshold_of_shares_rebuilds_the_secret_and_the_other_shares(data, secret, random):
    n = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, n))
    shares = dict(enumerate(shamir.split(secret, n, k, random), start=1))
    chosen = data.draw(st.lists(st.sampled_from(sorted(shares)), min_size=k, unique=True))
    points = {x: shares[x] for x in chosen}
    assert shamir.combine(points) == secret
    assert all(shamir.combine(points, at=x) == share for x, share in shares.items())


@given(st.data(), st.binary(max_size=80), RANDOM)
def test_any_change_of_a_code_word_is_seen(data, message, random):
    codeword = amd.encode(message, random)
    change = data.draw(st.binary(min_size=len(codeword), max_size=len(codeword)).filter(any))
    with pytest.raises(AmdError):
        amd.decode(slow.xor(codeword, change))


@given(st.binary(max_size=80), RANDOM)
def test_the_code_word_is_the_one_of_the_definition(message, random):
    codeword = amd.encode(message, random)
    assert codeword == slow.amd_codeword(message, codeword[len(message) : len(message) + 16])
