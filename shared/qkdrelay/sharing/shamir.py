"""Shamir's secret sharing over GF(2^8), byte by byte, so that a share is as long as its secret.

Shamir, "How to share a secret", CACM 1979. The secret is the value at 0 of a random polynomial of degree
k-1; share i is its value at x = i. The sharing is linear and hides perfectly, and it is malleable: see
``amd`` for what makes a change show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from qkdrelay.errors import SharingError
from qkdrelay.sharing import gf256

SHARES_MAX = 255
"""GF(2^8) has 255 points besides 0, where the secret is."""

LONG = 2048
"""Bytes from which on numpy is quicker, in splitting and in combining. Measured."""

Random = Callable[[int], bytes]
"""Returns that many uniformly random bytes: `qkdrelay.randomness.random_bytes`, or a replay in a test."""


def split(secret: bytes, n: int, k: int, random: Random) -> list[bytes]:
    """Return ``n`` shares of ``secret``, any ``k`` of which rebuild it; share number i (from 0) has x = i+1.

    Draws once, ``(k-1) * len(secret)`` bytes, and not at all for k = 1: the coefficients of x, x^2, ...,
    x^(k-1) in this order, each as long as the secret. All are uniform, the top one too: forcing it to be
    non-zero would tell that k-1 shares never agree with certain secrets.

    Raises SharingError unless 1 <= k <= n <= 255, and for an empty secret, which would be shared as nothing.
    """
    if not 1 <= k <= n <= SHARES_MAX:
        raise SharingError(f"a split needs 1 <= threshold <= shares <= {SHARES_MAX}, not {k} of {n}")
    size = len(secret)
    if size == 0:
        raise SharingError("an empty secret cannot be shared")
    if k == 1:
        return [secret] * n
    drawn = random((k - 1) * size)
    if len(drawn) != (k - 1) * size:
        raise SharingError(f"the source of randomness gave {len(drawn)} bytes instead of {(k - 1) * size}")
    if size >= LONG:
        from qkdrelay.sharing import shamir_numpy  # noqa: PLC0415 - loads numpy

        return shamir_numpy.values(secret, drawn, n)
    coefficients = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    constant = int.from_bytes(secret)
    shares = []
    for powers in _powers(n, k):
        value = constant
        for i, times in enumerate(powers):
            value ^= int.from_bytes(coefficients[i].translate(times))
        shares.append(value.to_bytes(size))
    return shares


@lru_cache(maxsize=256)
def _powers(n: int, k: int) -> tuple[tuple[bytes, ...], ...]:
    """Return for x = 1 to ``n`` what multiplies by x, x^2, ..., x^(k-1)."""
    return tuple(tuple(gf256.TIMES[gf256.power(x, i)] for i in range(1, k)) for x in range(1, n + 1))


def combine(points: Mapping[int, bytes], at: int = 0) -> bytes:
    """Return the value at ``at`` of the polynomial of least degree through ``points`` (x -> y).

    At 0 that is the secret, at another x the share that belongs there. Exactly as many points as the
    threshold, or more that agree, give the right answer; fewer or false ones give another, unnoticed.

    Raises SharingError if there is no point, an x is not 1 to 255 (x = 0 would be the secret itself), ``at``
    is not 0 to 255, or the lengths differ or are 0. An x cannot be repeated: a mapping has each key once.
    """
    if not points:
        raise SharingError("there is no share to combine")
    if not 0 <= at <= SHARES_MAX or not all(1 <= x <= SHARES_MAX for x in points):
        raise SharingError(f"the index of a share must be 1 to {SHARES_MAX}")
    shares = list(points.values())
    size = len(shares[0])
    if size == 0 or any(len(share) != size for share in shares):
        raise SharingError("the shares of one secret are equally long, and not empty")
    weights = _weights(tuple(points), at)
    if size >= LONG:
        from qkdrelay.sharing import shamir_numpy  # noqa: PLC0415 - loads numpy

        return shamir_numpy.weighted(weights, shares)
    value = 0
    for weight, share in zip(weights, shares, strict=True):
        value ^= int.from_bytes(gf256.scale(weight, share))
    return value.to_bytes(size)


@lru_cache(maxsize=4096)
def _weights(xs: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Return Lagrange's weights, which sum to 1: the value is the sum of weight times share. None is secret."""
    if at in xs:
        return tuple(int(x == at) for x in xs)
    distances = _distances(at)
    whole = sum(distances[x] for x in xs)
    return tuple(gf256.EXP[(whole - distances[x] - spread) % 255] for x, spread in zip(xs, spreads(xs), strict=True))


@lru_cache(maxsize=256)
def spreads(xs: tuple[int, ...]) -> tuple[int, ...]:
    """Return for each x the logarithm of the product of its differences to the others."""
    return tuple(sum(map(_distances(x).__getitem__, xs)) for x in xs)


@lru_cache(maxsize=256)
def _distances(x: int) -> tuple[int, ...]:
    """Return the logarithm of the difference of ``x`` to each element; to itself, where there is none, 0."""
    return tuple(gf256.LOG[x ^ other] for other in range(256))
