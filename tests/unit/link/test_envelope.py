"""Sealed messages open at the other end as they were, or not at all."""

from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdrelay.errors import ForgedMessageError, MalformedMessageError
from qkdrelay.link.envelope import seal, unseal
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Piece, SlotName
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.network.key_cost import key_needed, pad_needed
from support import wire_slow as slow

SUITES = ("otp", "aes-256-gcm")
HEADER = codec.decode(slow.message(slow.HEADER), ShareHeader)
BODY = b"a share of 40 bytes, neither more or less"
SLOT, PAD = slow.pattern("slot", 32), slow.pattern("pad", 3000)


def opened(suite, message, slot=SLOT, pad=PAD):
    """Open as a receiver does: the header is decoded from the very bytes under the tag."""
    codec.decode(message.header, ShareHeader)
    return unseal(suite, message, slot, lambda length: pad[:length])


def sealed(suite, header=HEADER, body=BODY):
    pad = PAD[: pad_needed(suite, len(body))]
    return codec.decode(seal(suite, header, body, SLOT, pad), SealedMessage)


def flips(data):
    for place in range(len(data)):
        for bit in range(8):
            yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


@pytest.mark.parametrize("suite", SUITES)
@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=3000), st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_sealed_body_comes_back(suite, body, index, offset):
    slot, pieces = SlotName(slow.BLOCK, index), (Piece(slow.BLOCK, offset, len(body)),)
    header = msgspec.structs.replace(HEADER, slot=slot, pad=pieces)
    assert opened(suite, sealed(suite, header, body)) == body


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("part", ["ciphertext", "tag"])
def test_any_flipped_bit_of_ciphertext_or_tag_is_refused(suite, part):
    message = sealed(suite)
    for altered in flips(getattr(message, part)):
        with pytest.raises(ForgedMessageError):
            opened(suite, msgspec.structs.replace(message, **{part: altered}))


@pytest.mark.parametrize("suite", SUITES)
def test_any_flipped_bit_of_the_header_is_refused(suite):
    message = sealed(suite)
    for altered in flips(message.header):
        with pytest.raises((ForgedMessageError, MalformedMessageError)):
            opened(suite, msgspec.structs.replace(message, header=altered))


@pytest.mark.parametrize("suite", SUITES)
def test_the_tag_covers_the_bytes_of_the_header_and_not_only_its_meaning(suite):
    message = sealed(suite)
    longer = message.header.replace(b"\xcd\x01\x2c", b"\xce\x00\x00\x01\x2c")  # slot 300, not in its shortest form
    assert longer != message.header
    with pytest.raises(ForgedMessageError):
        unseal(suite, msgspec.structs.replace(message, header=longer), SLOT, PAD.__getitem__)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    "changed",
    [
        {"link": ("kme-2", "kme-1")},
        {"slot": SlotName(slow.NEXT_BLOCK, 300)},
        {"slot": SlotName(slow.BLOCK, 301)},
        {"pad": (Piece(slow.BLOCK, 70_001, 200), HEADER.pad[1])},
        {"pad": (Piece(slow.BLOCK, 70_000, 201), HEADER.pad[1])},
        {"pad": (Piece(slow.NEXT_BLOCK, 70_000, 200), HEADER.pad[1])},
        {"pad": HEADER.pad[:1]},
        {"pad": HEADER.pad[::-1]},
        {"relay_id": UUID(int=5)},
        {"route": ("kme-3", "kme-2")},
        {"plan": b"other"},
        {"deadline": 1700000031.0},
    ],
    ids=str,
)
def test_every_field_of_the_header_is_bound(suite, changed):
    message = sealed(suite)
    other = codec.encode(msgspec.structs.replace(HEADER, **changed))
    with pytest.raises(ForgedMessageError):
        opened(suite, msgspec.structs.replace(message, header=other))


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("place", [1, 5, 16])
def test_header_and_ciphertext_cannot_lend_each_other_bytes(suite, place):
    message = sealed(suite)
    moved = msgspec.structs.replace(
        message, header=message.header + message.ciphertext[:place], ciphertext=message.ciphertext[place:]
    )
    with pytest.raises(ForgedMessageError):
        unseal(suite, moved, SLOT, lambda length: PAD[:length])


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + b"\x00", lambda c: b"", lambda c: c[::-1]])
def test_a_ciphertext_of_another_length_or_order_is_refused(suite, change):
    message = sealed(suite)
    with pytest.raises(ForgedMessageError):
        opened(suite, msgspec.structs.replace(message, ciphertext=change(message.ciphertext)))


@pytest.mark.parametrize("suite", SUITES)
def test_it_opens_under_its_slot_only(suite):
    with pytest.raises(ForgedMessageError):
        opened(suite, sealed(suite), slow.pattern("another slot", 32))


def test_a_message_of_one_suite_does_not_open_under_the_other():
    for suite, other in (SUITES, SUITES[::-1]):
        with pytest.raises(ForgedMessageError):
            opened(other, sealed(suite))


def test_nothing_is_decrypted_and_no_pad_looked_for_under_a_wrong_tag():
    asked = []

    def pad(length):
        asked.append(length)
        return PAD[:length]

    for suite, needed in (("otp", len(BODY)), ("aes-256-gcm", 0)):
        message = sealed(suite)
        with pytest.raises(ForgedMessageError):
            unseal(suite, msgspec.structs.replace(message, tag=bytes(16)), SLOT, pad)
        assert asked == []
        assert unseal(suite, message, SLOT, pad) == BODY
        assert asked.pop() == needed


@pytest.mark.parametrize("suite", SUITES)
def test_pad_that_is_not_to_be_had_refuses_a_message_whose_tag_verifies(suite):
    """Also where the suite takes none: then a header that names some is nobody's."""

    def pad(_length):
        raise ForgedMessageError("its pad was used before")

    with pytest.raises(ForgedMessageError, match="used before"):
        unseal(suite, sealed(suite), SLOT, pad)


def test_the_ciphertext_of_otp_is_the_body_under_the_pad_and_nothing_else():
    assert slow.xor(sealed("otp").ciphertext, PAD[: len(BODY)]) == BODY


@pytest.mark.parametrize("suite", SUITES)
def test_a_refusal_says_nothing_of_the_body(suite):
    with pytest.raises(ForgedMessageError) as error:
        opened(suite, msgspec.structs.replace(sealed(suite), tag=bytes(16)))
    assert str(error.value) == "the seal does not verify"
    assert error.value.__cause__ is None


def test_otp_draws_a_slot_and_as_much_pad_as_body_and_gcm_a_slot():
    assert (key_needed("otp", 128), pad_needed("otp", 128)) == (160, 128)
    assert (key_needed("aes-256-gcm", 128), pad_needed("aes-256-gcm", 128)) == (32, 0)
