"""The simulated QKD link: one key at both ends, nothing twice, a rate and a buffer."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdrelay.errors import SettingsError
from qkdrelay.link.simulated import SimulatedLinkKey
from support import wire_slow as slow
from support.clock import Clock

SECRET, EPOCH = bytes(range(32)), bytes(16)


def link_key(secret=SECRET, sender="kme-1", receiver="kme-2", *, rate_bps=8, buffer_bytes=0, clock=lambda: 0.0):
    return SimulatedLinkKey(secret, sender, receiver, rate_bps=rate_bps, buffer_bytes=buffer_bytes, clock=clock)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5000), st.integers(0, 3000))
def test_the_pad_is_one_stream_whatever_the_pieces(offset, length):
    key = link_key()
    assert key.pad(EPOCH, offset, length) == key.pad(EPOCH, 0, 8000)[offset : offset + length]


@pytest.mark.parametrize("offset", [0, 1, 1023, 1024, 1025, 2**20, 2**62])
@pytest.mark.parametrize("length", [0, 1, 1024, 1025])
def test_the_pad_has_the_length_that_was_asked_for_wherever_it_begins(offset, length):
    assert len(link_key().pad(EPOCH, offset, length)) == length


def test_both_streams_are_what_the_protocol_says():
    key = link_key()
    for number in (0, 7, 31, 32, 2**62):
        assert key.slot(EPOCH, number) == slow.slot(SECRET, "kme-1", "kme-2", EPOCH, number)
    for offset, length in ((0, 0), (1000, 50), (1016, 8), (2049, 1100), (2**62, 40)):
        assert key.pad(EPOCH, offset, length) == slow.pad(SECRET, "kme-1", "kme-2", EPOCH, offset, length)


def test_no_secret_direction_epoch_stream_or_number_has_key_of_another():
    """16 bytes at any place of one stream are nowhere else."""
    seen = {}
    ends = ("kme-1", "kme-2"), ("kme-2", "kme-1"), ("kme-1", "kme-22"), ("kme-12", "kme-2")
    epochs = bytes(16), bytes(15) + b"\x01"
    for secret, (sender, receiver), epoch in itertools.product((SECRET, bytes(32)), ends, epochs):
        key = link_key(secret, sender, receiver)
        where = (secret, sender, receiver, epoch)
        streams = {("slot", n): key.slot(epoch, n) for n in (0, 1, 2, 255, 256, 257, 1024, 2**32, 2**62)}
        streams["pad"] = key.pad(epoch, 0, 3072)
        for name, data in streams.items():
            for at in range(len(data) - 15):
                assert seen.setdefault(data[at : at + 16], (where, name, at)) == (where, name, at)


def test_key_appears_at_its_rate_up_to_the_buffer():
    clock = Clock()
    key = link_key(rate_bps=800, buffer_bytes=1000, clock=clock)
    assert key.available() == 1000
    key.draw(900)
    assert key.available() == 100
    clock.forward(2.0)
    assert key.available() == 300
    clock.forward(0.005)
    assert key.available() == 300
    clock.forward(0.005)
    assert key.available() == 301
    clock.forward(1e9)
    assert key.available() == 1000


def test_what_is_taken_does_not_change_the_key():
    key, other = link_key(buffer_bytes=1000), link_key(buffer_bytes=1000)
    key.draw(500)
    assert key.slot(EPOCH, 3) == other.slot(EPOCH, 3)
    assert key.pad(EPOCH, 0, 64) == other.pad(EPOCH, 0, 64)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_of_another_length_is_refused_by_link_and_not_shown(length):
    with pytest.raises(SettingsError, match="kme-1-kme-2") as error:
        link_key(b"\xaa" * length)
    assert "aa" not in str(error.value)


def test_its_repr_shows_nothing_of_the_secret():
    assert SECRET.hex() not in repr(link_key())
    assert repr(SECRET) not in repr(vars(link_key()))
