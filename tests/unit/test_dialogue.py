"""Requests and answers: each is believed from its maker only, a request is taken once, an old answer is none."""

from itertools import count
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdrelay.errors import ForgedMessageError, MalformedMessageError, QkdRelayError
from qkdrelay.messages import codec, dialogue
from qkdrelay.messages.answers import Acknowledged, Late
from qkdrelay.messages.control import SignedMessage
from qkdrelay.messages.dialogue import REQUEST_AGE_MAX_S, Answerer, Asker
from qkdrelay.messages.requests import LinkRequest, NetworkRequest
from qkdrelay.service.batch import Batch, BatchDict

KEY, OTHER_KEY, EPOCH = bytes(range(32)), bytes(32), (1).to_bytes(16)
NOW = 1_700_000_000.0
DOWN = LinkRequest(a="kme-1", b="kme-2", up=False)


class Clock:
    def __init__(self, now=NOW):
        self.now = now

    def __call__(self):
        return self.now


def answerer(now=NOW, *, key=KEY, epoch=EPOCH, since=0.0):
    made = Answerer(key, lambda: epoch, since)
    made.open(now)
    return made


def asker(now=NOW, key=KEY):
    return Asker(key, "cli.q.0", Clock(now))


def standing(taker, data, now):
    return taker.take(data, now)[1]


def changed(data, **changes):
    return codec.encode(msgspec.structs.replace(codec.decode(data, SignedMessage), **changes))


# --- requests --------------------------------------------------------------------------------------


def test_a_request_is_taken_as_it_was_asked_and_once():
    request, signed = asker().request(DOWN)
    taker = answerer()
    assert taker.take(signed, NOW) == (request, "new")
    assert [standing(taker, signed, NOW + later) for later in (0.0, 1.0, 59.0)] == ["repeated"] * 3
    assert [standing(taker, signed, NOW + later) for later in (61.0, 3600.0, 1e6)] == ["late"] * 3


def test_one_that_is_sent_again_is_another_message_under_the_same_id():
    talker, taker = asker(), answerer()
    request, first = talker.request(DOWN)
    again, second = talker.request(DOWN, request.request_id)
    assert (again, first != second) == (request, True)
    assert [standing(taker, data, NOW) for data in (first, second, first)] == ["new", "new", "repeated"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: codec.decode(data, SignedMessage).body, MalformedMessageError),
        (lambda data: changed(data, body=codec.encode(asker().request(NetworkRequest())[0])), ForgedMessageError),
        (lambda data: changed(data, epoch=bytes(16)), ForgedMessageError),
        (lambda data: changed(data, number=7), ForgedMessageError),
        (lambda data: changed(data, sender="coordinator", recipient="cli"), ForgedMessageError),
        (lambda data: changed(data, sender="kme-1"), ForgedMessageError),
        (lambda data: changed(data, mac=bytes(32)), ForgedMessageError),
        (lambda _: asker(key=OTHER_KEY).request(DOWN)[1], ForgedMessageError),
        (lambda _: answerer().answer(asker().request(DOWN)[0], Acknowledged(text="")), ForgedMessageError),
    ],
    ids=["stripped", "body", "epoch", "number", "turned", "sender", "mac", "another key", "an answer"],
)
def test_what_the_command_line_did_not_sign_is_not_taken_and_does_not_use_up_what_it_did(change, error):
    request, signed = asker().request(DOWN)
    taker = answerer()
    with pytest.raises(error):
        taker.take(change(signed), NOW)
    assert taker.take(signed, NOW) == (request, "new")


@given(st.data())
def test_whatever_bit_is_turned_it_is_neither_a_request_nor_an_answer(data):
    talker, taker = asker(), answerer()
    request, signed = talker.request(DOWN)
    reply = taker.answer(request, Acknowledged(text="done"))
    for body, read in (
        (signed, lambda b: taker.take(b, NOW)),
        (reply, lambda b: talker.answer(b, {request.request_id})),
    ):
        bit = data.draw(st.integers(0, 8 * len(body) - 1))
        turned = bytearray(body)
        turned[bit // 8] ^= 1 << bit % 8
        with pytest.raises(QkdRelayError):
            read(bytes(turned))


@pytest.mark.parametrize("off_s", [-1e6, -REQUEST_AGE_MAX_S - 1, 0.5, 1e6])
def test_whose_clock_is_off_is_told_the_time_and_asks_again_by_it(off_s):
    clock = Clock(NOW + off_s)
    talker, taker = Asker(KEY, "cli.q.0", clock), answerer(NOW - 3600.0)
    request, signed = talker.request(DOWN)
    assert taker.take(signed, NOW) == (request, "late")
    late = talker.answer(taker.answer(request, taker.late(NOW)), {request.request_id})
    assert late.body == Late(clock=NOW)
    again, signed = talker.request(DOWN, request.request_id)
    clock.now += 0.2
    assert taker.take(signed, NOW + 0.2) == (again, "new")


@pytest.mark.parametrize("store", ["kept", "lost"])
@pytest.mark.parametrize("ahead_s", [-30.0, 0.0, 30.0])
@pytest.mark.parametrize("down_s", [0.001, 1.0, 59.0, 61.0])
def test_nothing_that_was_taken_before_a_restart_is_taken_after_it(store, ahead_s, down_s):
    clock = Clock(NOW + ahead_s)
    talker, before = Asker(KEY, "cli.q.0", clock), answerer(NOW - 3600.0)
    request, signed = talker.request(DOWN)
    sent = [signed]
    if before.take(signed, NOW)[1] == "late":
        talker.answer(before.answer(request, before.late(NOW)), {request.request_id})
        sent.append(talker.request(DOWN, request.request_id)[1])
        assert before.take(sent[-1], NOW)[1] == "new"
    again_at = NOW + down_s
    after = answerer(again_at, since=before.latest if store == "kept" else 0.0)
    for later in (0.0, 10.0, 29.0, 31.0, 3600.0):
        assert {standing(after, data, again_at + later) for data in sent[-1:]} == {"late"}


@pytest.mark.parametrize("back_s", [0.3, 59.0, 3600.0])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_is_set_back_has_nothing_taken_twice_and_refuses_nobody(back_s, restarted):
    taker = answerer(NOW - 3600.0)
    old = [asker(NOW - age).request(DOWN)[1] for age in (50.0, 1.0, 0.0)]
    assert [standing(taker, data, NOW) for data in old] == ["new"] * 3
    now = NOW - back_s
    if restarted:
        taker = answerer(now, since=taker.latest)
    for _ in range(3):
        now += 25.0
        assert "new" not in {standing(taker, data, now) for data in old}
        talker = asker(now)
        request, signed = talker.request(DOWN)
        if standing(taker, signed, now) == "late":
            talker.answer(taker.answer(request, taker.late(now)), {request.request_id})
            signed = talker.request(DOWN, request.request_id)[1]
            assert standing(taker, signed, now) == "new"
        old.append(signed)


def test_what_was_taken_in_a_batch_that_failed_is_taken_again():
    batch, (request, signed) = Batch(), asker().request(DOWN)
    taker = Answerer(KEY, lambda: EPOCH, 0.0, BatchDict(batch))
    taker.open(NOW)
    assert taker.take(signed, NOW) == (request, "new")
    batch.undo()
    batch.begin()
    assert taker.take(signed, NOW) == (request, "new")
    batch.begin()
    batch.undo()
    assert taker.take(signed, NOW) == (request, "repeated")


def test_what_is_remembered_is_bounded_and_what_is_forgotten_is_late(monkeypatch):
    monkeypatch.setattr(dialogue, "TAKEN_MAX", 3)
    taker, talker = answerer(), asker()
    sent = []
    for second in range(10):
        talker._clock.now = NOW + second
        sent.append(talker.request(DOWN)[1])
        assert standing(taker, sent[-1], NOW + second) == "new"
        assert len(taker._taken) <= 3
    assert "new" not in {standing(taker, data, NOW + 10) for data in sent}
    for second in range(100, 2_000, 61):
        taker.take(asker(NOW + second).request(DOWN)[1], NOW + second)
    assert len(taker._taken) <= 2


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "replay", "wait", "set back", "restart"]), st.floats(0, 90)), max_size=40
    )
)
def test_whatever_happens_in_whatever_order_no_message_is_taken_twice(steps):
    """A store that is kept; the coordinator's clock jumps, the command line's is right or learns the time."""
    now, sent, taken, taker, starts = NOW, [], set(), answerer(), count(2)
    clock = Clock(now)
    talker = Asker(KEY, "cli.q.0", clock)

    def give(data):
        _, how = taker.take(data, now)
        assert how != "new" or data not in taken
        taken.update([data] if how == "new" else [])
        return how

    for what, amount in steps:
        match what:
            case "ask":
                request, signed = talker.request(DOWN)
                sent.append(signed)
                if give(signed) == "late":
                    talker.answer(taker.answer(request, taker.late(now)), {request.request_id})
                    sent.append(talker.request(DOWN, request.request_id)[1])
                    assert give(sent[-1]) == "new"
            case "replay" if sent:
                give(sent[int(amount) % len(sent)])
            case "wait":
                now, clock.now = now + amount, clock.now + amount
            case "set back":
                now -= amount
            case "restart":
                taker = answerer(now, epoch=next(starts).to_bytes(16), since=taker.latest)


# --- answers ---------------------------------------------------------------------------------------


def acknowledged(text):
    return Acknowledged(text=text)


def test_an_answer_is_to_its_request_and_an_older_one_is_none():
    talker, giver = asker(), answerer()
    request, _ = talker.request(NetworkRequest())
    first, second, third = (giver.answer(request, acknowledged(text)) for text in ("1", "2", "3"))
    asked = {request.request_id}
    assert talker.answer(second, asked).body.text == "2"
    assert talker.answer(first, asked) is None
    assert talker.answer(second, asked) is None
    assert talker.answer(third, asked).body.text == "3"


def test_answers_to_other_requests_are_none_and_leave_no_trace():
    talker, giver = asker(), answerer()
    before, _ = talker.request(NetworkRequest())
    request, _ = talker.request(NetworkRequest())
    strangers, _ = asker().request(NetworkRequest())
    mine = giver.answer(request, acknowledged("mine"))
    for other in (before, strangers):
        assert talker.answer(giver.answer(other, acknowledged("no")), {request.request_id}) is None
    assert talker.answer(mine, {request.request_id}).body.text == "mine"


def test_a_restarted_coordinator_goes_on_answering_and_what_it_said_before_is_old():
    talker, before, after = asker(), answerer(epoch=(1).to_bytes(16)), answerer(epoch=(2).to_bytes(16))
    request, _ = talker.request(NetworkRequest())
    old = [before.answer(request, acknowledged("old")) for _ in range(5)]
    assert talker.answer(old[0], {request.request_id}).body.text == "old"
    assert talker.answer(after.answer(request, acknowledged("new")), {request.request_id}).body.text == "new"
    assert [talker.answer(data, {request.request_id}) for data in old] == [None] * 5


@pytest.mark.parametrize(
    "change",
    [
        lambda data, request: codec.decode(data, SignedMessage).body,
        lambda data, request: changed(data, body=codec.encode(codec.decode(request, SignedMessage))),
        lambda data, request: changed(data, number=99),
        lambda data, request: changed(data, epoch=b"9" * 16),
        lambda data, request: changed(data, recipient="kme-1"),
        lambda data, request: request,
        lambda data, request: b"",
        lambda data, request: answerer(key=OTHER_KEY).answer(asker().request(DOWN)[0], acknowledged("")),
    ],
    ids=["stripped", "body", "number", "epoch", "recipient", "its own request", "nothing", "another key"],
)
def test_what_the_coordinator_did_not_sign_is_no_answer_and_keeps_no_true_one_out(change):
    talker, giver = asker(), answerer()
    request, signed = talker.request(DOWN)
    true = giver.answer(request, acknowledged("true"))
    with pytest.raises(ForgedMessageError):
        talker.answer(change(true, signed), {request.request_id})
    assert talker.answer(true, {request.request_id}).body.text == "true"


def test_what_is_signed_but_of_another_version_is_said_to_be():
    talker = asker()
    number = count()
    body = codec.encode(talker.request(DOWN)[0])
    message = SignedMessage(
        sender="coordinator", recipient="cli", epoch=EPOCH, number=next(number), body=body, mac=bytes(32)
    )
    mac = dialogue.signing._mac(KEY, message)
    with pytest.raises(MalformedMessageError):
        talker.answer(codec.encode(msgspec.structs.replace(message, mac=mac)), {uuid4()})
