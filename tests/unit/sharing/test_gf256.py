import pytest

from qkdrelay.sharing import gf256
from support import sharing_slow as slow

ELEMENTS = range(256)


def test_every_product_is_that_of_the_polynomials():
    assert all(gf256.multiply(a, b) == slow.mul8(a, b) for a in ELEMENTS for b in ELEMENTS)


def test_every_element_but_zero_has_an_inverse():
    assert all(slow.mul8(a, gf256.inverse(a)) == 1 for a in ELEMENTS if a)


def test_zero_has_no_inverse():
    with pytest.raises(ZeroDivisionError):
        gf256.inverse(0)


def test_a_byte_string_is_scaled_byte_by_byte():
    data = bytes(ELEMENTS)
    assert all(gf256.scale(c, data) == bytes(slow.mul8(c, byte) for byte in data) for c in ELEMENTS)
