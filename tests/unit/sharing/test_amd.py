import os

import pytest

from qkdrelay.errors import AmdError, SharingError
from qkdrelay.sharing import amd, shamir
from support import sharing_slow as slow

MESSAGE = bytes(range(17))


def changed(codeword, place, value=1):
    return codeword[:place] + bytes([codeword[place] ^ value]) + codeword[place + 1 :]


def add(codeword, size, delta_r, delta_f):
    """Add ``delta_r`` to the code word's random point and ``delta_f`` to its tag."""
    return slow.xor(codeword, bytes(size) + delta_r.to_bytes(16) + delta_f.to_bytes(16))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 33, 96, 20_000])
def test_a_message_comes_back_whatever_its_length(size):
    message = os.urandom(size)
    codeword = amd.encode(message, os.urandom)
    assert len(codeword) == size + amd.OVERHEAD
    assert amd.decode(codeword) == message


def test_a_change_of_any_bit_is_seen():
    codeword = amd.encode(MESSAGE, os.urandom)
    for place in range(len(codeword)):
        for bit in range(8):
            with pytest.raises(AmdError):
                amd.decode(changed(codeword, place, 1 << bit))


@pytest.mark.parametrize("size", range(amd.OVERHEAD))
def test_what_is_too_short_for_a_code_word_is_none(size):
    with pytest.raises(AmdError):
        amd.decode(bytes(size))


def test_zeros_at_the_end_of_the_message_are_part_of_it():
    message, point_and_tag = b"m", amd.encode(b"m", os.urandom)[-amd.OVERHEAD :]
    with pytest.raises(AmdError):
        amd.decode(message + b"\x00" + point_and_tag)


def test_a_code_word_cannot_be_cut_to_another():
    codeword = amd.encode(bytes(64), os.urandom)
    for cut in range(1, len(codeword)):
        with pytest.raises(AmdError):
            amd.decode(codeword[cut:])


def test_without_the_extra_zero_block_a_known_message_could_be_attacked():
    # d = 2: f = r^4 + b1 r + b2 r^2, so adding e to r adds e^4 + b1 e + b2 e^2 to f, whatever r is.
    message, e = os.urandom(16), 0xE
    b1, b2 = int.from_bytes(message), 16
    square = slow.mul128(e, e)
    delta = slow.mul128(square, square) ^ slow.mul128(b1, e) ^ slow.mul128(b2, square)

    r = os.urandom(16)
    broken = slow.amd_codeword(message, r, zero_block=False)
    moved = (int.from_bytes(r) ^ e).to_bytes(16)
    assert add(broken, 16, e, delta) == slow.amd_codeword(message, moved, zero_block=False)

    with pytest.raises(AmdError):
        amd.decode(add(amd.encode(message, os.urandom), 16, e, delta))


def test_a_change_to_one_share_of_too_few_is_seen_after_combining():
    codeword = amd.encode(MESSAGE, os.urandom)
    shares = dict(enumerate(shamir.split(codeword, 3, 3, os.urandom), start=1))
    for place in range(len(codeword)):
        with pytest.raises(AmdError):
            amd.decode(shamir.combine({**shares, 2: changed(shares[2], place)}))


def test_randomness_of_the_wrong_length_is_refused():
    with pytest.raises(SharingError):
        amd.encode(MESSAGE, lambda n: bytes(n - 1))


def test_the_error_shows_nothing_of_the_code_word():
    with pytest.raises(AmdError) as error:
        amd.decode(b"secret" * 10)
    assert "secret" not in repr(error.value)
