"""What the coordinator makes of the messages that KMEs sign."""

import pytest

from coordinator.lifecycle import Relay
from coordinator.service import CoordinatorService
from coordinator.store import open_coordinator_store
from qkdrelay.broker.names import kme_exchange, results_queue
from qkdrelay.broker.port import Delivery
from qkdrelay.messages import signing
from qkdrelay.messages.reports import Findings, Reports
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.topology_file import load_topology
from support.kme import NOW, RELAY, terms

KEYS = {f"kme-{number}": bytes([number]) * 32 for number in range(1, 9)}
TARGET = "kme-8"
FIRST, NEXT = b"1" * 16, b"2" * 16
"""Epochs: they sort by time, and each connection begins one."""


@pytest.fixture
def store():
    return open_coordinator_store(None)


@pytest.fixture
def service(store):
    service = CoordinatorService(load_topology("eight-kmes"), store, KEYS, bytes(32))
    with store.journal.transaction():
        service.relays.change(None, Relay(terms=terms(), policy="recursive", protected=True, created_at=NOW), NOW)
    return service


def found(false, epoch, number):
    finding = Findings(relay_id=RELAY, false=(false,), disputed=(), equivocating=(), unclear="")
    body = signing.sign(KEYS[TARGET], TARGET, COORDINATOR, epoch=epoch, number=number, body=Reports(items=(finding,)))
    return Delivery(results_queue(TARGET), kme_exchange(TARGET), results_queue(TARGET), body, False, (1, 1))


def after(service, store, *deliveries):
    for delivery in deliveries:
        with store.journal.transaction():
            service.handle(delivery, NOW)
            service.tick(NOW, connected=True, reconnected=False)
        service.committed()
    assert store.dead_letters.count() == 0
    return store.relays.get(RELAY).findings.false[0]


EARLIER, LATER = ("kme-1", "kme-2"), ("kme-1", "kme-3")


def test_what_was_found_later_counts_even_if_it_comes_first(service, store):
    assert after(service, store, found(LATER, FIRST, 8), found(EARLIER, FIRST, 7)) == LATER


def test_a_batch_that_is_undone_takes_back_what_it_found_and_nothing_else(service, store):
    def fails(delivery):
        service.handle(delivery, NOW)
        raise ZeroDivisionError

    def undone(delivery):
        with pytest.raises(ZeroDivisionError), store.journal.transaction():
            fails(delivery)

    undone(found(LATER, FIRST, 8))
    assert after(service, store, found(EARLIER, FIRST, 7)) == EARLIER
    assert after(service, store, found(LATER, FIRST, 8)) == LATER
    undone(found(EARLIER, NEXT, 1))
    assert after(service, store, found(EARLIER, FIRST, 6)) == LATER


def test_what_was_found_later_counts_if_it_comes_later(service, store):
    assert after(service, store, found(EARLIER, FIRST, 7), found(LATER, FIRST, 8)) == LATER


def test_what_was_found_in_a_later_epoch_is_later_whatever_its_number(service, store):
    assert after(service, store, found(EARLIER, FIRST, 7), found(LATER, NEXT, 1)) == LATER
    assert after(service, store, found(EARLIER, FIRST, 8)) == LATER
