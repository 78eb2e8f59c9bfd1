"""Long draws are seeded anew, each by itself, from the operating system."""

import os
import ssl
from collections import Counter

import pytest

from qkdrelay import randomness
from qkdrelay.randomness import LONG, random_bytes


@pytest.mark.parametrize("size", [0, 1, 16, LONG - 1, LONG, LONG + 1, 131_184, 1 << 20])
def test_as_many_bytes_as_were_asked_for_and_never_the_same(size):
    draws = [random_bytes(size) for _ in range(3)]
    assert {len(draw) for draw in draws} == {size}
    assert size < 16 or len(set(draws)) == 3


def test_short_draws_are_the_operating_systems(monkeypatch):
    monkeypatch.setattr(randomness.os, "urandom", lambda size: b"\x07" * size)
    assert random_bytes(LONG - 1) == b"\x07" * (LONG - 1)
    assert random_bytes(LONG) != b"\x07" * LONG


def test_before_each_long_draw_fresh_bytes_of_the_operating_system_are_mixed_in(monkeypatch):
    given, mixed = [], []
    urandom, add = os.urandom, ssl.RAND_add
    monkeypatch.setattr(randomness.os, "urandom", lambda size: given.append(urandom(size)) or given[-1])
    monkeypatch.setattr(randomness.ssl, "RAND_add", lambda data, entropy: mixed.append(data) or add(data, entropy))
    for _ in range(4):
        random_bytes(LONG)
    assert mixed == given
    assert {len(data) for data in mixed} == {32}
    assert len(set(mixed)) == 4


def test_processes_forked_from_one_state_draw_different_bytes():
    random_bytes(LONG)
    reader, writer = os.pipe()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os.write(writer, random_bytes(LONG)[:64])
            os._exit(0)
        children.append(child)
    os.close(writer)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(reader, "rb") as pipe:
        drawn = pipe.read()
    own = random_bytes(LONG)[:64]
    assert len({own, *(drawn[i : i + 64] for i in range(0, len(drawn), 64))}) == 4


def test_a_long_draw_looks_uniform():
    size = 1 << 20
    counts = Counter(random_bytes(size))
    expected = size / 256
    chi_square = sum((counts[byte] - expected) ** 2 / expected for byte in range(256))
    # 255 degrees of freedom: mean 255, deviation 22.6. Outside of 12 deviations once in more than 10^20 runs.
    assert 255 - 12 * 22.6 < chi_square < 255 + 12 * 22.6
