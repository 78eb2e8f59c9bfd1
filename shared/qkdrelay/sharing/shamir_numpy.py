"""Shamir's sharing of long secrets: the sums of `shamir` on thousands of bytes at once, with numpy.

Apart from `shamir`, so that who shares short secrets only need not load numpy. A sum grows in the memory of
the byte string that is returned, block by block, so that what it is made of stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qkdrelay.sharing import gf256

BLOCK = 1 << 16
"""Bytes that are worked on at once. Measured from 2 KiB to 1 MiB: less costs more calls, more leaves the cache."""

_Bytes: TypeAlias = NDArray[np.uint8]

_SIGN = np.int8(7)
_REDUCED = np.int8(0x1B)
"""The element x^8."""


def values(secret: bytes, coefficients: bytes, n: int) -> list[bytes]:
    """Return the values at 1 to ``n`` of the polynomial with ``secret`` at 0 and these coefficients of x, x^2, ..."""
    shares = [BytesIO(secret) for _ in range(n)]
    sums = [_writable(share) for share in shares]
    rows = np.frombuffer(coefficients, dtype=np.uint8).reshape(-1, len(secret))
    for block in _blocks(len(secret)):
        here = [each[block] for each in sums]
        for row, places in zip(rows, _places(n, len(rows)), strict=True):
            _add_multiples(here, row[block].copy(), places)
    del sums, here  # or each value would be copied
    return [share.getvalue() for share in shares]


def weighted(weights: Sequence[int], shares: Sequence[bytes]) -> bytes:
    """Return the sum of weight times share; the weights sum to 1.

    So it is the first share, plus each other's weight times the difference of the two.
    """
    result = BytesIO(shares[0])
    total = _writable(result)
    first, *others = (np.frombuffer(share, dtype=np.uint8) for share in shares)
    for block in _blocks(len(first)):
        for weight, other in zip(weights[1:], others, strict=True):
            difference = (first[block] ^ other[block]).tobytes()
            total[block] ^= np.frombuffer(gf256.scale(weight, difference), dtype=np.uint8)
    del total
    return result.getvalue()


def _writable(buffer: BytesIO) -> _Bytes:
    return np.frombuffer(buffer.getbuffer(), dtype=np.uint8)


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, size, BLOCK))


def _add_multiples(sums: Sequence[_Bytes], multiple: _Bytes, places: Sequence[Sequence[int]]) -> None:
    """Add ``multiple`` to the sums at ``places[0]``, its double to those at ``places[1]``, and so on. Overwrites it."""
    carry = np.empty_like(multiple, dtype=np.int8)
    for bit, chosen in enumerate(places):
        if bit:
            np.right_shift(multiple.view(np.int8), _SIGN, out=carry)  # all ones where x^7 becomes x^8
            carry &= _REDUCED
            multiple += multiple
            multiple ^= carry.view(np.uint8)
        for place in chosen:
            sums[place] ^= multiple


@lru_cache(maxsize=64)
def _places(n: int, degree: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return, for x^1 to x^degree and for each bit, which x have it, counted from 0 for x = 1."""
    powers = ([gf256.power(x, exponent) for x in range(1, n + 1)] for exponent in range(1, degree + 1))
    return tuple(
        tuple(tuple(i for i, power in enumerate(each) if power >> bit & 1) for bit in range(max(each).bit_length()))
        for each in powers
    )
