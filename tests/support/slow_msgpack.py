"""MessagePack once more: the part of it the protocol uses, from the specification, one case after another."""

import struct


def packed(value):
    """The shortest encoding of nil, booleans, integers, floats, texts, byte strings, lists and maps."""
    match value:
        case None:
            return b"\xc0"
        case False:
            return b"\xc2"
        case True:
            return b"\xc3"
        case int():
            return _integer(value)
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case str():
            data = value.encode()
            return _length(len(data), (0xA0, 32), (0xD9, 0xDA, 0xDB)) + data
        case bytes():
            return _length(len(value), None, (0xC4, 0xC5, 0xC6)) + value
        case list() | tuple():
            return _length(len(value), (0x90, 16), (None, 0xDC, 0xDD)) + b"".join(packed(item) for item in value)
        case dict():
            items = b"".join(packed(key) + packed(item) for key, item in value.items())
            return _length(len(value), (0x80, 16), (None, 0xDE, 0xDF)) + items
    raise TypeError(type(value))


def _integer(value):
    if 0 <= value < 128:
        return bytes([value])
    if -32 <= value < 0:
        return bytes([256 + value])
    if value >= 0:
        for mark, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
            if value < 1 << 8 * size:
                return bytes([mark]) + value.to_bytes(size, "big")
    for mark, size in ((0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8)):
        if value >= -(1 << 8 * size - 1):
            return bytes([mark]) + value.to_bytes(size, "big", signed=True)
    raise OverflowError(value)


def _length(count, fixed, marks):
    """The mark and length of what follows; ``fixed`` is (mark, limit) of the form with the length in the mark."""
    if fixed is not None and count < fixed[1]:
        return bytes([fixed[0] + count])
    for mark, size in zip(marks, (1, 2, 4), strict=True):
        if mark is not None and count < 1 << 8 * size:
            return bytes([mark]) + count.to_bytes(size, "big")
    raise OverflowError(count)
