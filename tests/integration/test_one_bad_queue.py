"""What a compromised KME or the broker writes into one queue holds up that queue, and no other."""

import pytest

from qkdrelay.broker.names import kme_queues, link_queue, results_queue
from support.network import REFERENCE, Network

EMPTIES = b"\xdc\x00\x0f" + (b"\xdc\xff\xff" + b"\x90" * 65_535) * 15
"""Nearly the largest message; an untyped decoder makes a million objects of it."""
BAD, HONEST = link_queue("kme-2", "kme-5"), link_queue("kme-3", "kme-5")


def handled_by(network, name):
    """The queues of the messages that ``name`` handles from now on, in order."""
    service, handled = network.service(name), []
    handle = service.handle

    def noting(delivery, now):
        handled.append(delivery.queue)
        return handle(delivery, now)

    service.handle = noting
    return handled


@pytest.mark.parametrize("garbage", [EMPTIES, b"noise"])
def test_garbage_in_a_kmes_results_keeps_the_coordinator_from_nobody_else(garbage):
    network = Network()
    network.stop("coordinator")
    for _ in range(60):
        network.as_kme("kme-2", garbage)
    handled = handled_by(network, "coordinator")
    network.resume("coordinator")
    assert network.relay("kme-4", "kme-8").state == "confirmed"
    assert results_queue("kme-8") in handled


@pytest.mark.parametrize("garbage", [EMPTIES, b"noise"])
def test_behind_a_full_queue_each_other_has_its_turn_in_the_first_round(garbage):
    network = Network()
    network.stop("kme-5")
    for _ in range(60):
        network.on_link("kme-2", "kme-5", garbage)
    view = network.relay("kme-3", "kme-8")
    handled = handled_by(network, "kme-5")
    network.resume("kme-5")
    assert handled[0] == BAD
    assert handled.index(HONEST) < len(kme_queues("kme-5", REFERENCE.links))
    assert network.show(view.relay_id).missing == ()


def test_a_queue_that_only_fails_rests_while_the_others_go_on(monkeypatch):
    network = Network()
    monkeypatch.setattr("qkdrelay.service.resting.REST_S_MIN", 600.0)  # longer than this test
    monkeypatch.setattr("qkdrelay.service.resting.REST_S_MAX", 600.0)
    for _ in range(400):
        network.on_link("kme-2", "kme-5", b"noise")
    network.settle()
    refused = len(network.dead_letters())
    assert 0 < refused < 400
    view = network.relay("kme-3", "kme-8")
    assert (view.state, view.missing) == ("confirmed", ())
    assert len(network.dead_letters()) == refused
