import os

import pytest

from qkdrelay.errors import AmdError, SharingError
from qkdrelay.sharing import amd, shamir
from support import sharing_slow as slow
from support.wire_slow import poly1305

MESSAGE = bytes(range(17))


def changed(codeword, place, value=1):
    return codeword[:place] + bytes([codeword[place] ^ value]) + codeword[place + 1 :]


def add(codeword, size, delta_r, delta_f):
    """Add ``delta_r`` to the code word's random point and ``delta_f`` to its tag."""
    return slow.xor(codeword, bytes(size) + delta_r.to_bytes(16) + delta_f.to_bytes(16))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 33, 96, 256, 257, 272, 273, 20_000])
def test_a_message_comes_back_whatever_its_length(size):
    message = os.urandom(size)
    codeword = amd.encode(message, os.urandom)
    assert len(codeword) == size + (32 if size <= 256 else 48) == amd.encoded_length(size)
    assert amd.decode(codeword) == message


@pytest.mark.parametrize("message", [MESSAGE, 20 * MESSAGE], ids=["short", "hashed"])
def test_a_change_of_any_bit_is_seen(message):
    codeword = amd.encode(message, os.urandom)
    for place in range(len(codeword)):
        for bit in range(8):
            with pytest.raises(AmdError):
                amd.decode(changed(codeword, place, 1 << bit))


def test_a_change_is_seen_wherever_it_is_in_a_long_message():
    size = 1 << 19
    codeword = amd.encode(os.urandom(size), os.urandom)
    for place in (0, 20_000, 65_535, 65_536, 400_000, size - 1):
        with pytest.raises(AmdError):
            amd.decode(changed(codeword, place))


@pytest.mark.parametrize("size", [10, 300])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_source_that_gives_another_number_of_bytes_is_refused(size, more):
    with pytest.raises(SharingError, match="the source of randomness gave"):
        amd.encode(bytes(size), lambda asked: bytes(asked + more))


@pytest.mark.parametrize("size", [*range(32), *range(289, 305)])
def test_what_has_no_code_words_length_is_none(size):
    with pytest.raises(AmdError, match=f"no code word has {size} bytes"):
        amd.decode(bytes(size))


def test_lengths_grow_with_each_encoding():
    assert amd.encoded_length(200, times=0) == 200
    assert amd.encoded_length(200, times=3) == 200 + 32 + 32 + 48


def test_zeros_at_the_end_of_the_message_are_part_of_it():
    for message in (b"m", bytes(300)):
        drawn_and_tag = amd.encode(message, os.urandom)[len(message) :]
        with pytest.raises(AmdError):
            amd.decode(message + b"\x00" + drawn_and_tag)


@pytest.mark.parametrize("size", [64, 400])
def test_a_code_word_cannot_be_cut_to_another(size):
    codeword = amd.encode(bytes(size), os.urandom)
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


def test_the_hashs_key_itself_is_covered_where_the_hash_ignores_it():
    # Poly1305 clears 22 bits of r: a change there leaves the hash of every message as it is.
    message = os.urandom(300)
    codeword = amd.encode(message, os.urandom)
    r = codeword[300:316]
    moved = slow.xor(r, b"\x00\x00\x00\xf0" + bytes(12))
    assert poly1305(r + bytes(16), message) == poly1305(moved + bytes(16), message)
    with pytest.raises(AmdError):
        amd.decode(message + moved + codeword[316:])


def test_one_who_knows_the_hashs_key_could_alter_the_message_so_it_must_stay_hidden_as_the_message_is():
    # Blocks c1, c2 give c1 r^2 + c2 r: adding 1 to the first and taking r from the second leaves the sum.
    r = (2).to_bytes(16, "little")
    message = (5).to_bytes(16, "little") + (9).to_bytes(16, "little") + bytes(300)
    altered = (6).to_bytes(16, "little") + (7).to_bytes(16, "little") + bytes(300)
    codeword = amd.encode(message, lambda n: r + os.urandom(n - 16))
    assert amd.decode(altered + codeword[len(message) :]) == altered

    codeword = amd.encode(message, os.urandom)
    with pytest.raises(AmdError):
        amd.decode(altered + codeword[len(message) :])


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
