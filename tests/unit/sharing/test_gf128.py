import pytest

from qkdrelay.sharing import gf128
from support import sharing_slow as slow

X = (2).to_bytes(16)


def slow_value(blocks, point):
    numbers = [int.from_bytes(blocks[i : i + 16]) for i in range(0, len(blocks), 16)]
    return slow.evaluate128(numbers, int.from_bytes(point)).to_bytes(16)


def test_the_modulus_is_the_one_of_the_protocol():
    x_to_the_127 = (1 << 127).to_bytes(16)
    assert gf128.evaluate(x_to_the_127, X) == (0b10000111).to_bytes(16)


def test_the_largest_product_is_reduced_fully():
    ones = b"\xff" * 16
    assert gf128.evaluate(ones, ones) == slow.mul128((1 << 128) - 1, (1 << 128) - 1).to_bytes(16)


@pytest.mark.parametrize("count", [1, 2, 3, 17, 18, 100])
def test_a_polynomial_has_the_value_of_its_definition(count):
    blocks = b"".join(slow.stream(("blocks", str(i)))(16) for i in range(count))
    point = slow.stream(("point",))(16)
    assert gf128.evaluate(blocks, point) == slow_value(blocks, point)


def test_the_empty_sum_is_zero():
    assert gf128.evaluate(b"", X) == bytes(16)
