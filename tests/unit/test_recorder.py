"""The recorder of the links, on which the runs with kills rely, finds every use of key for two messages."""

from dataclasses import dataclass
from uuid import uuid4

import pytest

from qkdrelay.broker.names import link_queue
from qkdrelay.link.envelope import seal
from qkdrelay.messages import codec
from qkdrelay.messages.blocks import Announce, BlocksHeld, Facts, HeldBlock, Piece, SlotName
from qkdrelay.messages.link import ShareHeader
from qkdrelay.messages.plans import encode_plan
from support import plans
from support.recorder import Ledger

RELAY = uuid4()
LINK = ("kme-1", "kme-2")
BLOCK, OTHER = bytes(16), b"o" * 16


@dataclass
class Place:
    """Where a message's key is."""

    slot: int = 0
    pad: int = 0
    block: bytes = BLOCK
    more: tuple[Piece, ...] = ()
    """Pieces of pad before that."""


def message(place, body):
    rest = len(body) - sum(piece.length for piece in place.more)
    header = ShareHeader(
        link=LINK,
        slot=SlotName(place.block, place.slot),
        pad=(*place.more, Piece(place.block, place.pad, rest)),
        relay_id=RELAY,
        route=LINK,
        plan=encode_plan(plans.eight().below("kme-2")),
        deadline=1.0,
    )
    return seal("otp", header, body, bytes(32), bytes(len(body)))


def announced(block=BLOCK, *, length=64 + 2 * 32 + 25, slots=2, link=LINK, key_ids=()):
    facts = Facts(link=link, block=block, floor=BLOCK, length=length, slots=slots, key_ids=key_ids)
    return codec.encode(Announce(facts, bytes(16), b""))


def recorded(*messages, about=()):
    ledger = Ledger()
    for body in about:
        ledger.add(link_queue(*LINK), body)
    for place, body in messages:
        ledger.add(link_queue(*LINK), message(place, body))
    return ledger.use()


def test_messages_that_lie_side_by_side_and_the_same_bytes_again_are_as_they_should_be():
    first, second = (Place(), b"a" * 10), (Place(slot=1, pad=10), b"b" * 5)
    third = Place(block=OTHER, more=(Piece(BLOCK, 15, 4),)), b"c" * 10
    use = recorded(first, second, first, third, about=[announced(), announced(OTHER), announced()])
    assert use.reused == []
    assert (use.messages, use.pad_bytes, use.published_again, use.blocks, use.about_blocks) == (3, 25, 1, 2, 3)


@pytest.mark.parametrize(
    ("second", "body", "what"),
    [
        (Place(), b"b" * 10, "slot 0"),
        (Place(pad=10), b"a" * 10, "slot 0"),
        (Place(slot=1), b"a" * 10, "pad 0 to 10"),
        (Place(slot=1, pad=9), b"b", "pad 9 to 10"),
        (Place(block=OTHER, more=(Piece(BLOCK, 9, 1),)), b"bb", "pad 9 to 10"),
        (Place(slot=1, pad=11, more=(Piece(BLOCK, 11, 1),)), b"bb", "pad 11 to 12"),
    ],
    ids=["another body", "another pad", "the same pad", "one byte of pad", "with another's slot", "within one message"],
)
def test_key_that_was_used_for_two_messages_is_found(second, body, what):
    (reused,) = recorded((Place(), b"a" * 10), (second, body)).reused
    assert reused.startswith(what)
    assert reused.endswith("was used for two messages")


@pytest.mark.parametrize(
    ("place", "body", "what"),
    [(Place(slot=2), b"a", "has 2 slots, and another"), (Place(pad=20), b"b" * 6, "has 25 bytes of pad, and others")],
)
def test_key_that_is_something_else_by_its_blocks_announcement_is_found(place, body, what):
    (reused,) = recorded((place, body), about=[announced()]).reused
    assert what in reused


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ({}, {"slots": 1}, "was announced as two"),
        ({"key_ids": ("a", "b")}, {"block": OTHER, "key_ids": ("c", "A")}, "is another block's"),
    ],
)
def test_blocks_that_are_the_same_key_are_found(first, second, what):
    (reused,) = recorded(about=[announced(**first), announced(**first), announced(**second)]).reused
    assert reused.endswith(what)


def test_what_is_held_goes_the_other_way_and_is_no_share():
    ledger, held = Ledger(), BlocksHeld(LINK, bytes(16), BLOCK, (HeldBlock(BLOCK, bytes(16)),), (), b"", b"")
    ledger.add(link_queue("kme-2", "kme-1"), codec.encode(held))
    use = ledger.use()
    assert (use.messages, use.blocks, use.about_blocks, use.reused) == (0, 0, 1, [])
    assert ledger.routes == {}


@pytest.mark.parametrize(
    "body",
    [
        message(Place(), b"a"),
        announced(),
        codec.encode(BlocksHeld(LINK[::-1], bytes(16), BLOCK, (), (), b"", b"")),
    ],
    ids=["share", "announcement", "held"],
)
def test_a_message_in_anothers_queue_is_found(body):
    ledger = Ledger()
    ledger.add(link_queue("kme-3", "kme-2"), body)
    assert ledger.use().reused == ["link.kme-3.kme-2 carried a message of link kme-1>kme-2"]
