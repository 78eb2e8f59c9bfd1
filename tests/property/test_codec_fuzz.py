"""Whatever the bytes are: a message, or MalformedMessageError."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdrelay.errors import InvalidPlanError, MalformedMessageError
from qkdrelay.messages import codec, plans
from qkdrelay.network.plan import Plan
from support import wire_slow as slow
from support.fuzzing import fuzzed
from support.messages import KINDS, any_of
from support.plans import random_plans
from support.slow_msgpack import packed

EXAMPLES = [example for example in slow.vectors()["messages"] if example["kind"] != "Context"]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=40)
    | st.sampled_from(["relay", "expect", slow.RELAY, "kme-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_comes_back_and_has_one_encoding(kind):
    @fuzzed(40)
    @given(any_of(kind))
    def check(message):
        data = codec.encode(message)
        again = codec.decode(data, kind)
        assert again == message
        assert codec.encode(again) == data

    check()


def mutated(draw, data):
    """``data`` changed in a place, cut or lengthened."""
    place = draw(st.integers(0, len(data)))
    match draw(st.sampled_from(["flip", "cut", "insert", "append", "twice"])):
        case "flip":
            place = min(place, len(data) - 1)
            return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]
        case "cut":
            return data[:place]
        case "insert":
            return data[:place] + draw(st.binary(min_size=1, max_size=5)) + data[place:]
        case "append":
            return data + draw(st.binary(min_size=1, max_size=5))
        case "twice":
            return data + data[place:]


@fuzzed(800)
@given(st.data())
def test_altered_bytes_are_malformed_or_another_message(data):
    example = data.draw(st.sampled_from(EXAMPLES))
    kind = next(kind for kind in KINDS if kind.__name__ == example["kind"])
    altered = mutated(data.draw, bytes.fromhex(example["bytes"]))
    with contextlib.suppress(MalformedMessageError):
        message = codec.decode(altered, kind)
        assert codec.decode(codec.encode(message), kind) == message


@fuzzed(400)
@given(
    st.integers(-(2**63), 2**64 - 1) | st.integers(0, 200), st.dictionaries(st.text(max_size=5), VALUES, max_size=20)
)
def test_a_later_version_is_known_whatever_else_is_in_the_message(version, fields):
    later = version if codec.VERSION < version < 128 else None
    assert codec.later_version(packed({"v": version} | {name: fields[name] for name in fields if name != "v"})) == later


@fuzzed(800)
@given(st.data())
def test_what_is_of_a_later_version_is_refused_by_that_and_nothing_else_is(data):
    example = data.draw(st.sampled_from(EXAMPLES))
    kind = next(kind for kind in KINDS if kind.__name__ == example["kind"])
    body = bytes.fromhex(example["bytes"])
    of_another = body.replace(b"\xa1v\x03", b"\xa1v" + packed(data.draw(st.integers(0, 300))), 1)
    altered = data.draw(st.sampled_from([body, of_another]) | st.binary(max_size=12))
    altered = mutated(data.draw, altered) if altered and data.draw(st.booleans()) else altered
    later, said = codec.later_version(altered), ""
    try:
        codec.decode(altered, kind)
    except MalformedMessageError as error:
        said = str(error)
    assert (f"of protocol version {later}, which is later" in said) == (later is not None)
    assert ("which is later" in said) == (later is not None)


@fuzzed(400)
@given(st.sampled_from(KINDS), st.binary(max_size=60) | VALUES.map(packed))
def test_any_bytes_are_malformed_or_a_message(kind, data):
    with contextlib.suppress(MalformedMessageError):
        assert isinstance(codec.decode(data, kind), kind)


@fuzzed(400)
@given(st.data())
def test_a_field_of_any_other_value_is_malformed_or_a_message(data):
    name, examples = data.draw(st.sampled_from([(n, e) for n, e in slow.MESSAGES.items() if n != "Context"]))
    kind = next(kind for kind in KINDS if kind.__name__ == name)
    fields = dict(data.draw(st.sampled_from(examples)))
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(VALUES)
    with contextlib.suppress(MalformedMessageError):
        assert isinstance(codec.decode(slow.message(fields), kind), kind)


@fuzzed(100)
@given(random_plans())
def test_every_plan_comes_back_and_has_one_encoding(plan):
    data = plans.encode_plan(plan)
    hops = {kme: [hop.threshold, list(hop.successors)] for kme, hop in sorted(plan.hops.items())}
    assert data == packed([plan.source, plan.target, hops])
    assert plans.decode_plan(data) == plan


@fuzzed(400)
@given(st.data(), random_plans())
def test_altered_plans_are_refused_or_another_plan_in_its_one_encoding(data, plan):
    altered = mutated(data.draw, plans.encode_plan(plan))
    try:
        again = plans.decode_plan(altered)
    except (MalformedMessageError, InvalidPlanError):
        return
    assert isinstance(again, Plan)
    assert plans.encode_plan(again) == altered


@fuzzed(300)
@given(st.binary(max_size=60) | VALUES.map(packed))
def test_any_bytes_are_refused_as_a_plan_or_one(data):
    with contextlib.suppress(MalformedMessageError, InvalidPlanError):
        assert plans.encode_plan(plans.decode_plan(data)) == data
