"""What is wrong with bytes is said in one kind of error, and which thing it is."""

import subprocess
import sys
from uuid import UUID

import pytest

from qkdrelay.errors import InvalidPlanError, MalformedMessageError
from qkdrelay.messages import codec
from qkdrelay.messages.answers import Reply
from qkdrelay.messages.control import Commands, SignedMessage, Terms
from qkdrelay.messages.keys import KEY_BYTES_MAX, KEY_COUNT_MAX, KeyAmountError, check_key_amount
from qkdrelay.messages.leaks import Leak
from qkdrelay.messages.link import SealedMessage
from qkdrelay.messages.plans import decode_plan, encode_plan
from qkdrelay.messages.reports import Dispute, Expected, Findings, Reports
from qkdrelay.messages.requests import Request
from qkdrelay.network.plan import Hop, Plan
from support import wire_slow as slow
from support.plans import fan
from support.slow_msgpack import packed

SIGNED = slow.MESSAGES["SignedMessage"][0]
SEALED = slow.MESSAGES["SealedMessage"][0]


def refused(data, kind, **limits):
    with pytest.raises(MalformedMessageError) as error:
        codec.decode(data, kind, **limits)
    assert "\n" not in str(error.value)
    # Whoever logs it does not print what another library said of the bytes.
    assert error.value.__context__ is None or error.value.__suppress_context__
    return str(error.value)


# --- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\xc0\xc0", packed([]), packed(1), packed("text"), packed(None)])
def test_what_is_no_map_is_malformed(data):
    refused(data, Terms)


@pytest.mark.parametrize("version", [0, 1, -1, "2", 2.0, True, None, [1], b"\x01"])
def test_another_version_is_refused(version):
    assert "version 3" in refused(packed({"v": version, **slow.TERMS}), Terms)


def test_a_message_without_version_is_refused():
    assert "version 3" in refused(packed(slow.TERMS), Terms)


@pytest.mark.parametrize("version", [4, 127])
@pytest.mark.parametrize("fields", [{}, slow.TERMS, {str(number): number for number in range(40)}])
def test_a_message_of_a_later_version_is_told_by_its_beginning_and_refused_by_its_version(version, fields):
    data = packed({"v": version, **fields})
    assert codec.later_version(data) == version
    assert f"of protocol version {version}, which is later than 3" in refused(data, Terms)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x81\xa1v",
        b"\xa1v\x04",
        b"\x80\xa1v\x04",
        packed({"v": 0}),
        packed({"v": codec.VERSION}),
        packed({"v": -1}),
        packed({"v": 4.0}),
        packed({"v": 128}),
        packed({"w": 4}),
        packed({"type": "expect", "v": 4}),
        packed([{"v": 4}]),
        b"\x81\xcc\x04\xa1v",
        b"\x81\xa1v\xcc\x04",
        b"\x81\xc4\x01v\x04",
        b"\xde\x00\x01\xa1v\x04",
        b"\xde\xff",
        b"\xdf\x00\x01\x00\x00\xa1v\x04",
        packed({"v": 4}) + bytes(codec.MESSAGE_BYTES_MAX),
    ],
)
def test_what_does_not_begin_as_a_message_of_a_later_version_is_none(data):
    assert codec.later_version(data) is None
    refused(data, Terms)


@pytest.mark.parametrize("missing", sorted(slow.TERMS))
def test_a_missing_field_is_named(missing):
    fields = {name: value for name, value in slow.TERMS.items() if name != missing}
    assert missing in refused(slow.message(fields), Terms)


def test_a_field_too_many_is_named():
    assert "surplus" in refused(slow.message({**slow.TERMS, "surplus": 1}), Terms)


def test_a_field_too_many_deep_inside_is_named():
    command = {"type": "expect", "terms": {**slow.TERMS, "surplus": 1}}
    assert "surplus" in refused(slow.message({"items": [command]}), Commands)


@pytest.mark.parametrize("kind", ["unknown", "hello", "", None, 1])
def test_an_unknown_command_is_refused(kind):
    refused(slow.message({"items": [{"type": kind, "relay_id": slow.RELAY}]}), Commands)


def test_a_report_is_no_command_and_a_command_no_report():
    refused(slow.message({"items": [slow.REPORTS[1]]}), Commands)
    refused(slow.message({"items": [slow.COMMANDS[3]]}), Reports)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("relay_id", "00112233"),
        ("relay_id", bytes(15)),
        ("relay_id", 5),
        ("plan", "text"),
        ("plan", bytes(65_537)),
        ("key_count", 0),
        ("key_count", -1),
        ("key_count", KEY_COUNT_MAX + 1),
        ("key_count", 1.0),
        ("key_count", True),
        ("key_count", "3"),
        ("key_count", 2**64 - 1),
        ("key_size_bits", 56),
        ("key_size_bits", 65_544),
        ("key_size_bits", 257),
        ("deadline", -1.0),
        ("deadline", float("nan")),
        ("deadline", float("inf")),
        ("deadline", 5e9),
        ("deadline", "1"),
        ("deadline", None),
    ],
)
def test_a_field_of_another_type_or_out_of_range_is_named(field, value):
    assert field in refused(slow.message({**slow.TERMS, field: value}), Terms)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sender", ""),
        ("sender", "k" * 33),
        ("sender", "KME-1"),
        ("sender", "kme-1\n"),
        ("sender", "kme.1"),
        ("recipient", b"kme-1"),
        ("epoch", bytes(15)),
        ("epoch", bytes(17)),
        ("number", -1),
        ("number", 2**62 + 1),
        ("body", "text"),
        ("mac", bytes(31)),
        ("mac", bytes(33)),
    ],
)
def test_names_epochs_numbers_and_tags_have_their_form(field, value):
    assert field in refused(slow.message({**SIGNED, field: value}), SignedMessage)


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_the_tag_of_a_seal_has_16_bytes(size):
    assert "tag" in refused(slow.message({**SEALED, "tag": bytes(size)}), SealedMessage)


def test_a_header_that_is_too_long_is_refused():
    assert "header" in refused(slow.message({**SEALED, "header": bytes(131_073)}), SealedMessage)


@pytest.mark.parametrize("route", [[], ["kme-1"] * 513, ["kme-1", "KME"], "kme-1", [["kme-1"]], [None]])
def test_a_route_is_a_list_of_1_to_512_names(route):
    leak = {**slow.MESSAGES["Leak"][0], "route": route}
    assert "route" in refused(slow.message(leak), Leak)


@pytest.mark.parametrize("queue", ["", "cli.q.", "cli.q.*", "cli.q.#", "cli.q.X", "link.kme-1.kme-2", "cli.q.1\n"])
def test_an_answer_goes_to_a_command_lines_queue_only(queue):
    request = {**slow.MESSAGES["Request"][0], "reply_to": queue}
    assert "reply_to" in refused(slow.message(request), Request)


def test_a_field_named_twice_is_refused():
    twice = (
        b"\x84"
        + packed("v")
        + packed(3)
        + packed("type")
        + packed("expected")
        + packed("relay_id")
        + packed(slow.RELAY)
        + packed("relay_id")
        + packed(slow.OTHER)
    )
    assert "twice" in refused(twice, Expected)


def test_keys_of_maps_are_texts():
    refused(b"\x81" + packed(1) + packed(1), Terms)
    refused(b"\x82" + packed("v") + packed(2) + packed(b"relay_id") + packed(slow.RELAY), Expected)


@pytest.mark.parametrize("depth", [13, 200, 900, 5_000, 200_000])
def test_nesting_is_bounded(depth):
    refused(b"\x91" * depth + b"\x90", Terms)
    refused(packed({"v": 3})[:1] + b"\xa1v" + b"\x91" * depth + b"\x90", Terms)


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xdc\xff\xff" + bytes(65_535),
    ],
)
def test_a_length_that_is_only_announced_costs_nothing(data):
    refused(data, Terms)


@pytest.mark.parametrize("data", [b"\xd4\x01\x00", b"\xd6\xff\x00\x00\x00\x00", b"\xc7\x00\x05"])
def test_extension_types_are_refused(data):
    refused(packed({"v": 3})[:1] + b"\xa1v" + data, Terms)


def test_a_text_that_is_no_utf8_is_refused():
    refused(b"\x82\xa1v\x03\xa8relay_id\xa2\xff\xfe", Expected)


def test_oversized_bytes_are_refused_unread():
    assert "1048577 bytes" in refused(bytes(codec.MESSAGE_BYTES_MAX + 1), Terms)
    assert "at most 5" in refused(bytes(6), Terms, size_max=5)


def test_a_message_that_would_be_oversized_is_not_made():
    leak = codec.decode(slow.message(slow.MESSAGES["Leak"][0]), Leak)
    with pytest.raises(MalformedMessageError, match="1048576"):
        codec.encode(Leak(leak.kme, leak.relay_id, leak.route, bytes(codec.MESSAGE_BYTES_MAX)))


@pytest.mark.parametrize("count", [0, 1, 50])
def test_a_truncated_message_is_malformed_at_every_length(count):
    data = slow.message({"items": slow.REPORTS[:count]})
    for length in range(len(data)):
        refused(data[:length], Reports)


def test_what_follows_a_message_makes_it_malformed():
    refused(slow.message(slow.TERMS) + b"\xc0", Terms)


def test_an_error_does_not_repeat_what_was_in_the_bytes():
    secret = "not-to-be-seen"
    for field, value in (("relay_id", secret), ("key_count", secret), ("deadline", secret), ("plan", secret)):
        assert secret not in refused(slow.message({**slow.TERMS, field: value}), Terms)
    assert secret not in refused(secret.encode(), Terms)
    assert secret not in refused(b"\xaf" + secret.encode() + b"\xff", Terms)


def test_a_reply_of_another_kind_is_refused():
    refused(slow.message({"request_id": slow.RELAY, "body": slow.REQUESTS[1]}), Reply)


@pytest.mark.parametrize(
    ("count", "bits", "named"),
    [
        (0, 256, "0 keys"),
        (-1, 256, "-1 keys"),
        (KEY_COUNT_MAX + 1, 64, f"{KEY_COUNT_MAX + 1} keys"),
        (1, 0, "0 bits"),
        (1, 56, "56 bits"),
        (1, 257, "257 bits"),
        (1, 65_544, "65544 bits"),
        (2, 2**21, "2097152 bits"),
        (KEY_COUNT_MAX, 264, f"{KEY_BYTES_MAX} bytes"),
    ],
)
def test_an_amount_of_keys_that_cannot_be_is_named(count, bits, named):
    with pytest.raises(KeyAmountError, match=named):
        check_key_amount(count, bits)


@pytest.mark.parametrize(("count", "bits"), [(1, 64), (1, 65_536), (KEY_COUNT_MAX, 256), (64, 65_536)])
def test_amounts_up_to_the_bounds_are_possible(count, bits):
    check_key_amount(count, bits)


# --- plans -----------------------------------------------------------------------------------------

FORWARD = [1, ["t"]]


def plan_refused(source, target, hops):
    with pytest.raises(InvalidPlanError) as error:
        decode_plan(packed([source, target, dict(sorted(hops.items()))]))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("hops", "named"),
    [
        ({"s": [1, ["a"]], "a": [1, ["b"]], "b": [2, ["a", "t"]]}, ("cycle", "a", "b")),
        ({"s": [2, ["a", "t"]], "a": [1, ["a"]]}, ("cycle", "a")),
        ({"s": [1, ["a"]], "a": [2, ["s", "t"]]}, ("a", "back to the source s")),
        ({"s": [1, ["s"]]}, ("s", "back to the source")),
        ({"s": FORWARD, "lost": FORWARD}, ("lost", "cannot be reached")),
        ({"s": [1, ["a"]], "a": [1, ["b"]], "b": [1, ["a"]]}, ("t", "cannot be reached")),
        ({"s": [2, ["a", "t"]]}, ("a", "no successors")),
        ({"s": [1, ["x", "t"]], "x": [0, []]}, ("x", "0 successors")),
        ({"s": [2, ["t", "t"]]}, ("s", "twice")),
        ({"s": [0, ["t"]]}, ("s", "threshold 0")),
        ({"s": [2, ["t"]]}, ("s", "threshold 2")),
        ({"s": [-1, ["t"]]}, ("s", "threshold -1")),
        ({"s": [3, ["a", "t"]], "a": FORWARD}, ("s", "threshold 3")),
        ({"s": FORWARD, "t": [1, ["s"]]}, ("t", "has successors")),
        ({"a": FORWARD}, ("a", "cannot be reached")),
        ({}, ("t", "cannot be reached")),
        ({"s": [1, ["No"]], "No": FORWARD}, ("name",)),
        ({"s": [1, ["a b"]], "a b": FORWARD}, ("name",)),
        ({"s": [1, ["x" * 33]], "x" * 33: FORWARD}, ("name",)),
        ({"s": [1, [""]], "": FORWARD}, ("name",)),
    ],
)
def test_an_invalid_plan_is_refused_and_says_where(hops, named):
    said = plan_refused("s", "t", hops)
    for part in named:
        assert part in said


def test_a_plan_from_a_kme_to_itself_has_no_hops():
    assert "both s" in plan_refused("s", "s", {"a": [1, ["s"]]})
    assert decode_plan(packed(["s", "s", {}])).hops == {}


def test_a_plan_over_budget_is_refused_with_its_size():
    layers = [[f"k{i}-{j}" for j in range(4)] for i in range(6)]
    hops = {"s": [3, layers[0]]}
    for layer, below in zip(layers, [*layers[1:], ["t"]], strict=True):
        hops.update({kme: [len(below) // 2 + 1, below] for kme in layer})
    assert "unfolds to 9556 share messages; the budget is 4096" in plan_refused("s", "t", hops)


def test_the_unfolding_of_a_hostile_plan_is_counted_and_not_done():
    layers = [[f"k{i}-{j}" for j in range(8)] for i in range(50)]
    hops = {"s": [8, layers[0]]}
    for layer, below in zip(layers, [*layers[1:], ["t"]], strict=True):
        hops.update({kme: [1, below] for kme in layer})
    assert "budget" in plan_refused("s", "t", hops)


def test_too_many_successors_or_kmes_are_refused():
    wide = [f"k{i}" for i in range(256)]
    assert "too many" in plan_refused("s", "t", {"s": [1, wide], **dict.fromkeys(wide, FORWARD)})
    long = [f"k{i}" for i in range(600)]
    chain = {a: [1, [b]] for a, b in zip(["s", *long], [*long, "t"], strict=True)}
    assert "too many" in plan_refused("s", "t", chain)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        ["s", "t"],
        ["s", "t", []],
        ["s", "t", {"s": FORWARD}, 1],
        ["s", "t", {"s": ["1", ["t"]]}],
        ["s", "t", {"s": [1.0, ["t"]]}],
        ["s", "t", {"s": [1, "t"]}],
        ["s", "t", {"s": [1, [None]]}],
        ["s", "t", {"s": [1, ["t"], 0]}],
        [b"s", "t", {"s": FORWARD}],
        {"v": 1, "source": "s"},
    ],
)
def test_what_is_no_plan_is_malformed(value):
    with pytest.raises(MalformedMessageError):
        decode_plan(packed(value))


def test_a_plan_has_one_encoding():
    canonical = packed(["s", "t", {"a": FORWARD, "s": [2, ["a", "t"]]}])
    assert encode_plan(decode_plan(canonical)) == canonical
    unsorted = packed(["s", "t", {"s": [2, ["a", "t"]], "a": FORWARD}])
    longer = canonical.replace(packed("s"), b"\xd9\x01s", 1)
    for other in (unsorted, longer):
        with pytest.raises(MalformedMessageError, match="canonical"):
            decode_plan(other)


def test_plans_that_differ_have_different_hashes_and_equal_ones_the_same():
    # Or a neighbour could send many that have all to be compared with each other, wherever plans are kept.
    middle = [f"m{i}" for i in range(100)]
    different = [fan(100, k) for k in range(1, 101)]
    for i in range(1, 100):
        others = {kme: Hop(("t",), 1) for kme in middle}
        different.append(Plan("s", "t", {"s": Hop((*middle[i:], *middle[:i]), 51), **others}))
    assert len(set(map(hash, different))) == len(different)
    for plan in different:
        assert hash(Plan(plan.source, plan.target, dict(reversed(plan.hops.items())))) == hash(plan)


def test_an_oversized_plan_is_refused_unread():
    with pytest.raises(MalformedMessageError, match="65537"):
        decode_plan(bytes(65_537))


AT_ONCE = """
import sys, threading
from uuid import uuid4
from qkdrelay.messages import codec
from qkdrelay.messages.answers import RelaysView, Reply

data = codec.encode(Reply(request_id=uuid4(), body=RelaysView(relays=(), total=0)))
together = threading.Barrier(4)

def decode():
    together.wait()
    codec.decode(data, Reply)

sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=decode) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_the_first_messages_of_a_kind_may_come_in_several_threads_at_once():
    # Every other such process crashed: the library builds what it needs of a type as it first meets it.
    for _ in range(4):
        assert subprocess.run([sys.executable, "-c", AT_ONCE], check=False, capture_output=True).returncode == 0


def test_what_has_too_many_parts_is_refused_also_in_its_one_encoding():
    dispute = Dispute(split=("kme-1",), sets=((),) * 65_537)
    findings = Findings(relay_id=UUID(int=1), false=(), disputed=(dispute,), equivocating=(), unclear="")
    with pytest.raises(MalformedMessageError):
        codec.decode(codec.encode(findings), Findings)
