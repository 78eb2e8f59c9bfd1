"""The coordinator's store: relays come back as they were, are told again with back-off, and are bounded."""

import math
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from uuid import UUID, uuid4

import pytest

from coordinator.lifecycle import Relay
from coordinator.store import dead_letters, open_coordinator_store, relays
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.reports import Dispute, Findings
from qkdrelay.service.journal import Journal
from qkdrelay.service.lru import LruCache
from qkdrelay.service.records import Column, Record
from support import plans
from support.kme import NOW, terms

ROUTE = ("kme-1", "kme-2", "kme-5", "kme-8")
FINDINGS = Findings(
    relay_id=UUID(int=1),
    false=(ROUTE,),
    disputed=(Dispute(("kme-1",), ((ROUTE,),)),),
    equivocating=(),
    unclear="exhausted",
)


def relay(plan=None, **changed):
    return Relay(
        **{"terms": terms(plan, relay_id=uuid4()), "policy": "p", "protected": True, "created_at": NOW, **changed}
    )


@pytest.fixture
def store():
    kept = open_coordinator_store(None)
    yield kept
    kept.journal.close()


def keep(store, *many, told=(), now=NOW):
    with store.journal.transaction():
        for each in many:
            store.relays.keep(each, now, told=told)


def due(store, kme, now):
    with store.journal.transaction():
        return [each.relay_id for each in store.relays.due_again(kme, now)]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"state": "started", "expected": True, "started": True},
        {"state": "confirmed", "ended_at": NOW + 1.5, "target_proof": b"t" * 16},
        {"state": "failed", "reason": "why: 'x'", "released": ("kme-1", "kme-8"), "findings": FINDINGS},
        {"released": ("kme-8",), "protected": False},
    ],
)
def test_a_relay_comes_back_as_it_was(store, changed):
    kept = relay(**changed)
    keep(store, kept)
    assert store.relays.get(kept.relay_id) == kept
    assert store.relays.latest(5, supply=True) == [kept]


def test_a_relay_is_as_it_was_kept_however_many_others_are_looked_at_before_the_commit(store, monkeypatch):
    monkeypatch.setattr(store.relays, "_cache", LruCache(3))
    decided, *others = [relay() for _ in range(5)]
    keep(store, decided, *others)
    with store.journal.transaction():
        store.relays.keep(replace(decided, state="failed", reason="why", ended_at=NOW), NOW, told=())
        for other in others:
            assert store.relays.get(other.relay_id) == other
        assert store.relays.get(decided.relay_id).state == "failed"


@pytest.mark.parametrize(("findings", "plan_bytes_max"), [(FINDINGS, relays.CACHED_PLAN_BYTES_MAX), (None, 100)])
def test_what_is_large_takes_no_memory_beside_the_store(store, monkeypatch, findings, plan_bytes_max):
    small = relay()
    keep(store, small)
    assert store.relays._cache.get(small.relay_id) == small
    monkeypatch.setattr(relays, "CACHED_PLAN_BYTES_MAX", plan_bytes_max)
    large = replace(small, findings=findings, reason="later")
    with store.journal.transaction():
        store.relays.keep(large, NOW, told=())
        assert store.relays.get(large.relay_id) == large
    assert store.relays.get(large.relay_id) == large
    assert store.relays._cache.get(large.relay_id) is None


def test_who_was_told_is_told_again_after_a_while_then_after_longer_ones(store):
    kept = relay()
    keep(store, kept, told=["kme-8"])
    times = [NOW + seconds for seconds in range(0, 3000, 1) if due(store, "kme-8", NOW + seconds)]
    pauses = [int(b - a) for a, b in zip([NOW, *times], times, strict=False)]
    assert pauses[:8] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert set(pauses[6:]) == {300}


def test_who_was_not_told_is_not_told_again(store):
    keep(store, relay(), told=["kme-8"])
    assert due(store, "kme-1", NOW + 1000) == []
    assert due(store, "kme-3", NOW + 1000) == []


def test_each_end_has_its_own_back_off(store):
    kept = relay()
    keep(store, kept, told=["kme-1", "kme-8"])
    assert due(store, "kme-1", NOW + 5) == [kept.relay_id]
    assert due(store, "kme-8", NOW + 5) == [kept.relay_id]


def test_who_has_answered_is_not_told_again(store):
    kept = relay()
    keep(store, kept, told=["kme-1", "kme-8"])
    keep(store, kept, told=["kme-8"], now=NOW + 1)
    assert due(store, "kme-1", NOW + 1000) == []
    assert due(store, "kme-8", NOW + 1000) == [kept.relay_id]


def test_relays_that_wait_for_a_kme_that_is_gone_keep_nobody_elses_out(store):
    gone = plans.closer("eight-kmes", "kme-1", "kme-7")
    keep(store, *(relay(gone) for _ in range(1_200)), told=["kme-7"])
    kept = relay()
    keep(store, kept, told=["kme-8"], now=NOW + 1)
    assert due(store, "kme-8", NOW + 10) == [kept.relay_id]
    assert len(due(store, "kme-7", NOW + 10)) == 1_000
    assert len(due(store, "kme-7", NOW + 10)) == 200


def test_what_is_overdue_are_undecided_relays_past_their_deadline(store):
    late, ended, early = relay(), relay(ended_at=NOW), relay()
    early = replace(early, terms=terms(relay_id=early.relay_id, deadline=NOW + 100))
    keep(store, late, ended, early)
    assert store.relays.overdue(NOW + 29.9) == []
    assert store.relays.overdue(NOW + 30) == [late]
    assert store.relays.undecided_count() == 2


def test_until_the_first_deadline_of_an_undecided_relay_nothing_is_overdue(store):
    late, early = relay(), relay()
    late = replace(late, terms=terms(relay_id=late.relay_id, deadline=NOW + 100))
    keep(store, late, early)
    assert store.relays.overdue(NOW) == []
    assert store.relays.wait_s(NOW) == 30
    keep(store, replace(early, state="confirmed", ended_at=NOW))
    assert store.relays.overdue(NOW + 30) == []
    assert store.relays.wait_s(NOW + 30) == 70
    with suppress(ZeroDivisionError), store.journal.transaction():
        store.relays.keep(relay(), NOW, told=())
        raise ZeroDivisionError
    assert store.relays.wait_s(NOW) == 100
    keep(store, replace(late, state="failed", ended_at=NOW))
    assert store.relays.overdue(NOW + 100) == []
    assert store.relays.wait_s(NOW + 100) == math.inf


def test_one_more_field_of_a_relay_is_kept_by_declaring_it_once():
    @dataclass(frozen=True, slots=True)
    class Noted(Relay):
        note: tuple[str, ...] = ()

    columns = (*relays.RELAY.columns, Column("note", "TEXT NOT NULL", " ".join, lambda it: tuple(it.split()), True))
    record = Record(Noted, *columns)
    journal = Journal(None, "coordinator", relays.schema(record))
    table = relays.RelayTable(journal, record)
    first = Noted(terms=terms(), policy="p", protected=True, created_at=NOW, note=("a", "b"))
    changed = replace(first, note=("c",), state="started", policy="another")
    for kept in (first, changed):
        with journal.transaction():
            table.keep(kept, NOW, told=())
    (read,) = table.latest(1, supply=True)
    assert read == replace(changed, policy="p")  # it is none of those that change


def test_no_field_of_a_relay_is_forgotten():
    assert set(relays.RELAY.names) == {field.name for field in fields(Relay)}


def test_a_store_has_the_columns_it_has_always_had(store):
    """Format 6: a store that an earlier version wrote is read."""
    columns = [row[1] for row in store.journal.connection.execute("PRAGMA table_info(relays)")]
    assert " ".join(columns) == (
        "relay_id terms policy protected relies_on created_at state reason ended_at expected started target_proof"
        " released findings source target supply deadline source_due target_due source_wait_s target_wait_s"
    )


def test_settled_relays_beyond_the_bound_are_forgotten_oldest_first_with_their_flow(store, monkeypatch):
    monkeypatch.setattr(relays, "RELAYS_MAX", 3)
    made = [relay(created_at=NOW + n, ended_at=NOW + n) for n in range(6)]
    keep(store, *made)
    with store.journal.transaction():
        for each in made:
            store.flow.add_step(each.relay_id, ROUTE, "collected")
            store.flow.add_stuck(each.relay_id, ROUTE[:2], "link.down")
        store.purge()
    assert store.relays.latest(9, supply=True) == made[:2:-1]
    assert [bool(store.flow.of(each.relay_id).collected) for each in made] == [False] * 3 + [True] * 3
    assert [bool(store.flow.of(each.relay_id).stuck) for each in made] == [False] * 3 + [True] * 3


def test_relays_of_supply_are_listed_to_who_asks_for_them_and_forgotten_first(store, monkeypatch):
    supply = Supply(until=NOW + 1, tag_pairs=1)
    made = [relay(created_at=NOW + n, ended_at=NOW + n) for n in range(6)]
    made[1::2] = [replace(each, terms=terms(relay_id=each.relay_id, supply=supply)) for each in made[1::2]]
    keep(store, *made)
    assert store.relays.latest(9, supply=False) == made[4::-2]
    assert store.relays.latest(4, supply=True) == made[:1:-1]
    assert (store.relays.count(supply=False), store.relays.count(supply=True)) == (3, 6)
    monkeypatch.setattr(relays, "RELAYS_MAX", 4)
    with store.journal.transaction():
        store.purge()
    assert store.relays.latest(9, supply=True) == [made[5], made[4], made[2], made[0]]


def test_relays_under_way_or_not_carried_out_are_never_forgotten(store, monkeypatch):
    monkeypatch.setattr(relays, "RELAYS_MAX", 1)
    under_way, untold, done = relay(), relay(ended_at=NOW), relay(ended_at=NOW, created_at=NOW + 5)
    keep(store, under_way)
    keep(store, untold, told=("kme-8",))
    keep(store, done)
    with store.journal.transaction():
        store.purge()
    assert {each.relay_id for each in store.relays.latest(9, supply=True)} == {under_way.relay_id, untold.relay_id}


def test_a_step_is_kept_once_and_ends_the_wait_for_its_share(store):
    relay_id = uuid4()
    with store.journal.transaction():
        store.flow.add_stuck(relay_id, ROUTE[:2], "link.down")
        store.flow.add_stuck(relay_id, ROUTE[:2], "link.key_exhausted")
        store.flow.add_stuck(relay_id, ROUTE[:3], "link.down")
        store.flow.add_step(relay_id, ROUTE[:2], "split")
        store.flow.add_step(relay_id, ROUTE[:2], "split")
        store.flow.add_step(relay_id, ROUTE, "collected")
    flow = store.flow.of(relay_id)
    assert (flow.split, flow.collected, flow.forwarded) == ((ROUTE[:2],), (ROUTE,), ())
    assert flow.stuck == ((ROUTE[:3], "link.down"),)


def test_the_latest_reason_for_a_wait_counts(store):
    relay_id = uuid4()
    with store.journal.transaction():
        store.flow.add_stuck(relay_id, ROUTE[:2], "link.down")
        store.flow.add_stuck(relay_id, ROUTE[:2], "link.key_exhausted")
    assert store.flow.of(relay_id).stuck == ((ROUTE[:2], "link.key_exhausted"),)


def test_dead_letters_are_bounded_the_newest_stay(store, monkeypatch):
    monkeypatch.setattr(dead_letters, "DEAD_LETTERS_MAX", 3)
    with store.journal.transaction():
        for n in range(10):
            store.dead_letters.add(NOW, "kme-1", "queue", f"reason {n}", b"body")
    assert [letter.reason for letter in store.dead_letters.latest()] == ["reason 9", "reason 8", "reason 7"]


def test_who_floods_with_dead_letters_drives_out_nobody_elses(store, monkeypatch):
    monkeypatch.setattr(dead_letters, "DEAD_LETTERS_MAX", 5)
    with store.journal.transaction():
        for n in range(2):
            store.dead_letters.add(NOW, "kme-1", "queue", f"honest {n}", b"body")
        for n in range(10):
            store.dead_letters.add(NOW, "kme-2", "queue", f"flood {n}", b"body")
    said = [letter.reason for letter in store.dead_letters.latest()]
    assert said == ["flood 9", "flood 8", "flood 7", "honest 1", "honest 0"]


def test_relays_are_found_by_the_beginning_of_their_id(store):
    one, other = relay(), relay()
    keep(store, one, other)
    assert store.relays.named(one.relay_id.hex, 2) == [one.relay_id]
    assert store.relays.named(one.relay_id.hex[:12], 2) == [one.relay_id]
    assert set(store.relays.named("", 5)) == {one.relay_id, other.relay_id}
