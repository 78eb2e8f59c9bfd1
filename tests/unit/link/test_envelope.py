"""Sealed messages open at the other end as they were, or not at all."""

from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdrelay.errors import ForgedMessageError, MalformedMessageError
from qkdrelay.link.envelope import seal, unseal
from qkdrelay.link.simulated import SimulatedLinkKey
from qkdrelay.messages import codec
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.network.key_cost import key_needed, pad_needed
from support import wire_slow as slow

SUITES = ("otp", "aes-256-gcm")
HEADER = codec.decode(slow.message(slow.HEADER), ShareHeader)
BODY = b"a share of 40 bytes, neither more or less"


def key(secret=bytes(32), sender="kme-1", receiver="kme-2"):
    return SimulatedLinkKey(secret, sender, receiver, rate_bps=1, buffer_bytes=0, clock=lambda: 0.0)


def opened(suite, message, link_key=None):
    """Open as a receiver does: the header is decoded from the very bytes under the tag."""
    header = codec.decode(message.header, ShareHeader)
    return unseal(suite, header, message, link_key or key())


def sealed(suite, header=HEADER, body=BODY):
    return codec.decode(seal(suite, header, body, key()), SealedMessage)


def flips(data):
    for place in range(len(data)):
        for bit in range(8):
            yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


@pytest.mark.parametrize("suite", SUITES)
@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=3000), st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_sealed_body_comes_back(suite, body, number, offset):
    header = msgspec.structs.replace(HEADER, number=number, pad_offset=offset)
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
    longer = message.header.replace(b"\xcd\x01\x2c", b"\xce\x00\x00\x01\x2c")  # number 300, not in its shortest form
    assert longer != message.header
    with pytest.raises(ForgedMessageError):
        unseal(suite, HEADER, msgspec.structs.replace(message, header=longer), key())


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    "changed",
    [
        {"link": ("kme-2", "kme-1")},
        {"epoch": bytes(16)},
        {"number": 301},
        {"pad_offset": 70_001},
        {"relay_id": UUID(int=5)},
        {"route": ("kme-3", "kme-2")},
        {"plan": b"other"},
        {"deadline": 1700000031.0},
    ],
    ids=lambda changed: next(iter(changed)),
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
        unseal(suite, HEADER, moved, key())


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + b"\x00", lambda c: b"", lambda c: c[::-1]])
def test_a_ciphertext_of_another_length_or_order_is_refused(suite, change):
    message = sealed(suite)
    with pytest.raises(ForgedMessageError):
        opened(suite, msgspec.structs.replace(message, ciphertext=change(message.ciphertext)))


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("other", [key(b"\x01" * 32), key(sender="kme-2", receiver="kme-1"), key(receiver="kme-3")])
def test_it_opens_with_the_key_of_its_link_and_direction_only(suite, other):
    with pytest.raises(ForgedMessageError):
        opened(suite, sealed(suite), other)


def test_a_message_of_one_suite_does_not_open_under_the_other():
    for suite, other in (SUITES, SUITES[::-1]):
        with pytest.raises(ForgedMessageError):
            opened(other, sealed(suite))


def test_nothing_is_decrypted_under_a_wrong_tag():
    drawn = []

    class Key:
        def slot(self, epoch, number):
            return key().slot(epoch, number)

        def pad(self, epoch, offset, length):
            drawn.append(offset)
            return bytes(length)

    message = sealed("otp")
    with pytest.raises(ForgedMessageError):
        opened("otp", msgspec.structs.replace(message, tag=bytes(16)), Key())
    assert drawn == []
    opened("otp", message, Key())
    assert drawn == [HEADER.pad_offset]


def test_the_ciphertext_of_otp_is_the_body_under_the_pad_and_nothing_else():
    message = sealed("otp")
    pad = key().pad(HEADER.epoch, HEADER.pad_offset, len(BODY))
    assert slow.xor(message.ciphertext, pad) == BODY


@pytest.mark.parametrize("suite", SUITES)
def test_a_refusal_says_nothing_of_the_body(suite):
    with pytest.raises(ForgedMessageError) as error:
        opened(suite, msgspec.structs.replace(sealed(suite), tag=bytes(16)))
    assert str(error.value) == "the seal does not verify"
    assert error.value.__cause__ is None


def test_otp_draws_a_slot_and_as_much_pad_as_body_and_gcm_a_slot():
    assert (key_needed("otp", 128), pad_needed("otp", 128)) == (160, 128)
    assert (key_needed("aes-256-gcm", 128), pad_needed("aes-256-gcm", 128)) == (32, 0)
