"""Polynomials over GF(2^128) with many blocks, shortened: many blocks times one constant at once, with numpy.

Apart from `gf128`, so that who shares short secrets only need not load numpy.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16
_WORDS = 2
_PRODUCT = np.dtype((np.void, _BLOCK))
_MODULUS = 1 << 128 | 0x87

Table: TypeAlias = NDArray[np.void]
"""4,096 products, each 16 bytes: at 256 i + v what a block is times the constant if its byte i is v, all others 0."""

# Where in a table the products of each byte of a block begin.
_PLACES = np.arange(_BLOCK, dtype=np.intp)[:, np.newaxis] * 256


def fold(blocks: bytes, constant: int, length: int) -> bytes:
    """Return ``length`` blocks: Horner's rule on rows of so many, row = row * constant + the row before it.

    ``constant`` is the element r^length as an integer: then what is left has the same value at r. Of a row, the
    products of all first bytes are looked up, then those of all second bytes: so they lie side by side to be added.
    """
    table = _table(constant)
    words = np.frombuffer(blocks, dtype=np.uint64)
    *before, last = range(0, len(words), _WORDS * length)
    row = np.zeros(_WORDS * length, dtype=np.uint64)
    row[: len(words) - last] = words[last:]
    transposed = row.view(np.uint8).reshape(length, _BLOCK).T
    index = np.empty((_BLOCK, length), dtype=np.intp)
    products = np.empty((_BLOCK, length), dtype=_PRODUCT)
    summands = products.view(np.uint64)
    for start in reversed(before):
        np.add(transposed, _PLACES, out=index)
        table.take(index, out=products, mode="wrap")  # no index is too large; the default would copy
        np.bitwise_xor.reduce(summands, axis=0, out=row)
        row ^= words[start : start + len(row)]
    return row.tobytes()


def _table(constant: int) -> Table:
    shifted = []
    for _ in range(8 * _BLOCK):
        shifted.append(constant.to_bytes(_BLOCK))
        constant <<= 1
        if constant >> 128:
            constant ^= _MODULUS
    # The block's last byte holds the lowest powers.
    bits = np.frombuffer(b"".join(shifted), dtype=_PRODUCT).reshape(_BLOCK, 8)[::-1].T.copy().view(np.uint64)
    products = np.empty((256, _WORDS * _BLOCK), dtype=np.uint64)
    products[0] = 0
    for bit in range(8):
        np.bitwise_xor(products[: 1 << bit], bits[bit], out=products[1 << bit : 2 << bit])
    return products.view(_PRODUCT).T.reshape(-1)
