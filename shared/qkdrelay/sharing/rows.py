"""Polynomials over GF(2^128) with many blocks, shortened: many blocks times one constant at once, with numpy.

Apart from `gf128`, so that who shares short secrets only need not load numpy.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16
_MODULUS = 1 << 128 | 0x87

Table: TypeAlias = NDArray[np.uint64]
"""4,096 products, each 16 bytes: at 256 i + v what a block is times the constant if its byte i is v, all others 0."""

# Where in a table the products of each byte of a block begin.
_PLACES = np.arange(_BLOCK, dtype=np.intp) * 256


def fold(blocks: bytes, constant: int, length: int) -> bytes:
    """Return ``length`` blocks: Horner's rule on rows of so many, row = row * constant + the row before it.

    ``constant`` is the element r^length as an integer: then what is left has the same value at r.
    """
    table = _table(constant)
    blocks += bytes(-len(blocks) % (length * _BLOCK))
    rows = np.frombuffer(blocks, dtype=np.uint8).reshape(-1, length, _BLOCK)
    row = rows[-1]
    for before in rows[-2::-1]:
        products = np.take(table, row + _PLACES, axis=0)
        row = np.bitwise_xor.reduce(products, axis=1).view(np.uint8) ^ before
    return bytes(row.tobytes())


def _table(constant: int) -> Table:
    shifted = []
    for _ in range(8 * _BLOCK):
        shifted.append(constant.to_bytes(_BLOCK))
        constant <<= 1
        if constant >> 128:
            constant ^= _MODULUS
    # The block's last byte holds the lowest powers.
    bits = np.frombuffer(b"".join(shifted), dtype=np.uint64).reshape(_BLOCK, 8, 2)[::-1]
    table = np.zeros((_BLOCK, 256, 2), dtype=np.uint64)
    for bit in range(8):
        table[:, 1 << bit : 2 << bit] = table[:, : 1 << bit] ^ bits[:, bit : bit + 1]
    return table.reshape(-1, 2)
