"""The recorder of the links, on which the runs with kills rely, finds every use of key for two messages."""

from dataclasses import dataclass
from uuid import uuid4

import pytest

from qkdrelay.broker.names import link_queue
from qkdrelay.link.envelope import seal
from qkdrelay.link.simulated import SimulatedLinkKey
from qkdrelay.messages.link import ShareHeader
from qkdrelay.messages.plans import encode_plan
from support import plans
from support.recorder import Ledger

KEY = SimulatedLinkKey(bytes(32), "kme-1", "kme-2", rate_bps=1, buffer_bytes=1 << 20, clock=lambda: 0.0)
RELAY = uuid4()


@dataclass
class Place:
    """Where a message's key is."""

    epoch: bytes = bytes(16)
    number: int = 0
    pad_offset: int = 0


def message(place, body):
    header = ShareHeader(
        link=("kme-1", "kme-2"),
        epoch=place.epoch,
        number=place.number,
        pad_offset=place.pad_offset,
        relay_id=RELAY,
        route=("kme-1", "kme-2"),
        plan=encode_plan(plans.eight().below("kme-2")),
        deadline=1.0,
    )
    return seal("otp", header, body, KEY)


def recorded(*messages):
    ledger = Ledger()
    for place, body in messages:
        ledger.add(link_queue("kme-1", "kme-2"), message(place, body))
    return ledger.use()


def test_messages_that_lie_side_by_side_and_the_same_bytes_again_are_as_they_should_be():
    first, second = (Place(), b"a" * 10), (Place(number=1, pad_offset=10), b"b" * 5)
    use = recorded(first, second, first, (Place(epoch=b"e" * 16), b"c" * 10))
    assert use.reused == []
    assert (use.messages, use.pad_bytes, use.published_again, use.epochs) == (3, 25, 1, 2)


@pytest.mark.parametrize(
    ("second", "body", "what"),
    [
        (Place(), b"b" * 10, "slot 0"),
        (Place(pad_offset=10), b"a" * 10, "slot 0"),
        (Place(number=1), b"a" * 10, "pad 0 to 10"),
        (Place(number=1, pad_offset=9), b"b", "pad 9 to 10"),
    ],
    ids=["another body", "another pad", "the same pad", "one byte of pad"],
)
def test_key_that_was_used_for_two_messages_is_found(second, body, what):
    (reused,) = recorded((Place(), b"a" * 10), (second, body)).reused
    assert reused.startswith(what)
    assert reused.endswith("was used for two messages")


def test_a_message_in_anothers_queue_is_found():
    ledger = Ledger()
    ledger.add(link_queue("kme-3", "kme-2"), message(Place(), b"a"))
    assert ledger.use().reused == ["link.kme-3.kme-2 carried a message of link kme-1>kme-2"]
