"""GF(2^8) with x^8 + x^4 + x^3 + x + 1: the field Shamir's sharing works in, byte by byte.

Addition is XOR. A byte string times a constant is one ``bytes.translate``, which is what makes
the sharing run at hundreds of MB/s in plain Python.
"""

from __future__ import annotations

_MODULUS = 0x11B


def _powers() -> list[int]:
    """Return the powers 0 to 254 of 3, a generator: every element but zero, once."""
    powers, element = [], 1
    for _ in range(255):
        powers.append(element)
        element ^= element << 1
        if element & 0x100:
            element ^= _MODULUS
    return powers


EXP = tuple(_powers())
"""The powers of the generator, 0 to 254."""
LOG = tuple(EXP.index(element) if element else 0 for element in range(256))
"""The power of the generator that each element is; 0, which is none, has 0 here."""


def multiply(a: int, b: int) -> int:
    """Return the product of two field elements, each 0 to 255."""
    if a == 0 or b == 0:
        return 0
    return EXP[(LOG[a] + LOG[b]) % 255]


def inverse(a: int) -> int:
    """Return the element that times ``a`` is 1; ZeroDivisionError for 0, which has none."""
    if a == 0:
        raise ZeroDivisionError("zero has no inverse in GF(2^8)")
    return EXP[-LOG[a] % 255]


def power(a: int, exponent: int) -> int:
    """Return ``a`` to a non-negative power; anything to the power 0 is 1."""
    if exponent == 0:
        return 1
    return 0 if a == 0 else EXP[LOG[a] * exponent % 255]


TIMES = tuple(bytes(multiply(constant, byte) for byte in range(256)) for constant in range(256))
"""For each constant what ``bytes.translate`` needs to multiply by it."""


def scale(constant: int, data: bytes) -> bytes:
    """Return ``data`` with every byte multiplied by ``constant``."""
    return data.translate(TIMES[constant])
