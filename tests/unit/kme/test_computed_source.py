"""The simulated QKD link as a source of blocks: one key at both ends, nothing twice, a rate and a buffer."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.blocks.computed import ComputedSource, block_key
from qkdrelay.errors import SettingsError
from qkdrelay.link.blocks.content import KeyBlock
from qkdrelay.messages.blocks import BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, Facts
from support import wire_slow as slow
from support.clock import Clock

SECRET, BLOCK = bytes(range(32)), bytes(16)
LINK = ("kme-1", "kme-2")


def source(secret=SECRET, me="kme-1", peer="kme-2", *, rate_bps=8, buffer_bytes=0, clock=lambda: 0.0):
    return ComputedSource(secret, me, peer, rate_bps=rate_bps, buffer_bytes=buffer_bytes, clock=clock)


def facts(block=BLOCK, length=1000, slots=4, link=LINK, key_ids=()):
    return Facts(link=link, block=block, floor=block, length=length, slots=slots, key_ids=key_ids)


@settings(max_examples=60)
@given(st.binary(min_size=16, max_size=16), st.integers(BLOCK_BYTES_MIN, 3000))
def test_a_block_is_what_the_protocol_says(block, length):
    wanted = {"link": list(LINK), "block": block, "length": length}
    assert source().computed(facts(block, length, slots=1)) == slow.computed_block(SECRET, wanted)


@given(st.lists(st.integers(0, 808), min_size=2, max_size=2).map(sorted))
def test_the_pad_is_one_stream_whatever_the_pieces(cuts):
    block, (first, second) = KeyBlock(facts(), source().computed(facts())), cuts
    assert block.pad_at(0, first) + block.pad_at(first, second - first) == block.pad_at(0, second)
    assert block.pad == block.pad_at(0, 808)


def test_what_one_end_draws_the_other_fetches():
    sender, receiver = source(buffer_bytes=5000), source(me="kme-2", peer="kme-1")
    assert sender.ask(1000, 100)
    assert not sender.is_drawing()
    drawn = sender.drawn()
    assert (drawn.length, drawn.key_ids) == (1000, ())
    assert receiver.fetch(facts())
    fetched = receiver.fetched()
    assert (fetched.facts, fetched.key, fetched.why) == (facts(), drawn.of(BLOCK), "")
    assert receiver.computed(facts()) == fetched.key
    assert (sender.drawn(), receiver.fetched()) == (None, None)


def test_while_something_drawn_or_fetched_was_not_taken_nothing_else_is():
    here = source(buffer_bytes=5000)
    assert here.ask(1000, 100)
    assert not here.ask(1000, 100)
    assert here.available() == 4000
    assert here.fetch(facts())
    assert not here.fetch(facts(bytes(15) + b"\x01"))


def test_a_block_of_a_device_cannot_be_computed():
    here, device_s = source(), facts(key_ids=("a",))
    assert here.computed(device_s) is None
    assert here.fetch(device_s)
    fetched = here.fetched()
    assert fetched.key is None
    assert "there is none here" in fetched.why


def test_no_secret_direction_or_block_has_key_of_another():
    """16 bytes at any place of one block are nowhere else."""
    seen = {}
    ends = LINK, LINK[::-1], ("kme-1", "kme-22"), ("kme-12", "kme-2")
    blocks = BLOCK, bytes(15) + b"\x01", b"\x01" + bytes(15)
    for secret, link, block in itertools.product((SECRET, bytes(32)), ends, blocks):
        data = block_key(secret, link, block, 3000)
        for at in range(len(data) - 15):
            assert seen.setdefault(data[at : at + 16], (secret, link, block, at)) == (secret, link, block, at)


def test_key_appears_at_its_rate_up_to_the_buffer():
    clock = Clock()
    here = source(rate_bps=800, buffer_bytes=1000, clock=clock)
    assert here.available() == here.capacity() == 1000
    assert here.rate_bps() == 800
    assert here.ask(900, 900)
    assert here.available() == 100
    clock.forward(2.0)
    assert here.available() == 300
    clock.forward(0.005)
    assert here.available() == 300
    clock.forward(0.005)
    assert here.available() == 301
    clock.forward(1e9)
    assert here.available() == 1000
    assert here.why_dry() == ""


def test_of_what_is_asked_for_as_much_comes_as_there_is_but_not_less_than_the_least():
    clock = Clock()
    here = source(rate_bps=800, buffer_bytes=500, clock=clock)
    assert here.ask(2000, 400)
    assert here.drawn().length == 500
    assert not here.ask(2000, 400)
    clock.forward(3.0)
    assert not here.ask(2000, 400)
    clock.forward(1.0)
    assert here.ask(2000, 400)
    assert here.drawn().length == 400


def test_a_least_that_can_never_be_there_is_what_the_buffer_holds():
    here = source(buffer_bytes=500)
    assert here.ask(2000, 1000)
    assert here.drawn().length == 500


@pytest.mark.parametrize("there", [0, BLOCK_BYTES_MIN - 1])
def test_less_than_a_block_is_not_drawn(there):
    here = source(buffer_bytes=there)
    assert not here.ask(1000, 1)
    assert (here.drawn(), here.available()) == (None, there)


def test_no_more_is_drawn_in_all_than_appeared():
    clock, drawn = Clock(), 0
    here = source(rate_bps=80_000, buffer_bytes=2000, clock=clock)
    for number in range(500):
        clock.forward(0.05 * (number % 4))
        if here.ask(100 + 7 * number, 96):
            drawn += here.drawn().length
    assert drawn + here.available() <= 2000 + 10_000 * (clock() - Clock()())


def test_what_is_taken_does_not_change_the_key():
    one, other = source(buffer_bytes=BLOCK_BYTES_MAX), source(buffer_bytes=BLOCK_BYTES_MAX)
    one.ask(500, 500)
    one.drawn()
    one.ask(400, 400)
    other.ask(400, 400)
    assert one.drawn().of(BLOCK) == other.drawn().of(BLOCK) == one.computed(facts(length=400))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_of_another_length_is_refused_by_link_and_not_shown(length):
    with pytest.raises(SettingsError, match="kme-1>kme-2") as error:
        source(b"\xaa" * length)
    assert "aa" not in str(error.value)


def test_its_repr_shows_nothing_of_the_secret():
    here = source(buffer_bytes=5000)
    here.ask(1000, 100)
    here.fetch(facts())
    key = here.computed(facts())
    for shown in (repr(here), repr(vars(here))):
        for secret in (SECRET, key, key[:32]):
            assert secret.hex() not in shown
            assert repr(secret)[2:-1] not in shown
