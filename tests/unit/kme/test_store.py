"""A KME's store: what is kept comes back as it was, and what is destroyed is nowhere."""

import os
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from uuid import uuid4

import pytest

from kme.effects import KeepShare, SendShare
from kme.keys import listed
from kme.model import LATE_S, SUPPLY_LATE_S, UNDECIDED_S, EndpointRelay
from kme.store import KmeStore, open_kme_store
from kme.store.relay_record import RELAY as RELAY_RECORD
from kme.store.relays import CACHED_BYTES_MAX, TOMBSTONE_S, Relays, schema
from qkdrelay.link.confirmation import Payload
from qkdrelay.messages.assignments import Supply
from qkdrelay.messages.reports import Dispute, Findings
from qkdrelay.service.journal import Journal
from qkdrelay.service.records import Column, Record
from support import plans
from support.kme import DEMAND, NOW, RELAY

PLAN = plans.eight()
ROUTE, OTHER = ("kme-1", "kme-3", "kme-5", "kme-8"), ("kme-1", "kme-2", "kme-5", "kme-8")
PAYLOAD = Payload(os.urandom(64), b"", os.urandom(32))
SUPPLY = Supply(until=NOW + 1e5, tag_pairs=2)
FINDINGS = Findings(
    relay_id=RELAY,
    false=(ROUTE,),
    disputed=(Dispute(split=("kme-1",), sets=((ROUTE,), (OTHER,))),),
    equivocating=(),
    unclear="",
)
EXPECTING = EndpointRelay(RELAY, "target", "expecting", PLAN, 2, 256, DEMAND, 1, NOW)
HELD = replace(EXPECTING, state="held", payload=PAYLOAD)
PENDING = replace(HELD, role="source", state="pending")
SHARE = SendShare(RELAY, ("kme-1", "kme-2"), PLAN.below("kme-2"), NOW + 30.0, os.urandom(160), 2, 3)


@pytest.fixture
def store():
    kept = open_kme_store(None, "kme-8")
    yield kept
    kept.journal.close()


def keep(store, *relays):
    with store.journal.transaction():
        for relay in relays:
            store.keep_relay(relay)


@pytest.mark.parametrize(
    "relay",
    [
        EXPECTING,
        PENDING,
        replace(PENDING, state="delivered"),
        HELD,
        replace(HELD, findings=FINDINGS, equivocating=(ROUTE, OTHER)),
        replace(HELD, payload=replace(PAYLOAD, tag_keys=os.urandom(128)), supply=SUPPLY),
        replace(EXPECTING, state="failed", deadline=NOW + 0.1),
    ],
)
def test_a_relay_comes_back_as_it_was(store, relay):
    keep(store, relay)
    assert store.relays.get(RELAY) == relay
    assert list(store.relays.latest()) == [relay] * (relay.supply is None)


def test_undecided_relays_and_bytes_of_keys_are_counted(store):
    states = ("expecting", "pending", "held", "delivered", "failed", "forgotten")
    keep(store, *(replace(PENDING, relay_id=uuid4(), state=state) for state in states))
    for counted in (store, KmeStore(store.journal)):
        assert counted.relays.pending() == 2
        assert counted.relays.key_bytes() == 3 * 64


def test_the_payload_of_pending_supply_is_in_memory_only_at_its_source(tmp_path):
    path, payload = tmp_path / "kme.sqlite", Payload(os.urandom(64), os.urandom(128), os.urandom(32))
    store, relay = open_kme_store(path, "kme-1"), replace(PENDING, supply=SUPPLY, payload=payload)
    keep(store, relay)
    for found in (store.relays.get(RELAY), *store.relays.open(NOW), *store.relays.latest()):
        assert found == relay
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not any(part[:32] in files for part in (payload.keys, payload.tag_keys, payload.confirmation_key))
    keep(store, replace(store.relays.get(RELAY), findings=FINDINGS))
    assert store.relays.get(RELAY).payload == payload
    store.journal.close()
    store = open_kme_store(path, "kme-1")
    assert store.relays.get(RELAY) == replace(relay, payload=None, findings=FINDINGS)
    store.journal.close()


@pytest.mark.parametrize("state", ["held", "delivered"])
def test_bytes_of_supply_are_listed_as_no_keys(store, state):
    keep(store, replace(HELD, state=state), replace(HELD, relay_id=uuid4(), state=state, supply=SUPPLY))
    assert {key["relay_id"] for key in listed(store, reveal=True, limit=100)} == {str(RELAY)}


def test_the_payload_of_supply_goes_with_its_batch(store):
    relay = replace(PENDING, supply=SUPPLY)
    with suppress(ZeroDivisionError), store.journal.transaction():
        store.keep_relay(relay)
        raise ZeroDivisionError
    assert store.relays.get(RELAY) is None
    keep(store, relay)
    with suppress(ZeroDivisionError), store.journal.transaction():
        store.keep_relay(replace(relay, state="forgotten", payload=None))
        raise ZeroDivisionError
    assert store.relays.get(RELAY) == relay
    keep(store, replace(relay, state="forgotten", payload=None))
    assert store.relays.get(RELAY).payload is None


@pytest.mark.parametrize(
    ("relay", "ends_at"),
    [
        (EXPECTING, NOW + UNDECIDED_S),
        (PENDING, NOW + UNDECIDED_S),
        (replace(PENDING, supply=SUPPLY), NOW + UNDECIDED_S),
        (HELD, None),
        (replace(HELD, supply=SUPPLY), SUPPLY.until + SUPPLY_LATE_S),
        (replace(HELD, state="delivered"), None),
        (replace(HELD, state="forgotten", supply=SUPPLY, payload=None), None),
    ],
)
def test_relays_that_come_to_their_own_end_are_found_then_and_not_before(store, relay, ends_at):
    keep(store, relay)
    if ends_at is None:
        assert store.relays.ending(NOW + 1e9) == []
        return
    assert store.relays.ending(ends_at) == []
    assert store.relays.ending(ends_at + 0.1) == [relay]
    keep(store, replace(relay, state="failed", payload=None))
    assert store.relays.ending(ends_at + 0.1) == []


def test_what_is_open_at_a_start_are_undecided_relays_and_held_ones_before_their_deadline(store):
    relays = [replace(one, relay_id=uuid4()) for one in (EXPECTING, PENDING, HELD, replace(HELD, state="delivered"))]
    keep(store, *relays)
    assert {relay.relay_id for relay in store.relays.open(NOW - 1)} == {relay.relay_id for relay in relays[:3]}
    assert {relay.relay_id for relay in store.relays.open(NOW)} == {relay.relay_id for relay in relays[:2]}


def test_a_kept_share_stays_the_first_and_its_deadline_the_last(store):
    with store.journal.transaction():
        store.shares.keep(KeepShare(RELAY, ROUTE, b"first", NOW))
        store.shares.keep(KeepShare(RELAY, ROUTE, b"second", NOW + 100))
        store.shares.keep(KeepShare(RELAY, OTHER, b"other", NOW))
        store.purge(NOW + LATE_S + 1)
    with store.journal.transaction():
        store.shares.keep(KeepShare(RELAY, ROUTE, b"third", NOW + 100))
        assert store.shares.get(RELAY, ROUTE) == b"first"
    assert store.shares.of(RELAY) == {ROUTE: b"first"}
    assert store.shares.get(RELAY, ROUTE) == b"first"
    assert store.shares.get(RELAY, OTHER) is None


def test_one_share_is_looked_up_alone_however_many_there_are(store, monkeypatch):
    keep(store, EXPECTING)
    with store.journal.transaction():
        store.shares.keep(KeepShare(RELAY, ROUTE, b"share", NOW))
    monkeypatch.setattr(store.shares, "of", None)
    assert (store.shares.get(RELAY, ROUTE), store.shares.get(RELAY, OTHER)) == (b"share", None)


@pytest.mark.parametrize(
    "large",
    [
        replace(HELD, findings=FINDINGS),
        replace(HELD, equivocating=(ROUTE,)),
        replace(HELD, key_count=CACHED_BYTES_MAX // 32),
        replace(HELD, key_count=CACHED_BYTES_MAX // 32 - 100, plan=plans.chain(490)),
    ],
    ids=["findings", "equivocating", "keys", "plan"],
)
def test_what_is_large_takes_no_memory_beside_the_store(store, large):
    small = replace(large, findings=None, equivocating=(), key_count=2, plan=PLAN)
    keep(store, small)
    assert store.relays._cached.get(RELAY) == small
    with store.journal.transaction():
        store.forget_relay(RELAY, NOW + 2 * TOMBSTONE_S)
        store.purge(NOW + 2 * TOMBSTONE_S)
    keep(store, large)
    assert store.relays.get(RELAY) == large
    assert store.relays._cached.get(RELAY) is None


def test_of_the_relays_with_shares_none_that_is_to_be_rebuilt_is_left_out(store):
    expecting = [replace(EXPECTING, relay_id=uuid4()) for _ in range(3)]
    latest, rebuilt = (replace(PENDING, relay_id=uuid4(), deadline=NOW + later) for later in (2, 1))
    keep(store, *expecting, rebuilt, latest, replace(EXPECTING, relay_id=uuid4()))
    with store.journal.transaction():
        for relay in (*expecting, rebuilt, latest):
            for route in (ROUTE, OTHER):
                store.shares.keep(KeepShare(relay.relay_id, route, bytes(10), relay.deadline))
    wanted = {relay.relay_id for relay in (*expecting, latest)}
    found = store.shares.relays_with(1)
    assert (len(found), set(found)) == (4, wanted)


def test_early_shares_are_those_of_relays_that_are_not_expected(store):
    keep(store, EXPECTING)
    with store.journal.transaction():
        store.shares.keep(KeepShare(RELAY, ROUTE, bytes(10), NOW))
        store.shares.keep(KeepShare(uuid4(), ROUTE, bytes(20), NOW))
        store.shares.keep(KeepShare(uuid4(), ROUTE, bytes(30), NOW))
    assert store.shares.early() == (2, 50)


def test_early_shares_are_counted_once_and_the_count_kept_whatever_comes_and_goes(store):
    """To count them is to look at all shares there are: not for each that somebody sends."""
    counted = []
    store.journal.connection.set_trace_callback(lambda said: counted.append(said) if "count(*)" in said else None)

    def early(relay_id, route, size):
        store.shares.keep(KeepShare(relay_id, route, bytes(size), NOW))
        return store.shares.early()

    other = uuid4()
    with store.journal.transaction():
        assert store.shares.early() == (0, 0)
        assert early(RELAY, ROUTE, 10) == (1, 10)
        assert early(RELAY, ROUTE, 30) == (1, 10)
        assert early(other, ROUTE, 20) == (2, 30)
    with store.journal.transaction():
        assert early(RELAY, ROUTE, 10) == (2, 30)
        assert early(RELAY, OTHER, 5) == (3, 35)
        store.keep_relay(EXPECTING)
        assert early(RELAY, ROUTE, 10) == (1, 20)
    assert len([said for said in counted if "shares" in said]) == 1
    with suppress(KeyboardInterrupt), store.journal.transaction():
        early(uuid4(), ROUTE, 10)
        raise KeyboardInterrupt
    assert store.shares.early() == (1, 20)
    with store.journal.transaction():
        store.purge(NOW + 2 * LATE_S)
    assert store.shares.early() == (0, 0)


@pytest.mark.parametrize("state", ["failed", "forgotten"])
def test_a_failed_or_forgotten_relay_leaves_a_tombstone_and_others_stay(store, state):
    kept = replace(PENDING, relay_id=uuid4(), state="delivered", deadline=0.0)
    keep(store, replace(EXPECTING, state=state), kept)
    for after, there in ((TOMBSTONE_S - 1, True), (TOMBSTONE_S + 1, False)):
        with store.journal.transaction():
            store.purge(NOW + after)
        assert (store.relays.get(RELAY) is not None) == there
    assert store.relays.get(kept.relay_id) is not None


def test_delivered_keys_can_be_forgotten_and_others_cannot(store):
    keep(store, PENDING)
    assert not store.forget_relay(RELAY, NOW)
    keep(store, replace(PENDING, state="delivered"))
    assert store.forget_relay(RELAY, NOW)
    assert store.relays.get(RELAY) == replace(PENDING, state="forgotten", payload=None)
    assert not store.forget_relay(RELAY, NOW)


def test_keys_go_with_their_relay_and_do_not_come_back(store):
    def rows():
        return store.journal.connection.execute("SELECT count(*) FROM keys").fetchone()[0]

    delivered, failed = replace(PENDING, state="delivered"), replace(PENDING, relay_id=uuid4(), state="failed")
    keep(store, delivered, failed)
    assert rows() == 2
    with store.journal.transaction():
        assert store.forget_relay(RELAY, NOW)
    with store.journal.transaction():
        store.purge(NOW + TOMBSTONE_S + 1)
    assert rows() == 0
    keep(store, replace(delivered, relay_id=uuid4()), replace(PENDING, relay_id=failed.relay_id))
    keep(store, replace(PENDING, relay_id=failed.relay_id, state="failed", payload=None))
    assert rows() == 1


def test_relays_are_listed_latest_first_also_while_one_is_forgotten(store):
    ids = [uuid4() for _ in range(3)]
    keep(store, *(replace(PENDING, relay_id=i, state="delivered", deadline=NOW + n) for n, i in enumerate(ids)))
    listed = store.relays.latest()
    assert next(listed).relay_id == ids[2]
    with store.journal.transaction():
        assert store.forget_relay(ids[1], NOW)
    assert [(relay.relay_id, relay.state) for relay in listed] == [(ids[1], "forgotten"), (ids[0], "delivered")]


@pytest.mark.parametrize(
    ("relay", "can_be"),
    [(HELD, True), (PENDING, False), (EXPECTING, False), (replace(EXPECTING, state="failed"), False)],
)
def test_what_is_held_can_be_forgotten_from_an_hour_after_its_deadline(store, relay, can_be):
    keep(store, relay)
    share = KeepShare(RELAY, ("kme-1", "kme-8"), b"share", relay.deadline)
    with store.journal.transaction():
        store.shares.keep(share)
    with store.journal.transaction():
        assert not store.forget_relay(RELAY, relay.deadline + UNDECIDED_S)
        assert store.forget_relay(RELAY, relay.deadline + UNDECIDED_S + 1) == can_be
    assert (store.shares.of(RELAY) == {}) == can_be


def test_supply_goes_by_its_own_time_and_is_not_forgotten_by_hand(store):
    keep(store, replace(HELD, supply=SUPPLY))
    assert not store.forget_relay(RELAY, NOW + 1e9)


def test_waiting_shares_come_back_in_order_until_they_are_sent_or_expire(store):
    shares = [replace(SHARE, index=n, deadline=NOW + n) for n in range(1, 4)]
    away = replace(SHARE, route=("kme-1", "kme-3"))
    with store.journal.transaction():
        for share in (*shares, away):
            store.waiting.add(share, "kme-1")
        store.waiting.add(replace(SHARE, route=("kme-9", "kme-1", "kme-3")), "kme-9")
    assert store.waiting.counts() == {"kme-2": 3, "kme-3": 2}
    room = {("kme-2", "kme-1", 3, 480), ("kme-3", "kme-1", 1, 160), ("kme-3", "kme-9", 1, 160)}
    assert set(store.waiting.sizes()) == room
    waiting = list(store.waiting.queue("kme-2", "kme-1"))
    assert [w.share for w in waiting] == shares
    with store.journal.transaction():
        store.waiting.note_reported([waiting[0].id], "link.down")
        store.waiting.remove([waiting[1].id])
    assert [w.share for w in store.waiting.queue("kme-2", "kme-1")] == [shares[0], shares[2]]
    assert [w.share for w in store.waiting.unreported("kme-2", "link.down", 9)] == [shares[2]]
    with store.journal.transaction():
        assert store.waiting.expire(NOW + 2) == [(shares[0].relay_id, shares[0].route)]
    assert store.waiting.counts() == {"kme-2": 1, "kme-3": 2}


def test_links_are_turned_down_and_up(store):
    with store.journal.transaction():
        for peer in ("kme-5", "kme-6", "kme-5"):
            store.waiting.switch_link(peer, up=False)
        store.waiting.switch_link("kme-6", up=True)
    assert store.waiting.links_down() == {"kme-5"}


def test_what_is_kept_of_a_failed_relay_gives_no_key_away(tmp_path):
    """Neither the keys, nor shares collected, nor shares that wait for a link: two of three rebuild the keys."""
    path = tmp_path / "kme.sqlite"
    store = open_kme_store(path, "kme-8")
    secrets = [PAYLOAD.keys, PAYLOAD.confirmation_key, b"collected share " * 9, SHARE.payload]
    keep(store, PENDING)
    with store.journal.transaction():
        store.shares.keep(KeepShare(RELAY, ROUTE, secrets[2], NOW))
        store.waiting.add(SHARE, "kme-1")

    def found():
        files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        return [secret in files for secret in secrets]

    assert all(found())
    with store.journal.transaction():
        store.keep_relay(replace(PENDING, state="failed", payload=None))
        store.drop_shares(RELAY)
    assert store.journal.scrub()
    assert not any(found())
    store.journal.close()


# --- a relay's fields ------------------------------------------------------------------------------


def test_a_new_field_of_a_relay_is_one_more_line_in_one_place():
    @dataclass(frozen=True)
    class Noted(EndpointRelay):
        notes: tuple[str, ...] = ()

    more = Column("notes", "TEXT NOT NULL", " ".join, lambda stored: tuple(stored.split()), changes=True)
    record = Record(Noted, *RELAY_RECORD.columns, more)
    journal = Journal(None, "kme kme-8", schema(record))
    known = {field.name: getattr(PENDING, field.name) for field in fields(PENDING)}
    for relay in (
        Noted(**known, notes=("a", "b")),
        Noted(**{**known, "state": "failed", "payload": None}, notes=("c",)),
    ):
        with journal.transaction():
            Relays(journal, record).keep(relay)
        assert Relays(journal, record).get(RELAY) == relay
    journal.close()


COLUMNS = {
    "relays": {
        "relay_id", "role", "state", "plan", "key_count", "key_size_bits", "withstand", "withstand_here", "deadline",
        "findings", "equivocating", "supply", "proof", "ends_at",
    },
    "held_newest": {"peer", "block"},
    "held_keys": {"peer", "block", "facts", "tag", "slots", "pad", "used_slots", "used_pad", "until"},
    "opened": {"peer", "block", "slot", "tag"},
}  # fmt: skip


@pytest.mark.parametrize("table", COLUMNS)
def test_the_columns_of_relays_and_of_link_key_are_those_of_format_7(store, table):
    names = {name for _, name, *_ in store.journal.connection.execute(f"PRAGMA table_info({table})")}
    assert names == COLUMNS[table]
    (version,) = store.journal.connection.execute("PRAGMA user_version").fetchone()
    assert version == 7


def test_a_store_with_its_columns_in_another_order_is_read_and_written(tmp_path):
    """As versions before made them."""
    order = """relay_id BLOB PRIMARY KEY, role TEXT NOT NULL, state TEXT NOT NULL, plan BLOB NOT NULL,
        key_count INTEGER NOT NULL, key_size_bits INTEGER NOT NULL, withstand BLOB NOT NULL,
        withstand_here INTEGER NOT NULL, supply BLOB, deadline REAL NOT NULL, ends_at REAL,
        proof BLOB, findings BLOB, equivocating TEXT NOT NULL"""
    path = tmp_path / "kme.sqlite"
    store = open_kme_store(path, "kme-8")
    with store.journal.transaction():
        store.journal.connection.execute("DROP TABLE relays")
        store.journal.connection.execute(f"CREATE TABLE relays ({order})")
    store.journal.close()
    store, relay = open_kme_store(path, "kme-8"), replace(PENDING, equivocating=(ROUTE,))
    keep(store, relay)
    store.journal.close()
    store = open_kme_store(path, "kme-8")
    assert store.relays.get(RELAY) == relay
    store.journal.close()
