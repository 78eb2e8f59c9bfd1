"""Work from other threads: done in the service's thread and transaction, answered after the commit."""

import threading
from concurrent.futures import CancelledError

import pytest

from qkdrelay.broker.memory import MemoryBroker, MemoryHub
from qkdrelay.broker.port import Received
from qkdrelay.errors import StoreError
from qkdrelay.service import mailbox as module
from qkdrelay.service.journal import Journal
from qkdrelay.service.loop import Loop
from qkdrelay.service.mailbox import MailboxFullError
from qkdrelay.service.metrics import Metrics
from qkdrelay.service.process import StopRequest
from support.waiting import eventually

NOW = 1_700_000_000.0


class Idle:
    """A service that has nothing to do of its own, and counts its turns."""

    def __init__(self):
        self.journal, self.metrics, self.turns, self.wait = Journal(None, "idle", ""), Metrics(), 0, 3600.0

    def tick(self, now, *, connected, reconnected, away):
        self.turns += 1

    def wait_s(self, now):
        return self.wait

    def start(self, now): ...
    def committed(self): ...
    def measure(self): ...


class Quiet:
    """A broker from which nothing comes."""

    def receive(self, limit, timeout_s, resting=()):
        return Received([], [], connected=True, generation=1, publishing=1)

    def start(self): ...
    def wake(self): ...
    def publish(self, publications): ...


@pytest.fixture
def loop():
    return Loop(Idle(), Quiet(), clock=lambda: NOW)


def test_work_is_answered_after_the_commit_and_what_it_wrote_is_there(loop):
    seen = []

    def work(now):
        loop.journal.meta.set("posted", b"1")
        seen.append(answer.done())
        return now

    answer = loop.mailbox.post(work)
    assert not answer.done()
    loop.step(0.0)
    assert (answer.result(0), seen) == (NOW, [False])
    assert loop.journal.meta.get("posted") == b"1"


def test_work_in_a_batch_that_somebody_else_fails_is_done_again_and_answered_once(loop):
    calls, fails = [], [ZeroDivisionError()]

    def tick(now, *, connected, reconnected, away):
        if fails:
            raise fails.pop(0)

    loop.service.tick = tick
    answer = loop.mailbox.post(lambda now: calls.append(now) or len(calls))
    loop.step(0.0)
    assert answer.result(0) == len(calls) == 2


@pytest.mark.parametrize("error", [StoreError("the disk is full"), ZeroDivisionError()])
def test_work_that_cannot_be_committed_is_not_done_later_and_says_why(loop, error):
    """A key must not be given out hours later to somebody who has gone."""
    calls = []

    def tick(now, *, connected, reconnected, away):
        raise error

    honest, loop.service.tick = loop.service.tick, tick
    answer = loop.mailbox.post(calls.append)
    with pytest.raises(type(error)):
        loop.step(0.0)
    assert answer.exception(0) is error
    loop.service.tick = honest
    done = len(calls)
    loop.step(0.0)
    assert len(calls) == done


def test_work_that_breaks_on_the_store_stops_nobody_else(loop):
    def damaged(now):
        raise StoreError("a row is damaged")

    broken = loop.mailbox.post(damaged)
    with pytest.raises(StoreError):
        loop.step(0.0)
    assert isinstance(broken.exception(0), StoreError)
    after = loop.mailbox.post(lambda now: "after")
    loop.step(0.0)
    assert after.result(0) == "after"


def test_work_that_fails_by_itself_says_why_and_takes_nobody_with_it(loop):
    def fails(now):
        loop.journal.meta.set("half", b"1")
        raise ZeroDivisionError

    before, bad, after = (loop.mailbox.post(work) for work in (lambda now: "before", fails, lambda now: "after"))
    loop.step(0.0)
    assert (before.result(0), after.result(0)) == ("before", "after")
    with pytest.raises(ZeroDivisionError):
        bad.result(0)
    assert loop.journal.meta.get("half") is None


def test_work_that_was_given_up_is_not_done(loop):
    done = []
    answer = loop.mailbox.post(done.append)
    assert answer.cancel()
    loop.step(0.0)
    assert done == []
    with pytest.raises(CancelledError):
        answer.result(0)


def test_work_that_is_committed_is_not_done_again_whatever_fails_after_that(loop):
    calls, fails = [], [ZeroDivisionError()]

    def committed():
        if fails:
            raise fails.pop(0)

    loop.service.committed = committed
    answer = loop.mailbox.post(lambda now: calls.append(now) or len(calls))
    loop.step(0.0)
    assert (answer.result(0), len(calls), fails) == (1, 1, [])


def test_at_the_end_nobody_is_left_waiting(loop):
    def full():
        raise StoreError("the disk is full")

    loop.broker.close = lambda timeout_s: None
    transaction, loop.journal.transaction = loop.journal.transaction, full
    taken = loop.mailbox.post(lambda now: None)
    with pytest.raises(StoreError):
        loop.step(0.0)
    waiting = loop.mailbox.post(lambda now: None)
    loop.journal.transaction = transaction
    loop.close()
    late = loop.mailbox.post(lambda now: None)
    for answer in (taken, waiting, late):
        with pytest.raises(CancelledError):
            answer.result(0)


def test_no_more_work_waits_than_there_is_room_for(loop, monkeypatch):
    answers = [loop.mailbox.post(lambda now: None) for _ in range(module.POSTS_MAX)]
    with pytest.raises(MailboxFullError, match="1000 pieces of work"):
        loop.mailbox.post(lambda now: None)
    while any(not answer.done() for answer in answers):
        loop.step(0.0)
    assert loop.service.turns == -(-module.POSTS_MAX // 32)


def test_a_loop_that_waits_for_an_hour_is_woken_by_work_by_its_timer_and_by_its_end():
    hub = MemoryHub({"exchanges": [], "queues": [], "bindings": [], "permissions": [], "users": [], "policies": []})
    made, stop = [], StopRequest()

    def run():
        made.append(Loop(Idle(), MemoryBroker(hub, "idle"), gather_s=3600.0))
        made[0].run(stop)

    thread = threading.Thread(target=run)
    thread.start()
    loop = eventually(lambda: made and made[0])
    answer = loop.mailbox.post(lambda now: "woken")
    assert answer.result(60) == "woken"
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
