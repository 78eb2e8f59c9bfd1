"""A batch is committed when it has taken long enough; what is left over is handled next, in order, once."""

from contextlib import contextmanager

import pytest

from qkdrelay.broker.names import link_queue
from qkdrelay.broker.port import Delivery, Received
from qkdrelay.errors import StoreError
from qkdrelay.service import loop as module
from qkdrelay.service.loop import Loop
from support.network import REFERENCE, Network


class Fake:
    """A broker that delivers once, and notes what is acknowledged."""

    def __init__(self, deliveries):
        self.deliveries, self.acknowledged, self.published, self.waited = deliveries, [], [], []
        self.resting, self.publishing = [], 1
        self.most = 200

    def receive(self, limit, timeout_s, resting=()):
        self.waited.append(timeout_s)
        self.resting.append(set(resting))
        limit = min(limit, self.most)
        taken, self.deliveries = self.deliveries[:limit], self.deliveries[limit:]
        return Received(taken, [], connected=True, generation=1, publishing=self.publishing)

    def start(self): ...
    def wake(self): ...

    def acknowledge(self, deliveries):
        self.acknowledged.append([delivery.token[1] for delivery in deliveries])

    def publish(self, publications):
        self.published.append([publication.routing_key for publication in publications])

    def close(self, timeout_s):
        self.closed = True


def test_a_batch_that_takes_too_long_is_committed_before_it_is_all_handled(monkeypatch):
    now = 0.0

    def clock():
        nonlocal now
        now += 1.0
        return now

    monkeypatch.setattr(module.time, "perf_counter", clock)
    inner = Network(REFERENCE).service("kme-8")
    handled = []
    inner.handle = lambda delivery, now: handled.append(delivery.token[1]) is None
    queue = link_queue("kme-5", "kme-8")
    broker = Fake([Delivery(queue, "x", queue, b"", redelivered=False, token=(1, n)) for n in range(8)])
    loop = Loop(inner, broker, batch_s=2.5)
    while loop.step(0.0):
        pass
    assert handled == list(range(8))
    assert [tags for tags in broker.acknowledged if tags] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def gathering(monkeypatch, batches):
    """A loop that gathers for 0.05 s and its clock: in each batch one message comes, and the next ``batches`` leave."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    inner = Network(REFERENCE).service("kme-8")
    queue = link_queue("kme-5", "kme-8")
    broker = Fake([Delivery(queue, "x", queue, b"", redelivered=False, token=(1, n)) for n in range(len(batches))])
    broker.most = 1
    left = iter(batches)
    inner.tick = lambda now, *, connected, reconnected, away: None

    def handle(_delivery, _now):
        for key in next(left):
            inner.journal.outbox.put("x", key, b"", urgent=key.startswith("now"))
        return True

    inner.handle = handle
    return Loop(inner, broker, gather_s=0.05), broker, now


def test_what_is_not_urgent_leaves_a_moment_later_together(monkeypatch):
    loop, broker, now = gathering(monkeypatch, [["later 1", "now 1"], ["later 2"], ["now 2"], [], ["later 3"]])
    loop.start()
    broker.published.clear()
    for _ in range(3):
        loop.step(1.0)
        now[0] += 0.02
    assert broker.published == [["now 1"], ["now 2"]]
    assert broker.acknowledged == []
    loop.step(1.0)
    assert broker.published == [["now 1"], ["now 2"], ["later 1", "later 2"]]
    assert broker.acknowledged == [[0, 1, 2]]
    loop.step(1.0)
    now[0] += 0.04
    loop.step(1.0)
    assert [round(wait, 2) for wait in broker.waited] == [1.0, 0.03, 0.01, 0.0, 0.05, 0.01]
    assert loop.step(1.0) is False
    now[0] += 0.02
    loop.step(1.0)
    assert broker.published[3:] == [["later 3"]]
    assert broker.acknowledged[1:] == [[3, 4]]


def test_for_one_queue_all_leaves_in_its_order(monkeypatch):
    """What a report says may be out of date with the next: the last one counts."""
    loop, broker, _ = gathering(monkeypatch, [["later 1"], ["later 2"], ["later 3"], ["later 4"]])
    loop.start()
    broker.published.clear()
    enqueue = loop.journal.outbox.put
    loop.journal.outbox.put = lambda exchange, key, body, urgent: enqueue(
        exchange, "reports" if key != "later 2" else key, key.encode(), urgent=key == "later 3"
    )
    sent = []
    broker.publish = lambda publications: sent.append([publication.body for publication in publications])
    for _ in range(4):
        loop.step(1.0)
    assert sent == [[b"later 1", b"later 3"]]
    loop.close()
    assert sent[1:] == [[b"later 2", b"later 4"]]


def test_under_load_acknowledgements_do_not_wait(monkeypatch):
    loop, broker, _ = gathering(monkeypatch, [[]] * 100)
    broker.most = 20
    for _ in range(5):
        loop.step(1.0)
    assert [len(tags) for tags in broker.acknowledged] == [40, 40]


def test_a_turn_in_which_nothing_can_happen_is_left_out(monkeypatch):
    loop, _, now = gathering(monkeypatch, [["now 1"]])
    turns = []
    loop.service.tick = lambda *_, **__: turns.append(now[0])
    loop.step(1.0)
    loop.step(1.0)
    assert len(turns) == 1
    now[0] += 0.06
    loop.step(1.0)
    assert len(turns) == 2


def test_who_is_woken_has_a_turn_at_once(monkeypatch):
    loop, _, now = gathering(monkeypatch, [["now 1"]])
    turns = []
    loop.service.tick = lambda *_, **__: turns.append(now[0])
    for _ in range(2):
        loop.step(1.0)
    assert len(turns) == 1
    loop.wake()
    for _ in range(2):
        loop.step(1.0)
    assert len(turns) == 2


def test_while_something_may_wait_for_room_no_turn_is_left_out(monkeypatch):
    loop, _, now = gathering(monkeypatch, [["now"] * 65])
    turns = []
    loop.service.tick = lambda *_, **__: turns.append(now[0])
    for _ in range(3):
        loop.step(1.0)
    assert len(turns) == 3


def test_what_was_gathered_leaves_before_the_end(monkeypatch):
    loop, broker, _ = gathering(monkeypatch, [["later 1"]])
    loop.start()
    broker.published.clear()
    loop.step(1.0)
    assert broker.published == []
    loop.close()
    assert broker.published == [["later 1"]]
    assert broker.acknowledged == [[0]]
    assert broker.closed


def test_what_was_committed_leaves_though_the_store_takes_nothing_more(monkeypatch):
    loop, broker, now = gathering(monkeypatch, [["later 1"], []])
    loop.start()
    broker.published.clear()
    loop.step(1.0)

    def full():
        raise StoreError("full")

    loop.journal.transaction = full
    now[0] += 0.06
    with pytest.raises(StoreError):
        loop.step(1.0)
    assert (broker.published, broker.acknowledged) == ([["later 1"]], [[0]])


def test_a_queue_that_brings_only_what_is_refused_rests_and_the_wait_ends_with_its_rest(monkeypatch):
    loop, broker, _ = gathering(monkeypatch, [[]] * 40)
    loop.service.handle = lambda delivery, _now: False
    broker.most = 20
    loop.step(1.0)
    loop.step(1.0)
    assert broker.resting == [set(), {link_queue("kme-5", "kme-8")}]
    assert 0.0 < broker.waited[1] < 0.2


def test_what_this_program_fails_on_counts_as_refused(monkeypatch):
    loop, broker, _ = gathering(monkeypatch, [[]] * 20)

    def fails(_delivery, _now):
        raise ZeroDivisionError

    loop.service.handle, broker.most = fails, 20
    loop.step(1.0)
    loop.step(1.0)
    assert broker.resting[1] == {link_queue("kme-5", "kme-8")}


def test_messages_that_leave_on_another_connection_have_another_epoch(monkeypatch):
    loop, broker, _ = gathering(monkeypatch, [["now 1"], ["now 2"], ["now 3"]])
    epochs = []
    inner = loop.service.handle
    loop.service.handle = lambda delivery, now: epochs.append(loop.journal.numbers.epoch) or inner(delivery, now)
    for publishing in (1, 1, 2):
        broker.publishing = publishing
        loop.step(1.0)
    assert epochs[0] == epochs[1] != epochs[2]


def test_what_fails_after_the_commit_leaves_nothing_behind_and_has_nothing_handled_again(monkeypatch):
    loop, broker, _ = gathering(monkeypatch, [["now 1"], ["now 2"]])
    inner, handled, told = loop.service.handle, [], []
    scratch = loop.journal.batch.scratch([])

    def handle(delivery, now):
        handled.append(delivery.token[1])
        scratch.append(delivery.token[1])
        return inner(delivery, now)

    def committed():
        told.append(tuple(scratch))
        if len(told) == 2:
            raise ZeroDivisionError

    loop.service.handle, loop.service.committed = handle, committed
    loop.start()
    told[:] = [()]
    loop.step(1.0)
    loop.step(1.0)
    assert handled == [0, 1]
    assert told == [(), (0,), (1,)]
    assert [keys for keys in broker.published if keys] == [["now 1"], ["now 2"]]


def test_what_a_start_finds_counts_once_however_often_it_is_tried(monkeypatch):
    loop, broker, _ = gathering(monkeypatch, [])
    outbox, tries, start = loop.journal.outbox, [], loop.service.start
    with loop.journal.transaction():
        outbox.put("x", "before", b"12345")
    outbox._fresh.clear()

    def starting(now):
        start(now)
        tries.append(now)
        outbox.put("x", "begun", b"1")

    loop.service.start = starting
    transaction = loop.journal.transaction

    @contextmanager
    def failing():
        with transaction():
            yield
            if len(tries) < 3:
                raise StoreError("full")

    loop.journal.transaction = failing
    for _ in range(2):
        with pytest.raises(StoreError):
            loop.start()
    loop.start()
    loop.step(0.0)
    assert [key for keys in broker.published for key in keys] == ["before", "begun"]
    assert outbox.backlog.by_queue() == {"before": (1, 5), "begun": (1, 1)}


def test_a_service_that_wants_a_turn_before_the_next_one_can_be_waits_for_it(monkeypatch):
    loop, broker, now = gathering(monkeypatch, [["now"]])
    loop.step(0.0)
    loop.step(0.0)
    now[0] += 0.01
    loop.step(0.0)
    assert broker.waited[-1] == pytest.approx(0.04)
