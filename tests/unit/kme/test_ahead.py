"""How much link key is granted ahead and asked for: slots and pad end together, and what waits finds its key."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kme.blocks.ahead import (
    AHEAD_IDLE_MAX,
    AHEAD_MAX,
    AHEAD_MIN,
    AHEAD_S,
    OWN_BYTES,
    Granted,
    Needed,
    PadMean,
    ahead_bytes,
    ask_for,
    slots_of,
)
from qkdrelay.messages.blocks import BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, SLOTS_MAX

SLOT = 32
aheads, means = st.integers(BLOCK_BYTES_MIN, AHEAD_MAX), st.floats(0, 60_000)
there = st.builds(Granted, st.integers(0, 5_000), st.integers(0, 2 << 20))


@st.composite
def waiting(draw, longest=200_000):
    """What messages wait for; the next is one of them."""
    sizes = draw(st.lists(st.integers(0, longest), min_size=1, max_size=20))
    return Needed(len(sizes), sum(sizes), sizes[0])


def test_what_is_granted_ahead_is_some_seconds_of_the_rate_within_bounds():
    assert ahead_bytes(80_000, 0.0, 1 << 30) == AHEAD_S * 10_000
    assert ahead_bytes(0, 0.0, 1 << 30) == AHEAD_MIN
    assert ahead_bytes(10**12, 0.0, 1 << 30) == AHEAD_IDLE_MAX
    assert ahead_bytes(10**12, 0.0, 300) == ahead_bytes(0, 1e9, 300) == 300
    assert ahead_bytes(0, 200_000.0, 1 << 30) == AHEAD_S * 200_000
    assert ahead_bytes(0, 1e9, 1 << 30) == AHEAD_MAX


def test_the_mean_is_of_the_last_messages():
    mean = PadMean()
    for _ in range(100):
        mean.note(1_000)
    assert mean.value == pytest.approx(1_000, rel=0.01)
    for _ in range(100):
        mean.note(0)
    assert mean.value == pytest.approx(0, abs=2)
    assert PadMean("aes-256-gcm").value == 0.0


@given(there, means, aheads)
def test_while_nothing_waits_there_is_asked_for_what_is_missing_of_what_is_to_be_ahead(there, mean, ahead):
    ask = ask_for(there, Needed(), mean, ahead)
    messages = there.slots if mean < 1 else min(there.slots, there.pad / mean)
    has = messages * (SLOT + mean)
    if ask is None:
        assert has >= ahead / 2 - 1
    else:
        assert has <= ahead / 2 + 1
        assert ask.length == min(round(ahead - round(has)) + OWN_BYTES, BLOCK_BYTES_MAX)
        assert 0 < ask.least <= ask.length


@given(means, st.integers(AHEAD_MIN, AHEAD_MAX))
def test_while_nothing_waits_no_block_spends_more_than_a_32nd_on_its_own_keys(mean, ahead):
    ask = ask_for(Granted(0, 0), Needed(), mean, ahead)
    assert OWN_BYTES / ask.least <= 1 / 32
    if ahead >= 2 * AHEAD_MIN:  # and where the source can give what is asked for
        assert OWN_BYTES / ask.length < 0.03


@given(there, means, aheads, waiting())
def test_what_waits_is_asked_for_as_soon_as_there_is_enough_for_the_first(there, mean, ahead, needed):
    missing = SLOT * max(0, needed.messages - there.slots) + max(0, needed.pad - there.pad)
    if not missing:
        return
    ask = ask_for(there, needed, mean, ahead)
    assert ask.length >= min(missing + OWN_BYTES, BLOCK_BYTES_MAX)
    assert ask.least <= ask.length
    lack = max(0, needed.first - there.pad)
    assert ask.least <= max(lack + SLOT, 1_024) + OWN_BYTES


@given(there, means, aheads, waiting(), st.integers(0, BLOCK_BYTES_MAX), st.sampled_from(["otp", "aes-256-gcm"]))
def test_whatever_comes_of_what_was_asked_for_the_message_that_is_next_finds_its_key(
    there, mean, ahead, needed, more, suite
):
    if suite == "aes-256-gcm":
        needed, there = Needed(needed.messages, 0, 0), Granted(there.slots, 0)
    if there.pad >= needed.first:  # it lacks a slot, then
        there = Granted(0, there.pad)
    ask = ask_for(there, needed, mean, ahead)
    length = max(BLOCK_BYTES_MIN, min(ask.length, ask.least + more))
    slots = slots_of(length, suite, there, needed, mean)
    pad = length - OWN_BYTES - SLOT * slots
    assert 0 <= slots <= SLOTS_MAX
    assert there.slots + slots >= 1
    assert pad >= 0
    if ask.least < BLOCK_BYTES_MAX:
        assert there.pad + pad >= needed.first


@given(st.integers(1, 100_000), st.integers(BLOCK_BYTES_MIN, 2_000), means)
def test_however_little_comes_at_once_what_waits_finds_its_key_in_the_end(first, at_once, mean):
    """The first block has a slot: were it asked for without, who gives little would give nothing but slots."""
    there, needed, blocks = Granted(0, 0), Needed(1, first, first), 0
    while there.pad < first:
        ask = ask_for(there, needed, mean, AHEAD_MIN)
        # A device is asked again until it is a block, but a block of at least so much is one.
        length = max(BLOCK_BYTES_MIN, min(ask.least, max(at_once, 512)))
        slots = slots_of(length, "otp", there, needed, mean)
        there = Granted(there.slots + slots, there.pad + length - OWN_BYTES - SLOT * slots)
        blocks += 1
        assert blocks <= first / 400 + 2
    assert there.slots >= 1


@given(there, st.integers(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX), st.floats(0, 5_000))
def test_with_what_is_there_slots_and_pad_end_together(there, length, mean):
    slots = slots_of(length, "otp", there, Needed(), mean)
    room = length - OWN_BYTES
    pad = room - SLOT * slots
    has_slots, has_pad = there.slots + slots, there.pad + pad
    is_least, is_most = slots == (0 if there.slots else 1), slots == room // SLOT
    if not is_least:  # else there may be too many slots already
        assert has_slots * mean <= has_pad + mean + SLOT
    if not is_most:  # else there may be too much pad
        assert has_slots * mean >= has_pad - mean - SLOT


@given(st.integers(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX))
def test_where_messages_take_no_pad_a_block_is_all_slots(length):
    assert slots_of(length, "aes-256-gcm", Granted(0, 0), Needed(), 0.0) == (length - OWN_BYTES) // SLOT


@given(aheads, st.integers(0, 5_000))
def test_of_messages_that_take_no_pad_there_are_as_many_ahead_as_slots(ahead, slots):
    ask = ask_for(Granted(slots, 0), Needed(), 0.0, ahead)
    assert (ask is None) == (SLOT * slots >= math.floor(ahead / 2))
