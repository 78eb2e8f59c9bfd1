"""What a batch changed in memory is undone with it: as if it had never been handled; then it is handled, once."""

from itertools import cycle, repeat

import pytest

from qkdrelay.broker.memory import MemoryClient
from qkdrelay.broker.names import results_queue
from qkdrelay.errors import StoreError
from qkdrelay.messages.answers import Acknowledged
from qkdrelay.messages.requests import LinkRequest
from qkdrelay.network.names import COORDINATOR
from support.memory import FailingCommits
from support.network import DIAMOND, Network, ask


def settle(network):
    """Let everything happen that can, however often a commit fails."""
    for _ in range(1_000):
        try:
            return network.settle()
        except StoreError:
            pass
    raise AssertionError("there is no end")


def answers(network, client, asker, *requests):
    """Return what is answered to each request, once nothing moves any more."""
    ids = {}
    for body in requests:
        request, signed = asker.request(body)
        client.send(signed)
        ids[request.request_id] = []
    settle(network)
    while (message := client.receive(0.0)) is not None:
        reply = asker.answer(message[2], ids)
        ids[reply.request_id].append(reply.body)
    return list(ids.values())


def test_a_link_request_in_a_batch_that_failed_once_is_answered_once():
    network = Network(DIAMOND)
    client = MemoryClient(network.hub)
    failing = FailingCommits(network.loops[COORDINATOR], [True])
    ((first, *more),) = answers(
        network, client, network.asker(client.address), LinkRequest(a="kme-1", b="kme-2", up=False)
    )
    assert isinstance(first, Acknowledged)
    network.later(6.0)
    assert (failing.failed, failing.left) == (1, set())
    assert (more, client.receive(0.0)) == ([], None)


@pytest.mark.parametrize("name", [COORDINATOR, "kme-1", "kme-2", "kme-4"])
def test_if_each_commit_fails_once_memory_is_as_before_each_time_and_all_comes_to_the_same_end(name):
    network = Network(DIAMOND, lab=True)
    network.step_clock("kme-3", -7.0)
    failing = FailingCommits(network.loops[name], cycle([True, False]))
    client = MemoryClient(network.hub)
    asker = network.asker(client.address)
    down, up = (LinkRequest(a="kme-1", b="kme-2", up=up) for up in (False, True))
    said = answers(network, client, asker, down, LinkRequest(a="kme-3", b="kme-4", up=True))
    relays = [ask(network, *ends) for ends in (("kme-1", "kme-4"), ("kme-4", "kme-1")) * 2]
    network.as_kme("kme-2", b"nothing")
    network.on_link("kme-1", "kme-2", b"nothing")
    settle(network)
    relays.append(ask(network, "kme-1", "kme-4", key_count=512))
    network.hub.drop(name)
    network.time.forward(11.0)
    said += answers(network, client, asker, up)
    assert [[type(body) for body in each] for each in said] == [[Acknowledged]] * 3
    for _ in range(2):
        network.time.forward(6.0)
        settle(network)
    failing.fails = repeat(False)
    assert {network.show(relay_id).state for relay_id in relays} == {"confirmed"}
    for relay_id in relays:
        keys = {network.keys(kme, relay_id) for kme in ("kme-1", "kme-4")}
        assert len(keys) == 1
        assert None not in keys
    assert failing.left == set()
    assert failing.failed > 10


def test_what_a_start_has_to_report_is_reported_though_the_first_batch_after_it_fails(tmp_path):
    network = Network(DIAMOND, folder=tmp_path)
    network.stop("kme-1")
    ask(network, "kme-1", "kme-4")
    settle(network)
    network.later(2.0)
    reported, publish = [], network.hub.publish

    def recorded(user, publication):
        if publication.routing_key == results_queue("kme-4") and publication.id is not None:
            reported.append(publication.id)
        return publish(user, publication)

    network.hub.publish = recorded
    network.restart("kme-4")
    FailingCommits(network.loops["kme-4"], [True])
    settle(network)
    assert len(reported) == len(set(reported)) == 1
