"""Commands and reports in signed messages: from whom they say, each number once, as few messages as fit."""

from itertools import count
from uuid import uuid4

import msgspec
import pytest

from qkdrelay.errors import ForgedMessageError, MalformedMessageError
from qkdrelay.messages import codec, signing
from qkdrelay.messages.control import Cancel, Commands, SignedMessage
from qkdrelay.messages.reports import Alarm, Forwarded, Reports
from support import wire_slow as slow

KEY, EPOCH = bytes(range(32)), bytes(16)
BODY = Commands(items=(Cancel(relay_id=uuid4()),))


def signed(**changes):
    data = signing.sign(KEY, "coordinator", "kme-1", epoch=EPOCH, number=7, body=BODY)
    return msgspec.structs.replace(codec.decode(data, SignedMessage), **changes)


def test_what_was_signed_verifies():
    signing.verify(KEY, "coordinator", "kme-1", signed())


@pytest.mark.parametrize(
    "changes",
    [
        {"sender": "kme-1"},
        {"recipient": "kme-2"},
        {"epoch": b"e" * 16},
        {"number": 8},
        {"body": slow.message({"items": []})},
        {"mac": bytes(32)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_field_is_signed(changes):
    message = signed(**changes)
    with pytest.raises(ForgedMessageError):
        signing.verify(KEY, message.sender, message.recipient, message)


@pytest.mark.parametrize("ends", [("kme-1", "coordinator"), ("coordinator", "kme-2"), ("kme-2", "kme-1")])
def test_it_is_believed_from_its_sender_to_its_recipient_only(ends):
    with pytest.raises(ForgedMessageError, match=f"from {ends[0]} to {ends[1]}"):
        signing.verify(KEY, *ends, signed())


@pytest.mark.parametrize("key", [bytes(32), KEY[:-1], KEY + b"\x01"])
def test_another_key_does_not_verify_it(key):
    with pytest.raises(ForgedMessageError):
        signing.verify(key, "coordinator", "kme-1", signed())


def parts(items):
    numbers = count(5)
    kind = Reports(items=tuple(items))
    messages = signing.sign_all(KEY, "kme-1", "coordinator", epoch=EPOCH, number=lambda: next(numbers), body=kind)
    decoded = [codec.decode(message, SignedMessage) for message in messages]
    for message in decoded:
        signing.verify(KEY, "kme-1", "coordinator", message)
    return decoded


def test_what_fits_into_one_message_goes_in_one():
    items = [Alarm(event="e", text=str(n)) for n in range(2000)]
    (message,) = parts(items)
    assert message.number == 5


def test_what_does_not_fit_goes_in_several_in_order_each_with_a_number_of_its_own():
    route = tuple(f"{'k' * 28}-{n}" for n in range(100, 300))
    items = [Forwarded(relay_id=uuid4(), route=route) for _ in range(400)]
    messages = parts(items)
    assert len(messages) > 1
    assert [item for message in messages for item in codec.decode(message.body, Reports).items] == items
    assert len({message.number for message in messages}) == len(messages)


def test_one_thing_that_fits_nowhere_is_an_error():
    with pytest.raises(MalformedMessageError):
        parts([Alarm(event="e", text="x" * (1 << 20))])
