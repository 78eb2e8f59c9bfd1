"""Bytes that nobody vouches for are refused at about what it costs to accept as many: counted, not timed."""

import contextlib
import functools
import os
import sys
import tracemalloc

import msgspec
import pytest

from qkdrelay.broker.rabbitmq.bundle import CONTENT_TYPE, unpacked
from qkdrelay.errors import MalformedMessageError, QkdRelayError
from qkdrelay.messages import codec
from qkdrelay.messages.link import Bundle
from qkdrelay.messages.plans import decode_plan
from qkdrelay.messages.reports import REPORTS_MAX, Reports
from support import wire_slow as slow
from support.messages import KINDS
from support.slow_msgpack import packed

MIB = codec.MESSAGE_BYTES_MAX
EXAMPLES = {kind: slow.message(slow.MESSAGES[kind.__name__][0]) for kind in KINDS}
CALLS_MAX = 40
"""Calls of functions, Python's and C's, for one message: however long it is, none for each of its parts."""


def cut(data):
    return data[:MIB]


def with_field(name, value):
    """A message of this version whose next field has ``value``, encoded."""
    return cut(b"\x82\xa1v\x03" + packed(name) + value)


EMPTIES = b"\xdc\x00\x0f" + (b"\xdc\xff\xff" + b"\x90" * 65_535) * 15
HOSTILE = {
    "nested empties": EMPTIES,
    "nested empty maps": b"\xdc\x00\x0f" + (b"\xdc\xff\xff" + b"\x80" * 65_535) * 15,
    "empties as a field": with_field("surplus", EMPTIES),
    "empties before the tag": with_field("items", b"\x91\x82\xa1q" + EMPTIES),
    "noise": os.urandom(MIB),
    "zeros": bytes(MIB),
    "nils": b"\xc0" * MIB,
    "a deep array": b"\x91" * MIB,
    "a deep map": b"\x81\xa1a" * (MIB // 3),
    "depth as a field": with_field("surplus", b"\x91" * MIB),
    "depth before the tag": with_field("items", b"\x91\x82\xa1q" + b"\x91" * MIB),
    "one wide array": b"\xdd" + (MIB - 5).to_bytes(4) + b"\x90" * (MIB - 5),
    "one wide map": b"\xdf" + (MIB // 3).to_bytes(4) + b"\xa1a\xc0" * (MIB // 3),
    "a long text": cut(packed("x" * (MIB - 8))),
    "a long text that is none": b"\xdb" + (MIB - 5).to_bytes(4) + b"\xff" * (MIB - 5),
    "long bytes": cut(packed(bytes(MIB - 8))),
    "a length only": b"\xdd\xff\xff\xff\xff",
    "a length of bytes only": b"\xc6\xff\xff\xff\xff",
    "a map's length only": b"\xdf\xff\xff\xff\xff",
    "extensions": b"\xdc\xff\xff" + b"\xd4\x01\x00" * 65_535,
    "a field again and again": b"\xde\xff\xff\xa1v\x03" + b"\xa5route\x91\xa1a" * 65_534,
    "names again and again": b"\x8c\xa1v\x03" + (b"\xa5route\xdc\x02\x00" + b"\xa1a" * 512) * 11,
    "numbers longer than need be": b"\x82\xa1v\x03\xa5items\xdd\x00\x01\x00\x00" + b"\xcf\0\0\0\0\0\0\0\1" * 65_536,
}


def cost(work):
    """The functions called, and the most memory held, while ``work`` is done."""
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    tracemalloc.start()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return calls, peak


def _bundled(data):
    """The messages of a bundle, or None if it is none."""
    bodies = unpacked(data, CONTENT_TYPE)
    return None if bodies == (data,) else bodies


def decoders():
    """Everything that reads bytes from the broker before a seal or a signature on them is checked, and after."""
    for kind in KINDS:
        yield kind.__name__, functools.partial(codec.decode, kind=kind), EXAMPLES[kind]
    yield "decode_plan", decode_plan, packed(["s", "t", {"s": [1, ["t"]]}])
    yield "unpacked", _bundled, codec.encode(Bundle(bodies=(b"a", b"b")))


DECODERS = list(decoders())


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(("decode", "example"), [row[1:] for row in DECODERS], ids=[row[0] for row in DECODERS])
def test_to_refuse_any_bytes_takes_few_calls_and_little_memory(decode, example, data):
    def refuse():
        with contextlib.suppress(QkdRelayError):
            assert decode(data) is None  # a bundle that is none

    decode(example)  # what is built of a type at its first message is built
    calls, peak = cost(refuse)
    assert calls <= CALLS_MAX
    assert peak <= 3 * len(data) + 100_000


@pytest.mark.parametrize("place", [0, REPORTS_MAX // 2, REPORTS_MAX - 1])
def test_a_long_message_with_one_wrong_part_costs_no_more_than_the_right_one(place):
    reports = [slow.REPORTS[1 + number % (len(slow.REPORTS) - 1)] for number in range(REPORTS_MAX)]
    right = slow.message({"items": reports})
    reports[place] = {**reports[place], "surplus": 1}
    wrong = slow.message({"items": reports})

    def refuse():
        try:
            codec.decode(wrong, Reports)
        except MalformedMessageError as error:
            said.append(str(error))

    said = []
    accepted, accepted_peak = cost(lambda: codec.decode(right, Reports))
    refused, refused_peak = cost(refuse)
    assert refused <= accepted + CALLS_MAX
    assert refused_peak <= accepted_peak + 100_000
    assert "surplus" in said[0]


def test_the_count_tells_what_looks_at_each_part():
    # The measure itself: what was done before, an untyped decode and a walk through all of it, is seen by it.
    def walked():
        def walk(item):
            if isinstance(item, list):
                for each in item:
                    walk(each)

        walk(msgspec.msgpack.decode(EMPTIES))

    calls, peak = cost(walked)
    assert calls > 100 * CALLS_MAX
    assert peak > 10 * len(EMPTIES)
