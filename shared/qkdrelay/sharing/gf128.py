"""GF(2^128) with x^128 + x^7 + x^2 + x + 1: the field the AMD code works in.

A block is 16 bytes, read as a big-endian integer whose bit i (of value 2^i) is the coefficient of x^i: the
last byte holds x^0 to x^7, and the block 00..0002 is x. Addition is XOR.

A polynomial is evaluated by Horner's rule on *spread* elements, where each coefficient has a byte of its own,
so that Python's integer product is the product of polynomials (a sum of at most 128 ones stays below 256,
nothing carries over). About 1.1 us a block: ``amd`` needs few.
"""

from __future__ import annotations

BLOCK = 16
"""Bytes in a block."""

_ONES = int.from_bytes(b"\x01" * 2 * 128)
_LOW = (1 << 8 * 128) - 1
_REDUCED = 1 | 1 << 8 | 1 << 16 | 1 << 56
"""The element x^128, spread: 1 + x + x^2 + x^7."""
_TO_DIGITS = bytes(48 + (byte & 1) for byte in range(256))
_FROM_DIGITS = bytes(byte & 1 for byte in range(256))


def evaluate(blocks: bytes, point: bytes) -> bytes:
    """Return the sum over i = 1..d of block_i * point^i, for the d blocks of 16 bytes in ``blocks``."""
    r = _spread(int.from_bytes(point))
    spread = f"{int.from_bytes(blocks):0{8 * len(blocks)}b}".encode().translate(_FROM_DIGITS)
    value = 0
    for start in range(len(spread) - 8 * BLOCK, -1, -8 * BLOCK):
        value = _times(value ^ int.from_bytes(spread[start : start + 8 * BLOCK]), r)
    return _gather(value).to_bytes(BLOCK)


def _spread(element: int) -> int:
    """Return the element with each of its 128 bits in a byte of its own."""
    return int.from_bytes(f"{element:0128b}".encode()) & _ONES


def _gather(spread: int) -> int:
    return int(spread.to_bytes(128).translate(_TO_DIGITS), 2)


def _times(a: int, b: int) -> int:
    """Return the product of two spread elements, spread and reduced."""
    product = a * b & _ONES
    # The first pass can leave up to x^133, the second leaves less than x^128.
    product = (product & _LOW) ^ ((product >> 8 * 128) * _REDUCED & _ONES)
    return (product & _LOW) ^ ((product >> 8 * 128) * _REDUCED & _ONES)
