"""GF(2^128) with x^128 + x^7 + x^2 + x + 1: the field the AMD code works in.

A block is 16 bytes, read as a big-endian integer whose bit i (of value 2^i) is the coefficient of x^i: the
last byte holds x^0 to x^7, and the block 00..0002 is x. Addition is XOR.

Two ways to evaluate a polynomial, chosen by its length. Short: Horner's rule on *spread* elements, where
each coefficient has a byte of its own, so that Python's integer product is the product of polynomials (a
sum of at most 128 ones stays below 256, nothing carries over). Long: Horner's rule on rows of many blocks
at once, where a row times a constant is done byte column by byte column with ``bytes.translate``.
"""

from __future__ import annotations

BLOCK = 16
"""Bytes in a block."""

_ROW = 256
"""Blocks in a row of the long way, a power of two. Measured: hardly matters from 128 to 1024."""
_LONG = 1024
"""Blocks from which the long way is the faster one. Measured: at 1,000 both take 2 ms."""

_ONES = int.from_bytes(b"\x01" * 2 * 128)
_LOW = (1 << 8 * 128) - 1
_REDUCED = 1 | 1 << 8 | 1 << 16 | 1 << 56
"""What x^128 is in the field, spread: 1 + x + x^2 + x^7."""
_TO_DIGITS = bytes(48 + (byte & 1) for byte in range(256))


def evaluate(blocks: bytes, point: bytes) -> bytes:
    """Return the sum over i = 1..d of block_i * point^i, for the d blocks of 16 bytes in ``blocks``."""
    r = _spread(int.from_bytes(point))
    if len(blocks) >= _LONG * BLOCK:
        blocks = _fold(blocks, r)
    value = 0
    for start in range(len(blocks) - BLOCK, -1, -BLOCK):
        value = _times(value ^ _spread(int.from_bytes(blocks[start : start + BLOCK])), r)
    return _gather(value).to_bytes(BLOCK)


def multiply(a: bytes, b: bytes) -> bytes:
    """Return the product of two blocks."""
    return evaluate(a, b)


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


def _fold(blocks: bytes, r: int) -> bytes:
    """Return one row of blocks with the same value at ``r`` (spread) as all of ``blocks``.

    Horner's rule from the last row to the first: row = row * r^_ROW + the row before it.
    """
    constant = r
    for _ in range(_ROW.bit_length() - 1):
        constant = _times(constant, constant)
    tables = _tables(constant)
    size = _ROW * BLOCK
    blocks += bytes(-len(blocks) % size)
    row = 0
    for start in range(len(blocks) - size, -1, -size):
        if row:
            row = _times_row(row.to_bytes(size), tables)
        part = blocks[start : start + size]
        row ^= int.from_bytes(b"".join(part[column::BLOCK] for column in range(BLOCK)))
    columns = row.to_bytes(size)
    return b"".join(columns[place::_ROW] for place in range(_ROW))


def _times_row(row: bytes, tables: list[list[bytes]]) -> int:
    """Return a row of blocks, laid out column by column, with each block times the tables' constant."""
    product = 0
    for place, outputs in enumerate(tables):
        column = row[place * _ROW : (place + 1) * _ROW]
        product ^= int.from_bytes(b"".join([column.translate(table) for table in outputs]))
    return product


def _tables(constant: int) -> list[list[bytes]]:
    """Return ``tables[i][o][v]``: byte o of the product when byte i of a block is v and the others are 0."""
    tables = []
    x, shifted = _spread(2), constant
    for _ in range(BLOCK):
        products = [0]
        for _ in range(8):
            element = _gather(shifted)
            products += [product ^ element for product in products]
            shifted = _times(shifted, x)
        columns = b"".join([product.to_bytes(BLOCK) for product in products])
        tables.append([columns[output::BLOCK] for output in range(BLOCK)])
    return tables[::-1]  # the block's last byte holds the lowest powers
