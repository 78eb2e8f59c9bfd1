"""Messages of a later protocol version wait for one who knows it; all others are handled as they come."""

from collections import deque
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from qkdrelay.broker.names import (
    DEAD_LETTERS_QUEUE,
    LEAD_QUEUE,
    LEAKS_QUEUE,
    control_queue,
    link_queue,
    requests_queue,
    results_queue,
)
from qkdrelay.broker.port import Delivery, Received, SiteState
from qkdrelay.messages.codec import VERSION
from qkdrelay.network.names import CLI, CLIENTS
from qkdrelay.service import reception as module
from qkdrelay.service.moderation import LINES_MAX, WINDOW_S
from qkdrelay.service.reception import HELD_S_MAX, Reception
from support.fuzzing import fuzzed
from support.slow_msgpack import packed

LINK, OTHER = link_queue("kme-1", "kme-2"), link_queue("kme-3", "kme-2")
LATER, OWN, EARLIER = (packed({"v": VERSION + step, "x": b"..."}) for step in (1, 0, -1))
HELD = (LINK, control_queue("kme-2"), results_queue("kme-1"))
NOT_HELD = (
    *map(requests_queue, CLIENTS),
    DEAD_LETTERS_QUEUE,
    LEAKS_QUEUE,
    LEAD_QUEUE,
    f"{CLI}.q.1",
    "link.a",
    "results",
)


class Fake:
    """A broker that brings what a test puts into it."""

    def __init__(self):
        self.coming, self.lost, self.waited, self.numbers = deque(), set(), [], 0
        self.sites = {}

    def bring(self, queue, body, times=1, site=""):
        for _ in range(times):
            self.numbers += 1
            self.coming.append(Delivery(queue, "x", queue, body, redelivered=False, token=(1, self.numbers), site=site))

    def receive(self, limit, timeout_s, resting=()):
        self.waited.append(timeout_s)
        taken = [self.coming.popleft() for _ in range(min(limit, len(self.coming)))]
        returned, self.lost = self.lost, set()
        state = {"connected": True, "generation": 1, "publishing": 1, "sites": self.sites}
        return Received(taken, [7], returned=returned, **state)


@pytest.fixture
def now(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def broker():
    return Fake()


@pytest.fixture
def reception(broker):
    return Reception(broker)


def received(reception, limit=200, resting=()):
    """The tokens of what is to be handled now."""
    return [delivery.token[1] for delivery in reception.receive(limit, 9.0, resting).deliveries]


@pytest.mark.parametrize("queue", HELD)
def test_a_message_of_a_later_version_waits_while_others_of_its_queue_go_on(now, broker, reception, queue):
    for body in (OWN, LATER, EARLIER, LATER, b"noise", b""):
        broker.bring(queue, body)
    assert received(reception) == [1, 3, 5, 6]
    assert reception.counts() == {queue: 2}
    assert received(reception) == []


@pytest.mark.parametrize("queue", NOT_HELD)
def test_what_is_not_between_services_is_refused_at_once(now, broker, reception, queue):
    broker.bring(queue, LATER)
    assert received(reception) == [1]
    assert (reception.counts(), reception.remark) == ({}, "")


def test_what_has_waited_long_enough_is_handled_once_and_in_its_order(now, broker, reception):
    broker.bring(LINK, LATER, 2)
    received(reception)
    now[0] += 1.0
    broker.bring(LINK, LATER)
    received(reception)
    now[0] += HELD_S_MAX - 1.01
    assert received(reception) == []
    now[0] += 0.02
    assert received(reception) == [1, 2]
    assert reception.counts() == {LINK: 1}
    now[0] += 1.0
    assert received(reception) == [3]
    assert (reception.counts(), reception.remark) == ({LINK: 0}, "")
    now[0] += 2 * HELD_S_MAX
    assert received(reception) == []


def test_so_many_bytes_may_pass_one_that_waits_and_the_broker_keeps_no_more(now, broker, reception, monkeypatch):
    monkeypatch.setattr(module, "PASSED_BYTES_MAX", 100_000)
    others = 100_000 // (1_000 + module._OVERHEAD_BYTES)
    broker.bring(LINK, bytes(1_000), 3)
    broker.bring(LINK, LATER)
    broker.bring(LINK, bytes(1_000), others // 2)
    broker.bring(LINK, LATER)
    broker.bring(OTHER, LATER)
    broker.bring(OTHER, bytes(50_000))
    broker.bring(LINK, bytes(1_000), others - others // 2)
    received(reception)
    assert reception.counts() == {LINK: 2, OTHER: 1}
    broker.bring(LINK, b"")
    broker.bring(LINK, bytes(1_000))
    assert received(reception)[-1] == 4
    assert reception.counts() == {LINK: 1, OTHER: 1}
    broker.bring(LINK, bytes(1_000), others)
    assert received(reception)[-1] == 4 + others // 2 + 1
    assert reception.counts() == {LINK: 0, OTHER: 1}
    broker.bring(LINK, bytes(1_000), 10 * others)
    broker.bring(LINK, LATER)
    received(reception, 1_000)
    assert reception.counts() == {LINK: 1, OTHER: 1}


def test_what_has_waited_long_enough_has_its_turn_among_others_and_not_before_there_is_room(now, broker, reception):
    broker.bring(LINK, LATER, 5)
    broker.bring(OTHER, LATER, 2)
    received(reception)
    now[0] += HELD_S_MAX
    assert received(reception, limit=0) == []
    broker.bring(OTHER, OWN, 2)
    assert received(reception, limit=2) == [8, 9, 1, 6]
    assert received(reception, resting={LINK}) == [7]
    assert received(reception, resting={LINK}) == []
    assert received(reception) == [2, 3, 4, 5]


def test_the_wait_for_more_is_short_while_something_is_left_that_may_be_handled(now, broker, reception):
    broker.bring(LINK, LATER, 3)
    received(reception)
    now[0] += HELD_S_MAX
    received(reception, limit=1)
    received(reception, limit=0)
    received(reception, resting={LINK})
    received(reception)
    received(reception)
    assert broker.waited == [9.0, 9.0, 9.0, 9.0, 0.0, 9.0]


@pytest.mark.parametrize("overdue", [False, True])
def test_what_the_broker_has_back_is_not_handled_and_comes_again(now, broker, reception, overdue):
    broker.bring(LINK, LATER, 2)
    broker.bring(LINK, LATER, site="berlin")
    received(reception)
    if overdue:
        now[0] += HELD_S_MAX
        received(reception, limit=0)
    broker.lost = {LINK, OTHER}
    broker.bring(LINK, LATER, 2)
    handled = received(reception)
    assert handled == ([3] if overdue else [])
    assert reception.counts() == {LINK: 2, f"{LINK} at berlin": 0 if overdue else 1}
    now[0] += HELD_S_MAX
    assert sorted(handled + received(reception)) == [3, 4, 5]
    assert reception.counts() == {LINK: 0, f"{LINK} at berlin": 0}


def test_all_else_that_the_broker_says_is_handed_on(now, broker, reception):
    broker.bring(LINK, LATER)
    said = reception.receive(200, 9.0, ())
    assert (said.confirmed, said.connected, said.generation, said.publishing) == ([7], True, 1, 1)
    assert reception.seen.connected


def test_what_waits_is_named_with_the_version_it_is_of(now, broker, reception):
    broker.sites = {"munich": SiteState(away="no answer")}
    away = "site munich cannot be read: no answer"
    received(reception)
    assert reception.remark == away
    broker.bring(LINK, LATER, 3, site="berlin")
    received(reception)
    waits = f"messages of protocol version {VERSION + 1} wait in {LINK} at berlin: this is version {VERSION}; upgrade"
    assert reception.remark == f"{away}; {waits}"
    broker.sites = {}
    broker.bring(OTHER, packed({"v": 99}))
    received(reception)
    assert reception.remark.startswith(f"messages of protocol version 99 wait in {LINK} at berlin, {OTHER}: this")
    for number in range(20):
        broker.bring(results_queue(f"kme-{number}"), LATER)
    received(reception)
    assert "results.kme-2 and 17 more queues: this is" in reception.remark
    broker.lost = set(reception.counts())
    broker.bring(OTHER, LATER)
    received(reception)
    assert reception.remark == waits.replace(f"{LINK} at berlin", OTHER)


def test_the_first_of_each_queue_are_logged_and_the_rest_counted(now, broker, reception):
    with capture_logs() as lines:
        broker.bring(LINK, LATER, LINES_MAX + 40, site="berlin")
        broker.bring(OTHER, LATER)
        received(reception)
        now[0] += WINDOW_S
        received(reception)
    *said, last, left_out = lines
    event = {"event": "message.of_later_version", "log_level": "warning"}
    versions = {"version": VERSION + 1, "own_version": VERSION}
    assert said == [{**event, **versions, "queue": f"{LINK} at berlin"}] * LINES_MAX
    assert last == {**event, **versions, "queue": OTHER}
    assert (left_out["event"], left_out["lines"], left_out["queue"]) == ("log.left_out", 40, f"{LINK} at berlin")


LINKS = st.sampled_from([LINK, OTHER])
BROUGHT = st.lists(st.tuples(LINKS | st.just(requests_queue(CLI)), st.sampled_from([LATER, OWN])), max_size=6)
PASSED_S = st.sampled_from([0.0, 1.0, HELD_S_MAX / 2, HELD_S_MAX])
TURNS = st.lists(
    st.tuples(BROUGHT, st.sets(LINKS, max_size=1), PASSED_S, st.integers(0, 8), st.sets(LINKS, max_size=1)),
    max_size=12,
)


@fuzzed(300)
@given(TURNS)
def test_each_is_handled_once_unless_it_went_back_and_a_later_one_not_before_its_time(turns):
    now, broker, waiting, handled = [0.0], Fake(), {}, []
    reception = Reception(broker)

    def turn(limit, resting):
        before = list(broker.coming)[:limit]
        waits = [each for each in before if each.body == LATER and each.queue != requests_queue(CLI)]
        waiting.update({each.token: (each.queue, now[0]) for each in waits})
        at_once = [each.token for each in before if each not in waits]
        overdue = [each.token for each in reception.receive(limit, 0.0, resting).deliveries]
        handled.extend(overdue)
        assert overdue[: len(at_once)] == at_once
        for token in overdue[len(at_once) :]:
            queue, since = waiting.pop(token)
            assert now[0] - since >= HELD_S_MAX
            assert queue not in resting

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
        for brought, lost, passed_s, limit, resting in turns:
            broker.lost = lost
            for token in [token for token, (queue, _) in waiting.items() if queue in lost]:
                del waiting[token]
            for queue, body in brought:
                broker.bring(queue, body)
            turn(limit, resting)
            now[0] += passed_s
        for _ in range(2):
            turn(1_000, ())
            now[0] += HELD_S_MAX
        assert (broker.coming, waiting, len(set(handled))) == (deque(), {}, len(handled))
        assert sum(reception.counts().values()) == 0
