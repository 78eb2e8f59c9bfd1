"""How much of a turn rebuilding takes, whose turn it is, and what one relay's searches may take in all."""

import os
from types import SimpleNamespace
from uuid import uuid4

import pytest

from kme import searches
from kme.rebuild_queue import SLICE_WORK, TURN_WORK, RebuildQueue
from qkdrelay.errors import StoreError
from qkdrelay.messages.control import Expect
from qkdrelay.messages.reports import Findings
from qkdrelay.schemes import recursive
from qkdrelay.service.batch import Batch
from qkdrelay.sharing.work import Budget, attempt
from support.kme import RELAY, Kme, terms, told
from support.plans import fan
from support.work import counted, note_rebuilding


class Rebuilder:
    """Relays that take so much work each; what is begun is kept for one, if it is to be kept."""

    def __init__(self):
        self.takes, self.begun, self.calls, self.failing = {}, (None, 0), [], None

    def is_urgent(self, relay_id, _memory, *, calm):
        return True

    def try_rebuild(self, relay_id, _memory, turn, *, keep):
        if relay_id == self.failing:
            raise self.error("this one")
        done = self.begun[1] if self.begun[0] == relay_id else 0
        part = min(turn.left, self.takes[relay_id] - done)
        turn.left -= part
        self.calls.append((relay_id, part))
        if done + part == self.takes[relay_id]:
            return [relay_id]
        if keep:
            self.begun = relay_id, done + part
        return None


class Store:
    def __init__(self):
        self.journal, self.shares = SimpleNamespace(batch=Batch()), self

    def relays_with(self, _limit):
        return []


class Turns:
    """A `RebuildQueue` and its turns."""

    def __init__(self):
        self.rebuilder = Rebuilder()
        store = Store()
        self.queue, self.done, self.batch = RebuildQueue(self.rebuilder, store), [], store.journal.batch

    def ask(self, *works):
        ids = [uuid4() for _ in works]
        for relay_id, work in zip(ids, works, strict=True):
            self.rebuilder.takes[relay_id] = work
            self.queue.ask(relay_id)
        return ids

    def turn(self, messages=1):
        self.rebuilder.calls.clear()
        for effects in self.queue.turn(0.0, messages=messages, size=0):
            self.done += effects
        self.batch.end()
        return sum(work for _, work in self.rebuilder.calls)


def test_a_turn_ends_when_its_work_is_done_and_the_rest_is_for_the_next_ones():
    turns = Turns()
    ids = turns.ask(*[SLICE_WORK // 2] * 30)
    works = []
    while turns.queue.unfinished or not works:
        works.append(turns.turn())
    assert turns.done == ids
    assert max(works) <= TURN_WORK + SLICE_WORK
    assert len(works) == 8


def test_what_takes_long_gets_one_part_of_each_turn_and_what_comes_meanwhile_does_not_wait():
    turns = Turns()
    long = turns.ask(10 * SLICE_WORK, 3 * SLICE_WORK, 100 * SLICE_WORK)
    assert turns.turn() <= TURN_WORK
    assert turns.turn() <= TURN_WORK
    count = 0
    while turns.queue.unfinished:
        count += 1
        quick = turns.ask(1000, 2000)
        assert turns.turn() <= SLICE_WORK + 3000
        assert set(quick) <= set(turns.done)
    # The first one had two parts by then; the others, of which nothing was kept, begin from the start.
    assert count == 8 + 3 + 100
    assert [relay_id for relay_id in turns.done if relay_id in long] == long


def test_what_is_rolled_back_is_tried_again_and_what_fails_by_itself_is_not():
    turns = Turns()
    *before, good, bad = turns.ask(*[SLICE_WORK] * (TURN_WORK // SLICE_WORK), 10, 10)
    turns.turn()
    assert turns.done == before
    assert turns.queue.unfinished
    turns.batch.begin()
    assert [*turns.queue.turn(0.0, messages=1, size=0)] == [[good], [bad]]
    assert not turns.queue.unfinished
    turns.batch.undo()
    assert turns.queue.unfinished
    for error in (StoreError, ZeroDivisionError):
        turns.rebuilder.failing, turns.rebuilder.error = bad, error
        turns.batch.begin()
        with pytest.raises(error):
            [*turns.queue.turn(0.0, messages=0, size=0)]
        turns.batch.undo()
        assert turns.queue.unfinished
    turns.rebuilder.failing = None
    turns.turn()
    assert turns.done == [*before, good]
    assert not turns.queue.unfinished


# --- one relay ---------------------------------------------------------------------------------------


SEARCH = 100 * attempt(10, 128)
PLAN = fan(18, 10)
WAYS = tuple(PLAN.routes())


@pytest.fixture
def begun(monkeypatch):
    """Gets the work of each rebuild that is begun; each may search a little, and a relay four times as much."""
    works = []
    note_rebuilding(monkeypatch, works, begun=lambda: works.append(0))
    monkeypatch.setattr(recursive, "SEARCH_MAX", SEARCH)
    monkeypatch.setattr(searches, "RELAY_SEARCH_MAX", 4 * SEARCH)
    return works


def target():
    kme = Kme("t", PLAN)
    kme.command(Expect(terms=terms(PLAN)))
    return kme


def test_shares_that_come_late_buy_no_further_search(begun):
    kme = target()
    for route in WAYS:
        kme.share(route, os.urandom(128))
        kme.try_rebuild()
    assert len(begun) == 18 - 10 + 1
    held = kme.memory.of(RELAY)
    rest = counted(PLAN, held, 96, search=0)[1]
    assert sum(begun) <= len(begun) * rest + 5 * SEARCH
    assert max(begun) <= rest + 2 * SEARCH
    assert kme.relay.findings.unclear == "exhausted"


def test_shares_that_come_twice_and_differ_buy_none_at_all(begun):
    kme = target()
    for route in WAYS:
        kme.share(route, os.urandom(128))
    kme.try_rebuild()
    assert len(begun) == 1
    for number, route in enumerate(WAYS, start=1):
        kme.share(route, os.urandom(128))
        (findings,) = told(kme.try_rebuild())
        assert isinstance(findings, Findings)
        assert len(findings.equivocating) == number
    assert len(begun) == 1


def test_good_shares_that_come_after_a_budget_is_used_up_are_decoded_all_the_same(begun):
    kme, payload = target(), os.urandom(96)
    shares = dict(recursive.deal(PLAN, payload, os.urandom))
    bad = WAYS[:4]
    for route in (*bad, *WAYS[4:]):
        kme.share(route, os.urandom(128) if route in bad else shares[route[1]])
        kme.try_rebuild()
    assert kme.relay.payload.to_bytes() == payload


def test_a_rebuild_goes_on_where_it_was_left_until_there_are_more_shares(begun):
    kme = target()
    for route in WAYS[:-1]:
        kme.share(route, os.urandom(128))
    part = Budget(SEARCH // 10)
    calls = 1
    while kme.endpoint.rebuilder.try_rebuild(RELAY, kme.memory, part, keep=True) is None:
        part.left = SEARCH // 10
        calls += 1
    assert len(begun) == 1
    assert calls >= 10
    part.left = SEARCH // 10
    kme.share(WAYS[-1], os.urandom(128))
    assert kme.endpoint.rebuilder.try_rebuild(RELAY, kme.memory, part, keep=True) is None
    assert len(begun) == 2
