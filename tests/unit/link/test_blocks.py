"""Blocks of link key: what a block's shape decides, what its two ends believe, and what opens a message."""

import random
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qkdrelay.errors import ForgedMessageError, MalformedMessageError, NumberReusedError
from qkdrelay.link.blocks import receiver
from qkdrelay.link.blocks.content import pad_bytes
from qkdrelay.link.blocks.sender import ANNOUNCED_S, SURPLUS_MAX, Sender
from qkdrelay.link.blocks.spans import overlaps, with_span
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import PIECES_MAX, Announce, BlocksHeld, Facts, HeldBlock, Piece, RefusedBlock, SlotName

LINK = ("kme-1", "kme-2")
RUN, LATER_RUN = b"r" * 16, b"s" * 16
NONE = bytes(16)
LATEST = b"\xff" * 16
NOW = 1_790_000_000.0


def key_of(length, seed=1):
    return random.Random(seed).randbytes(length)


def announced(sender=None, slots=4, pad=100, now=NOW, seed=1, key_ids=()):
    sender = sender or Sender(LINK, run=RUN)
    return sender.with_block(key_of(64 + 32 * slots + pad, seed), key_ids, slots, now, random.Random(seed).randbytes)


def says(*held, run=RUN, newest=NONE, refused=()):
    """What a receiver says that holds these."""
    held = tuple(HeldBlock(each.facts.block, each.tag) for each in held)
    return BlocksHeld(LINK, run, newest, held, tuple(RefusedBlock(name, "why not") for name in refused), b"", b"")


def held_by(sender):
    """What its receiver holds of a sender's blocks."""
    return {each.block.facts.block: receiver.HeldKey.of(each.block) for each in sender.blocks}


def answer_to(announce, link, newest, latest, blocks):
    """As of the receiver, which knows the ids of all its keys."""
    key_ids = {key_id for each in blocks.values() for key_id in each.facts.key_ids}
    return receiver.answer_to(announce, link, newest, latest, blocks, key_ids=key_ids)


def free(held):
    """The slots that have opened nothing."""
    return [slot for slot in range(held.facts.slots) if not overlaps(held.used_slots, slot, slot + 1)]


def nothing(_name):
    """No message is known to have been opened."""


def granted(**options):
    sender = announced(**options)
    return sender.heard(says(*held_by(sender).values()), NOW)


def replace_facts(announce, **changes):
    facts = {name: changes.get(name, getattr(announce.facts, name)) for name in Facts.__struct_fields__}
    return Announce(Facts(**facts), announce.tag, b"")


# --- content -----------------------------------------------------------------------------------------


def test_a_block_is_its_own_keys_then_slots_then_pad():
    (each,) = announced(slots=2, pad=5).blocks
    block, key = each.block, key_of(133)
    assert (block.slots, block.pad, pad_bytes(block.facts)) == (key[64:128], key[128:], 5)


@pytest.mark.parametrize("change", [{"slots": 3}, {"floor": bytes(15) + b"1"}, {"key_ids": ("x",)}, {"length": 293}])
def test_an_announcement_with_anything_else_in_it_is_not_its_key_s(change):
    (each,) = announced(slots=4).blocks
    true = each.block.announce()
    assert codec.decode(codec.encode(true), Announce) == true
    facts = Facts(**{name: change.get(name, getattr(true.facts, name)) for name in Facts.__struct_fields__})
    assert receiver.held(true, each.block.key) is not None
    assert receiver.held(Announce(facts, true.tag, b""), each.block.key) is None


def is_clamped(byte, bit):
    """Whether Poly1305 takes no notice of this bit of its key (RFC 8439, 2.5)."""
    return byte < 16 and ((byte % 4 == 3 and bit > 3) or (byte % 4 == 0 and byte > 0 and bit < 2))


@given(st.integers(0, 291), st.integers(0, 7))
def test_with_any_other_bit_of_key_it_is_not_held(byte, bit):
    assume(byte >= 64 or not is_clamped(byte % 32, bit))
    (each,) = announced(slots=4).blocks
    key = bytearray(each.block.key)
    key[byte] ^= 1 << bit
    found = receiver.held(each.block.announce(), bytes(key))
    if 32 <= byte < 64:  # in the holding key, which the proof shows
        assert not each.block.is_held_with(found.tag)
    else:
        assert found is None


def test_a_key_that_is_too_short_for_its_slots_is_malformed():
    with pytest.raises(MalformedMessageError, match="with 4 slots"):
        Sender(LINK).with_block(bytes(100), (), 4, NOW, bytes)


def test_no_secret_is_shown():
    sender = granted()
    drawn = sender.draw(10)[1]
    for shown in (repr(sender), repr(drawn), repr(held_by(sender))):
        for secret in (drawn.slot, drawn.pad, sender.blocks[0].block.key[:32]):
            assert repr(secret)[2:-1] not in shown
            assert secret.hex() not in shown


# --- the sender --------------------------------------------------------------------------------------


def test_nothing_is_drawn_before_the_receiver_proves_that_it_holds_the_block():
    sender = announced()
    assert sender.draw(1) is None
    (block,) = held_by(sender).values()
    false = BlocksHeld(LINK, RUN, NONE, (HeldBlock(block.facts.block, bytes(16)),), (), b"", b"")
    assert sender.heard(false, NOW).draw(1) is None
    assert sender.heard(says(block), NOW).draw(1) is not None


def test_a_block_that_is_not_held_in_time_or_refused_or_older_than_the_receiver_s_is_dropped():
    sender = announced()
    (each,) = sender.blocks
    assert sender.at(NOW + ANNOUNCED_S - 1) == sender
    assert not sender.at(NOW + ANNOUNCED_S).blocks
    assert not sender.heard(says(refused=[each.block.facts.block]), NOW).blocks
    assert not sender.heard(says(newest=each.block.facts.block), NOW).blocks


def test_after_the_receiver_has_held_a_newer_one_the_next_is_newer_still():
    ahead = announced(now=NOW + 3_600)
    (newest,) = [each.block.facts.block for each in ahead.blocks]
    sender = Sender(LINK).heard(says(newest=newest), NOW)
    assert announced(sender, seed=2).blocks[0].block.facts.block > newest
    absurd = b"\xff" * 16
    assert Sender(LINK).heard(says(newest=absurd), NOW).last < absurd


def test_absence_is_believed_of_a_receiver_that_began_anew_and_of_no_other():
    sender = granted()
    assert sender.heard(says(), NOW).blocks == sender.blocks
    assert not sender.heard(says(run=LATER_RUN), NOW).blocks
    assert sender.heard(says(*held_by(sender).values(), run=LATER_RUN), NOW).blocks == sender.blocks


def test_one_block_is_announced_at_a_time_and_all_are_dropped_with_the_connection():
    sender = announced()
    assert not sender.may_announce
    assert granted().may_announce
    assert not granted().reconnected().blocks


@given(st.lists(st.integers(0, 150), max_size=30), st.integers(0, 10_000))
def test_every_byte_is_drawn_once_in_order_and_pad_goes_over_into_the_next_block(sizes, seed):
    sender = granted(slots=5, pad=130)
    sender = announced(sender, slots=5, pad=130, seed=seed)
    blocks = held_by(sender)
    sender = sender.heard(says(*blocks.values()), NOW)
    for size in sizes:
        drawn = sender.draw(size)
        if drawn is None:
            assert size > sum(each.pad_left for each in sender.blocks) or not any(
                each.slots_left for each in sender.blocks
            )
            continue
        sender, key = drawn
        tag = bytes([len(blocks)]) * 16
        # What the receiver finds is the same, and it finds it once.
        assert receiver.slot_of(key.slot_name, tag, blocks, nothing) == key.slot
        assert receiver.pad_of(key.slot_name, key.pieces, size, blocks) == key.pad
        blocks |= receiver.wiped(key.slot_name, key.pieces, blocks)
        assert receiver.slot_of(key.slot_name, tag, blocks, lambda _, tag=tag: tag) is None
        with pytest.raises(ForgedMessageError, match="not what it opened"):
            receiver.slot_of(key.slot_name, tag, blocks, nothing)
        with pytest.raises(NumberReusedError, match="has opened another"):
            receiver.pad_of(key.slot_name, (), 0, blocks)
        others = [SlotName(name, slot) for name, held in blocks.items() for slot in free(held)]
        if size and others:
            with pytest.raises(NumberReusedError, match="used before"):
                receiver.pad_of(others[0], key.pieces, size, blocks)
    live = {each.block.facts.block for each in sender.blocks}
    assert not any(held.is_used_up for name, held in blocks.items() if name in live)


def test_the_oldest_block_can_be_given_up_and_what_is_left_goes_on():
    sender = announced(granted(pad=10), seed=2)
    sender = sender.heard(says(*held_by(sender).values()), NOW)
    first, second = sender.blocks
    assert sender.without_oldest().blocks == (second,)
    assert sender.without_oldest().draw(1)[1].slot_name.block != first.block.facts.block


def test_a_message_s_pad_is_of_so_many_pieces_and_no_more():
    sender = Sender(LINK, run=RUN)
    for number in range(PIECES_MAX + 1):
        sender = announced(sender, slots=1, pad=1, seed=number)
        sender = sender.heard(says(*held_by(sender).values()), NOW)
    assert len(sender.draw(PIECES_MAX)[1].pieces) == PIECES_MAX
    assert sender.draw(PIECES_MAX + 1) is None


def test_slots_that_no_pad_is_left_for_are_taken_with_the_pad_of_blocks_without_slots():
    sender = granted(slots=3, pad=10)
    first = sender.blocks[0].block.facts.block
    blocks = held_by(sender)
    sender, drawn = sender.draw(10)
    blocks |= receiver.wiped(drawn.slot_name, drawn.pieces, blocks)
    for seed in (2, 3):
        sender = announced(sender, slots=0, pad=40, seed=seed)
        blocks |= {name: held for name, held in held_by(sender).items() if name not in blocks}
        sender = sender.heard(says(*blocks.values()), NOW)
        sender, drawn = sender.draw(40)
        assert drawn.slot_name.block == first
        blocks |= receiver.wiped(drawn.slot_name, drawn.pieces, blocks)
    assert sender.blocks == ()
    assert all(held.is_used_up for held in blocks.values())


def test_of_blocks_that_have_slots_alone_so_many_are_kept_and_no_more():
    sender = Sender(LINK, run=RUN)
    for number in range(SURPLUS_MAX + 2):
        sender = announced(sender, slots=2, pad=1, seed=number)
        sender = sender.heard(says(*held_by(sender).values()), NOW)
    names = [each.block.facts.block for each in sender.blocks]
    # The pad of all of them but two, and one slot.
    sender, _ = sender.draw(SURPLUS_MAX)
    assert [each.block.facts.block for each in sender.blocks] == names
    sender, _ = sender.draw(1)
    assert [each.block.facts.block for each in sender.blocks] == names[1:]
    sender, _ = sender.draw(1)
    assert [each.block.facts.block for each in sender.blocks] == names[2:]


# --- the receiver ------------------------------------------------------------------------------------


def test_what_is_announced_is_fetched_once_and_what_is_held_is_told():
    sender = announced(key_ids=("a", "b"))
    true = sender.announces
    name, blocks = true.facts.block, held_by(sender)
    assert answer_to(true, LINK, NONE, LATEST, {}) == "fetch"
    assert answer_to(true, LINK, name, LATEST, blocks) == "tell"
    assert answer_to(true, LINK, name, LATEST, {}) == "tell"  # held before, and gone
    other = replace_facts(true, slots=1)
    assert answer_to(other, LINK, name, LATEST, blocks) == "ignore"
    again = announced(seed=2, key_ids=("b", "c"), now=NOW + 1).announces
    assert answer_to(again, LINK, name, LATEST, blocks) == "one of its keys is another block's"
    full = {number.to_bytes(16): blocks[name] for number in range(1, receiver.BLOCKS_MAX + 1)}
    assert answer_to(announced(seed=2).announces, LINK, NONE, LATEST, full) == "fetch"
    held_up = replace_facts(announced(seed=2).announces, floor=(1).to_bytes(16))
    assert answer_to(held_up, LINK, NONE, LATEST, full) == "1024 blocks are kept, and no more can be"
    earlier = (int.from_bytes(announced(seed=2).announces.facts.block) - 1).to_bytes(16)
    assert "of a time to come" in answer_to(announced(seed=2).announces, LINK, NONE, earlier, {})
    twice = announced(seed=2, key_ids=("c", "c")).announces
    assert answer_to(twice, LINK, NONE, LATEST, {}) == "it names a key twice"


def test_an_announcement_for_another_link_or_of_no_possible_block_is_malformed():
    true = announced().announces
    with pytest.raises(MalformedMessageError, match="another link"):
        answer_to(true, ("kme-2", "kme-1"), NONE, LATEST, {})
    with pytest.raises(MalformedMessageError, match="no room for 512 slots"):
        answer_to(replace_facts(true, slots=512), LINK, NONE, LATEST, {})


@pytest.mark.parametrize("key_ids", [(), ("a",)], ids=["computed", "of a device"])
def test_a_slot_has_opened_one_message_and_a_device_s_key_is_gone_then(key_ids):
    sender = granted(key_ids=key_ids)
    before = held_by(sender)
    sender, drawn = sender.draw(4)
    blocks = before | receiver.wiped(drawn.slot_name, drawn.pieces, before)
    tags = {drawn.slot_name: b"t" * 16}
    assert receiver.slot_of(drawn.slot_name, b"t" * 16, blocks, tags.get) is None
    for tag, known in ((b"u" * 16, tags), (b"t" * 16, {})):  # also once the message is forgotten
        if known and not key_ids:
            # Whether this is its sender's or was changed on the way, only its tag says.
            assert receiver.slot_of(drawn.slot_name, tag, blocks, known.get) == drawn.slot
            continue
        with pytest.raises(
            ForgedMessageError, match="slot 0 of its block is used up, and this is not what it opened"
        ) as error:
            receiver.slot_of(drawn.slot_name, tag, blocks, known.get)
        assert not isinstance(error.value, NumberReusedError)
    with pytest.raises(NumberReusedError, match="slot 0 of its block has opened another message"):
        receiver.pad_of(drawn.slot_name, (), 0, blocks)
    (held,), (whole,) = blocks.values(), before.values()
    assert (held.used_slots, held.used_pad) == (((0, 1),), ((0, 4),))
    if key_ids:
        assert (held.slots[:32], held.pad[:4]) == (bytes(32), bytes(4))
        assert (held.slots[32:], held.pad[4:]) == (whole.slots[32:], whole.pad[4:])
    else:
        assert (held.slots, held.pad) == (whole.slots, whole.pad)


def test_of_a_block_that_is_gone_what_was_opened_is_known_and_nothing_else():
    drawn = granted().draw(4)[1]
    tags = {drawn.slot_name: b"t" * 16}
    assert receiver.slot_of(drawn.slot_name, b"t" * 16, {}, tags.get) is None
    with pytest.raises(ForgedMessageError, match="not what it opened"):
        receiver.slot_of(drawn.slot_name, b"u" * 16, {}, tags.get)
    with pytest.raises(ForgedMessageError, match="no block"):
        receiver.slot_of(drawn.slot_name, b"t" * 16, {}, nothing)


@pytest.mark.parametrize(
    ("slot", "pieces", "length", "says"),
    [
        ((0, 4), [], 0, "4 slots"),
        ((1, 0), [], 0, "no block"),
        ((0, 0), [(0, 0, 3)], 4, "not as long"),
        ((0, 0), [(0, 0, 3)], 0, "not as long"),
        ((0, 0), [(1, 0, 4)], 4, "no block"),
        ((0, 0), [(0, 98, 3)], 3, "100 bytes of pad"),
        ((0, 0), [(0, 0, 3), (0, 2, 3)], 6, "used before"),
    ],
)
def test_a_header_that_names_what_there_is_not_opens_nothing(slot, pieces, length, says):
    """So no piece of pad, which whoever knows a message knows, is ever a slot."""
    sender = granted()
    blocks, names = held_by(sender), [sender.blocks[0].block.facts.block, b"x" * 16]
    pieces = [Piece(names[which], offset, size) for which, offset, size in pieces]

    def open_it():
        name = SlotName(names[slot[0]], slot[1])
        receiver.slot_of(name, bytes(16), blocks, nothing)
        receiver.pad_of(name, pieces, length, blocks)

    with pytest.raises(ForgedMessageError, match=says):
        open_it()


@pytest.mark.parametrize("key_ids", [(), ("a",)], ids=["computed", "of a device"])
def test_a_block_is_used_up_when_slots_and_pad_are(key_ids):
    (held,) = held_by(granted(slots=2, pad=4, key_ids=key_ids)).values()
    name = held.facts.block
    slots_gone = held.without_slot(1).without_slot(0)
    assert not held.without_slot(0).without_pad(Piece(name, 0, 4)).is_used_up
    assert not slots_gone.is_used_up
    assert not held.without_pad(Piece(name, 0, 4)).is_used_up
    assert slots_gone.without_pad(Piece(name, 2, 2)).without_pad(Piece(name, 0, 2)).is_used_up
    (no_pad,) = held_by(granted(slots=1, pad=0, key_ids=key_ids)).values()
    assert no_pad.without_slot(0).is_used_up
    (no_slots,) = held_by(granted(slots=0, pad=32, key_ids=key_ids)).values()
    assert no_slots.without_pad(Piece(no_slots.facts.block, 0, 32)).is_used_up


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=15), st.randoms(), st.integers(0, 60))
def test_spans_are_what_a_set_of_bytes_would_be(pieces, chance, start):
    ends = list(accumulate(length for length, _ in pieces))
    taken = [(end - length, end) for (length, is_taken), end in zip(pieces, ends, strict=True) if is_taken]
    chance.shuffle(taken)
    spans, used = (), set()
    for first, after in taken:
        assert not overlaps(spans, first, after)
        spans, used = with_span(spans, first, after), used | set(range(first, after))
        assert {byte for first, after in spans for byte in range(first, after)} == used
        assert all(a[1] < b[0] for a, b in pairwise(spans))
    for length in range(1, 9):
        assert overlaps(spans, start, start + length) == (not used.isdisjoint(range(start, start + length)))


def test_what_is_drawn_stays_drawn_if_it_is_thrown_away():
    """A commit that seems to fail may have been kept."""
    sender = granted()
    after, first = sender.draw(1)
    _, second = after.draw(1)
    assert first.slot_name != second.slot_name
    assert replace(first, slot=b"", pad=b"") != replace(second, slot=b"", pad=b"")
