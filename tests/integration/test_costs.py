"""What a relay costs, counted: messages, commits, statements, link key, decodings of plans. Times are not asserted."""

import time
from collections import Counter

import pytest

from kme.blocks.ahead import AHEAD_IDLE_MAX
from qkdrelay.broker.names import REPLIES_EXCHANGE
from qkdrelay.messages.blocks import BLOCK_BYTES_MAX
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
        """Of these, the last: bytes of key that were taken from what makes it, for any link."""
        for loop in network.loops.values():
            loop.journal.connection.set_trace_callback(self._count)
        publish = network.hub.publish

        def counted(user, publication):
            self.messages[publication.routing_key.split(".")[0]] += 1
            return publish(user, publication)

        network.hub.publish = counted
        for kme in network.topology.kmes:
            for link in network.links[kme].values():
                self._count_key(link.source)

    def _count(self, statement):
        self.statements[statement.lstrip().split(None, 1)[0].upper()] += 1

    def _count_key(self, source):
        drawn = source.drawn

        def counted():
            raw = drawn()
            self.drawn += 0 if raw is None else raw.length
            return raw

        source.drawn = counted

    def granted(self):
        """Bytes of key that both ends of links have agreed on, and no message has taken."""
        ways = [way for a, b in self.network.topology.links for way in ((a, b), (b, a))]
        return sum(self.network.sending(*way).granted().size for way in ways)

    def used_up(self):
        """Bytes of key that are there no more: messages have taken them, or nobody will."""
        return self.drawn - self.granted()

    def taken(self):
        """Bytes of key that the shares on the links were sealed with."""
        return SLOT_BYTES * len(self.network.slots()) + len(self.network.pads())

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
    costs.network.sealed.clear()
    costs.run(RELAYS)
    assert len(costs.network.sealed) == 17 * RELAYS


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
    costs.network.sealed.clear()
    costs.run(1, key_count=keys)
    assert costs.taken() == relay_bytes(keys)
    assert costs.taken() / plan_bytes <= over


def relay_bytes(keys):
    """Link key for the messages of a relay."""
    added = 32 if keys == 1 else 48  # by the AMD code
    lengths = [added] * 3 + [2 * added] * 14  # the shares of the first split, and those below
    return 17 * (keys * 32 + CONFIRMATION_KEY_BYTES + SLOT_BYTES) + sum(lengths)


@pytest.mark.parametrize(("keys", "relays"), [(1, 600), (256, 120), (4096, 8)])
def test_of_the_key_that_is_made_few_bytes_are_not_in_a_message(costs, keys, relays):
    """Those by which blocks are agreed on, slots without pad for them, pad without slots."""
    granted = costs.granted()
    for _ in range(100):  # until nothing is left of what was there for messages of another length
        costs.run(relays, key_count=keys)
        if costs.drawn > 3 * granted or keys == 1:
            break
    before, drawn = costs.used_up(), costs.drawn
    costs.run(relays, key_count=keys)
    assert costs.used_up() - before <= 1.03 * relays * relay_bytes(keys)
    assert costs.used_up() - before >= relays * relay_bytes(keys)
    assert costs.drawn > drawn


@pytest.mark.parametrize("suite", ["otp", "aes-256-gcm"])
def test_no_more_key_is_granted_ahead_than_is_said(suite):
    network = Network(suite=suite)
    for _ in range(20):
        network.later(1.0)
    for a, b in network.topology.links:
        for way in ((a, b), (b, a)):
            assert AHEAD_IDLE_MAX / 2 <= network.sending(*way).granted().size <= AHEAD_IDLE_MAX + BLOCK_BYTES_MAX


def test_when_messages_get_longer_as_many_slots_are_lost_as_were_there_once(costs):
    """What is granted ahead was for messages of another length: at first a fifth of it is slots."""
    granted, before, relays = costs.granted(), costs.used_up(), 0
    while costs.drawn <= 3 * granted:
        costs.run(RELAYS, key_count=256)
        relays += RELAYS
    lost = costs.used_up() - before - relays * relay_bytes(256)
    assert 0 < lost <= granted / 5 + 0.03 * relays * relay_bytes(256)


def test_agreeing_on_key_takes_few_of_the_messages_on_links_under_load(costs):
    network = costs.network
    for a, b in network.topology.links:  # so much ahead that it is agreed on again and again
        for way in ((a, b), (b, a)):
            network.limit_key(*way, time.monotonic, rate_bps=100_000, buffer_bytes=16 << 20)
    network.sealed.clear()
    network.about_blocks.clear()
    costs.run(10 * RELAYS)
    assert len(network.sealed) == 10 * RELAYS * 17
    assert 0 < len(network.about_blocks) <= 0.02 * costs.messages["link"]
    assert costs.messages["link"] == len(network.sealed) + len(network.about_blocks)


def test_agreeing_on_key_takes_few_of_the_bytes_on_links_whose_messages_are_long(costs):
    network = costs.network
    costs.run(5 * RELAYS, key_count=256)
    agreed, sealed = (sum(len(each.body) for each in many) for many in (network.about_blocks, network.sealed))
    assert 0 < agreed <= 0.02 * sealed


def test_a_plan_is_decoded_once_however_many_relays_follow_it(costs):
    before = decode_plan.cache_info().misses
    costs.run(RELAYS)
    assert decode_plan.cache_info().misses == before
