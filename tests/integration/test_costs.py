"""What a relay costs, counted: messages, commits, statements, link key, decodings of plans. Times are not asserted."""

from collections import Counter

import pytest

from qkdrelay.broker.names import REPLIES_EXCHANGE
from qkdrelay.messages.plans import decode_plan
from qkdrelay.network.key_cost import CONFIRMATION_KEY_BYTES, SLOT_BYTES
from support.network import Network, ask

RELAYS = 40
STATEMENTS = ("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE", "SELECT")


class Costs:
    """Counts what a network does, from its second relay on: what is done once for a plan is done then."""

    def __init__(self, network):
        self.network = network
        network.relay("kme-1", "kme-8", policy="recursive")
        self.statements, self.messages, self.drawn = Counter(), Counter(), 0
        for loop in network.loops.values():
            loop.journal.connection.set_trace_callback(self._count)
        publish = network.hub.publish

        def counted(user, publication):
            self.messages[publication.routing_key.split(".")[0]] += 1
            return publish(user, publication)

        network.hub.publish = counted
        for kme in network.topology.kmes:
            for link in network.links[kme].values():
                self._count_key(link.outgoing)

    def _count(self, statement):
        self.statements[statement.lstrip().split(None, 1)[0].upper()] += 1

    def _count_key(self, key):
        draw = key.draw

        def counted(length):
            self.drawn += length
            draw(length)

        key.draw = counted

    def run(self, relays, **wishes):
        ids = [ask(self.network, "kme-1", "kme-8", follow=False, **wishes) for _ in range(relays)]
        self.messages.clear()
        self.network.settle()
        # Looked at in the stores, for to ask would cost something, too.
        assert all(self.network.keys(kme, relay) is not None for relay in ids for kme in ("kme-1", "kme-8"))
        return self


@pytest.fixture
def costs():
    return Costs(Network())


def test_a_relay_takes_as_many_share_messages_as_its_plan_has(costs):
    assert costs.run(RELAYS).messages["link"] == 17 * RELAYS


def test_control_and_reports_travel_as_lists_under_load(costs):
    one = Costs(Network()).run(1).messages
    many = costs.run(RELAYS).messages
    for kind in ("kme", "results"):
        assert 0 < many[kind] <= one[kind] + 6, kind


def test_commits_are_for_batches_and_not_for_relays(costs):
    one = Costs(Network()).run(1).statements["COMMIT"]
    many = costs.run(RELAYS).statements["COMMIT"]
    assert 0 < many <= 2 * one
    assert many < 3 * RELAYS


def test_a_relay_takes_few_statements(costs):
    found = costs.run(RELAYS).statements
    assert all(found[kind] for kind in STATEMENTS)
    # For 17 share messages: the outbox, the numbers finished, 18 steps of the flow, the relay at three places.
    assert sum(found.values()) / RELAYS <= 86
    assert found["SELECT"] / RELAYS <= 9


def test_from_request_to_answer_a_relay_of_three_hops_takes_seven_passes_of_the_broker():
    """What is published in a turn of everybody is there in the next, so that each pass is one."""
    network = Network()
    publish, published = network.hub.publish, []

    def later(user, publication):
        published.append((user, publication))

    network.hub.publish = later
    relay_id = ask(network, "kme-1", "kme-8", follow=False, policy="disjoint")
    passes, answered = 0, False
    while published and not answered:
        passes += 1
        due, published[:] = published[:], []
        answered = any(publication.exchange == REPLIES_EXCHANGE for _, publication in due)
        with network.hub.lock:
            for one in due:
                publish(*one)
        for loop in network.loops.values():
            loop.step(0.0)
    relay = network.coordinator_store.relays.get(relay_id)
    assert {len(route) - 1 for route in relay.plan.routes()} == {3}
    assert (relay.state, answered, passes) == ("confirmed", True, 7)
    # In the pass of the answer the source is told, too.
    assert network.keys("kme-1", relay_id) == network.keys("kme-8", relay_id) is not None


@pytest.mark.parametrize(("keys", "over"), [(1, 7.0), (256, 1.05), (4096, 1.003)])
def test_link_key_is_little_more_than_the_bytes_of_the_shares(costs, keys, over):
    plan_bytes = 17 * keys * 32
    costs.run(1, key_count=keys)
    added = 32 if keys == 1 else 48  # by the AMD code
    lengths = [added] * 3 + [2 * added] * 14  # the shares of the first split, and those below
    assert costs.drawn == 17 * (keys * 32 + CONFIRMATION_KEY_BYTES + SLOT_BYTES) + sum(lengths)
    assert costs.drawn / plan_bytes <= over


def test_a_plan_is_decoded_once_however_many_relays_follow_it(costs):
    before = decode_plan.cache_info().misses
    costs.run(RELAYS)
    assert decode_plan.cache_info().misses == before
