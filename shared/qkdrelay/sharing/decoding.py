"""Decoding: the false shares of a split, without trying subsets, since Shamir's sharing is a Reed-Solomon code.

All bytes of a false share stand at one x, so all columns of the shares have their errors at the same places. The
shares are folded to a few columns at random, and the *syndromes* of those, s_j = sum of u_x x^j y_x over the x that
are there (u_x: 1 / product of x - z over the other z), are 0 for true shares and otherwise a sum over the false
ones only. A polynomial that is 0 at all false x makes every window of the syndromes cancel:
sum_l c_l s_(j+l) = 0. With n shares, threshold k and r independent columns of syndromes, each polynomial of degree
at most e = floor((n-k-1+r)/2) that does so for the n-k-e windows is 0 at all the false x, if they are at most e
(Peterson 1960; for several columns Roth and Vontobel, "Coding for combined block-symbol error correction", IEEE
Trans. Inf. Theory 60(5), 2014). That is half of n-k, whatever the false shares are, and up to n-k-1 if those who made
them did not conspire.

The answer is a guess: more may be false, and a fold can hide a false share (with chance at most 1/255 for each
halving, for who does not know all shares before making the false ones). Who asks checks what it gives in full, so a
wrong guess costs work and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from random import Random

from qkdrelay.sharing import gf256, shamir
from qkdrelay.sharing.work import CALL, Steps

WIDTH = 16
"""Columns that are left after folding, at most: false shares that do not conspire are told apart by them."""


def false_among(shares: Mapping[int, bytes], threshold: int, salt: int) -> Steps[frozenset[int] | None]:
    """Return the x of which all the false ``shares`` (x -> y) seem to be, or None if too many are false to tell.

    There are at least ``threshold`` + 2 shares, equally long. Another ``salt`` folds them in another way.
    """
    xs = tuple(sorted(shares))
    checks = len(xs) - threshold
    factors = yield from _factors(shares, salt)
    syndromes = [0] * WIDTH
    for x, spread in zip(xs, shamir.spreads(xs), strict=True):
        column = gf256.scale(gf256.EXP[-spread % 255], _powers(x)[:checks])
        for place, y in enumerate(_folded(shares[x], factors)):
            syndromes[place] ^= int.from_bytes(gf256.scale(y, column))
        yield 2 * len(shares[x]) + CALL * len(factors) + WIDTH * (CALL + checks)
    basis = [row for row in _reduced([s.to_bytes(checks) for s in syndromes], checks) if any(row)]
    yield WIDTH * len(basis) * (CALL + checks)
    if not basis:
        return frozenset()
    locator = yield from _locator(basis, checks)
    if locator is None:
        return None
    yield CALL * len(xs) * len(locator) // 4
    return frozenset(x for x in xs if not _evaluated(locator, x))


def _factors(shares: Mapping[int, bytes], salt: int) -> Steps[list[int]]:
    """Return a factor for each halving: the same for the same shares, and not to be known before all are."""
    seed = blake2b(salt=salt.to_bytes(blake2b.SALT_SIZE))
    for x in sorted(shares):
        seed.update(shares[x])
        size = len(shares[x])
        yield 2 * size
    order = Random(seed.digest())  # noqa: S311 - spreads what is hashed
    return [order.randrange(1, 256) for _ in range(max(0, (-(-size // WIDTH) - 1).bit_length()))]


def _folded(share: bytes, factors: Iterable[int]) -> bytes:
    """Return a share of at most `WIDTH` bytes: each factor adds to its first half so many times its second."""
    for factor in factors:
        half = -(-len(share) // 2)
        share = _plus(share[:half], gf256.scale(factor, share[half:]))
    return share


def _locator(syndromes: Sequence[bytes], checks: int) -> Steps[bytes | None]:
    """Return the coefficients, lowest first, of a polynomial that makes all windows of the syndromes cancel."""
    degree = (checks - 1 + len(syndromes)) // 2
    windows = checks - degree
    width = windows * len(syndromes)
    # What was added to a row to reduce it is kept behind it: of a row that has become 0 those are the coefficients.
    rows = (
        b"".join(s[start : start + windows] for s in syndromes) + bytes(start == i for i in range(degree + 1))
        for start in range(degree + 1)
    )
    for before, row in enumerate(_reduced(rows, width)):
        yield (before + 1) * (CALL + len(row))
        if not any(row[:width]):
            return row[width:]
    return None


def _reduced(rows: Iterable[bytes], width: int) -> Iterator[bytes]:
    """Yield each row minus what makes its first ``width`` bytes 0 wherever a row before has its first that is not."""
    basis: list[tuple[int, bytes]] = []
    for row in rows:
        for pivot, other in basis:
            if row[pivot]:
                row = _plus(row, gf256.scale(row[pivot], other))  # noqa: PLW2901 - step by step
        pivot = width - len(row[:width].lstrip(b"\0"))
        if pivot < width:
            basis.append((pivot, gf256.scale(gf256.inverse(row[pivot]), row)))
        yield row


def _evaluated(coefficients: bytes, x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = gf256.multiply(value, x) ^ coefficient
    return value


def _plus(a: bytes, b: bytes) -> bytes:
    """Return the sum, as long as ``a``, which is not the shorter one; the ends are added to each other."""
    return (int.from_bytes(a) ^ int.from_bytes(b)).to_bytes(len(a))


@lru_cache(maxsize=256)
def _powers(x: int) -> bytes:
    """Return x^0, x^1, ... x^254."""
    return bytes(gf256.power(x, exponent) for exponent in range(255))
