"""A store that is damaged anyhow, before or while it is in use, raises StoreErrors and nothing else; or works."""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.lifecycle import Relay
from coordinator.store import open_coordinator_store
from kme.effects import KeepShare, SendShare
from kme.model import EndpointRelay
from kme.store import open_kme_store
from qkdrelay.errors import ForgedMessageError, StoreError
from qkdrelay.link.confirmation import Payload
from qkdrelay.messages.reports import Findings
from support import plans
from support.kme import DEMAND, terms

PLAN, NOW = plans.eight(), 1_700_000_000.0
MEMORY = Path("/dev/shm")
ROUTE = ("kme-1", "kme-3", "kme-5", "kme-8")
IDS = [UUID(int=number) for number in range(12)]
STATES = ("expecting", "held", "delivered", "failed")


def kme(path, access="own"):
    return open_kme_store(path, "kme-8", access=access)


def fill_kme(store):
    for number, relay_id in enumerate(IDS):
        findings = Findings(relay_id=relay_id, false=(ROUTE,), disputed=(), equivocating=(), unclear="")
        relay = EndpointRelay(
            relay_id, "target", STATES[number % 4], PLAN, 2, 256, DEMAND, 1, NOW + number, findings=findings
        )
        store.keep_relay(replace(relay, payload=Payload(*map(os.urandom, (64, 0, 32))), equivocating=(ROUTE,)))
        store.shares.keep(KeepShare(relay_id, ROUTE, os.urandom(200), NOW))
        store.waiting.add(
            SendShare(relay_id, ("kme-8", "kme-5"), PLAN.below("kme-5"), NOW, os.urandom(160), 2, 3), "kme-8"
        )
        store.journal.outbox.put("x", "k", os.urandom(50))
        if store.journal.seen.check("link", bytes(16), number, bytes(16)) == "new":
            store.journal.seen.finish("link", bytes(16), number, bytes(16))
        store.journal.numbers.next("reports")
    store.waiting.switch_link("kme-5", up=False)


def use_kme(store):
    yield from (
        lambda: list(store.relays.latest()),
        lambda: store.relays.open(NOW),
        store.waiting.counts,
        store.waiting.sizes,
        store.waiting.links_down,
    )
    yield from (
        store.relays.pending,
        store.relays.key_bytes,
        store.shares.early,
        store.journal.seen.epochs,
        store.journal.sizes,
        store.relays.ids_refused_until,
    )
    yield from (lambda: store.shares.relays_with(5), lambda: store.relays.named("0000", 9))
    yield from (lambda: list(store.waiting.queue("kme-5", "kme-8")), lambda: store.waiting.unreported("kme-5", "x", 9))
    for relay_id in IDS[:5]:
        yield from (lambda i=relay_id: store.relays.get(i), lambda i=relay_id: store.shares.of(i))
        yield from (lambda i=relay_id: store.forget_relay(i, NOW), lambda i=relay_id: store.drop_shares(i))
    yield from (lambda: store.purge(NOW + 9_999), lambda: store.waiting.expire(NOW + 1), lambda: fill_kme(store))
    yield from (
        lambda: store.journal.seen.check("link", bytes(16), 3, bytes(16)),
        lambda: store.journal.outbox.confirm(range(9)),
    )


def coordinator(path, access="own"):
    return open_coordinator_store(path)


def fill_coordinator(store):
    for number, relay_id in enumerate(IDS):
        wanted = terms(PLAN, relay_id=relay_id, deadline=NOW + number)
        relay = Relay(terms=wanted, policy="best", protected=True, created_at=NOW)
        store.relays.keep(relay, NOW, told=("kme-1", "kme-8"))
        store.flow.add_step(relay_id, ROUTE, "collected")
        store.flow.add_stuck(relay_id, ROUTE, "link.down")
        store.dead_letters.add(NOW, "kme-1", "q", "why", os.urandom(90))
        store.journal.outbox.put("x", "k", os.urandom(50))
    store.links.switch(("kme-1", "kme-2"), up=False)


def use_coordinator(store):
    relays, dead_letters = store.relays, store.dead_letters
    yield from (lambda: relays.latest(9, supply=True), lambda: relays.count(supply=True))
    yield from (relays.undecided_count, lambda: relays.overdue(NOW + 99))
    yield from (
        lambda: relays.due_again("kme-1", NOW + 99),
        store.links.down,
        dead_letters.latest,
        store.journal.seen.epochs,
    )
    yield from (lambda: relays.named("0000", 9), lambda: dead_letters.get(3), store.purge)
    for relay_id in IDS[:5]:
        yield from (lambda i=relay_id: relays.get(i), lambda i=relay_id: store.flow.of(i))
    yield from (
        lambda: fill_coordinator(store),
        lambda: dead_letters.drop(None),
        lambda: store.journal.outbox.confirm(range(9)),
    )


@pytest.fixture(scope="module", params=[(kme, fill_kme, use_kme), (coordinator, fill_coordinator, use_coordinator)])
def left(request, tmp_path_factory):
    """The files of a store that was killed, with much in the main file and something in the log; and how to use it."""
    opened, fill, use = request.param
    path = tmp_path_factory.mktemp("left") / "store.sqlite"
    store = opened(path)
    with store.journal.transaction():
        fill(store)
    store.journal.scrub()
    with store.journal.transaction():
        store.journal.outbox.put("x", "k", b"in the log")
    killed = tmp_path_factory.mktemp("killed")
    for name in ("store.sqlite", "store.sqlite-wal"):
        shutil.copy(path.parent / name, killed / name)
    store.journal.close()
    return opened, use, killed


@st.composite
def damages(draw):
    """What to do to which file: overwrite some bytes, cut it, delete it, or put something else there."""
    name = draw(st.sampled_from(["store.sqlite", "store.sqlite", "store.sqlite-wal"]))
    kind = draw(st.sampled_from(["bytes", "bytes", "bytes", "cut", "delete", "folder", "noise", "journal"]))
    places = draw(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=40)), min_size=1, max_size=20))
    return name, kind, places


def damage(folder, name, kind, places):
    file = folder / name
    content = bytearray(file.read_bytes() if file.is_file() else b"")
    at = [int(share * len(content)) for share, _ in places]
    match kind:
        case "bytes":
            for start, (_, new) in zip(at, places, strict=True):
                content[start : start + len(new)] = new
            file.write_bytes(content)
        case "cut":
            file.write_bytes(content[: at[0]])
        case "delete":
            file.unlink(missing_ok=True)
        case "folder":
            file.unlink(missing_ok=True)
            file.mkdir()
        case "noise":
            file.write_bytes(os.urandom(9_000))
        case "journal":
            (folder / "store.sqlite-journal").write_bytes(os.urandom(9_000))


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(harm=damages(), running=st.booleans(), access=st.sampled_from(["own", "own", "read"]))
def test_whatever_is_damaged_is_told_as_a_store_error(left, harm, running, access):
    opened, use, killed = left
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        path = Path(folder) / "store.sqlite"
        shutil.copytree(killed, folder, dirs_exist_ok=True)
        if not running:
            damage(path.parent, *harm)
        try:
            store = opened(path, access)
        except StoreError as error:
            assert "\n" not in str(error)  # noqa: PT017 - it need not be raised
            return
        if running:
            damage(path.parent, *harm)
        for act in use(store):
            with suppress(StoreError, ForgedMessageError):
                act()
            with suppress(StoreError, ForgedMessageError), store.journal.transaction():
                act()
        store.journal.scrub()
        store.journal.close()
        shutil.rmtree(folder)
        Path(folder).mkdir()
