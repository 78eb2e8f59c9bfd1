"""A KME that is sent garbage, or what looks like honest work, at full speed: it goes on relaying for the others."""

import os
import tracemalloc

import pytest

from kme import fairness
from qkdrelay.broker.names import link_queue
from qkdrelay.messages.plans import encode_plan
from qkdrelay.network.plan import Hop, Plan
from support.clock import Clock
from support.network import Network, sealed_by

pytestmark = pytest.mark.usefixtures("restless")

ONE_SHARE = 128 + 32
"""Link key for a share of a relay of one key that was split once."""
BLOCK = 1024 + 64
"""Link key of a block that will do where shares wait, with the keys of its own."""


@pytest.fixture
def network():
    """kme-2 is compromised and floods kme-5, which has little key for the link to kme-8."""
    network = Network()
    network.keys_at = Clock()
    network.limit_key("kme-5", "kme-8", network.keys_at, rate_bps=8 * ONE_SHARE, buffer_bytes=20_000)
    return network


def flood(network, number, size=128):
    """Send, correctly sealed, shares of relays that kme-2 has invented: kme-5 is to send each on to kme-8."""
    part, route = encode_plan(Plan("kme-5", "kme-8", {"kme-5": Hop(("kme-8",), 1)})), ("kme-1", "kme-2", "kme-5")
    for _ in range(number):
        network.on_link("kme-2", "kme-5", sealed_by(network, "kme-2", "kme-5", route, part, os.urandom(size)))
    network.settle()


def missing(network, view):
    return network.show(view.relay_id).missing


@pytest.mark.parametrize("size", [128, 2_000])
def test_a_flood_of_invented_relays_takes_at_most_its_share_of_a_links_key(network, size):
    flood(network, 200, size)
    views = [network.relay("kme-3", "kme-8", policy="recursive") for _ in range(5)]
    assert [len(missing(network, view)) for view in views] == [1] * 5
    network.sealed.clear()
    # Key for twice the honest shares, and for one more of the flood's: half of it is theirs. It comes in blocks, each
    # with keys of its own, and the last of them may bring more than is waited for.
    enough = 2 * 5 * ONE_SHARE + size + 32
    blocks = -(-enough // BLOCK)
    for _ in range(round((blocks * BLOCK) / ONE_SHARE) + 1):
        network.keys_at.forward(1)
        network.settle()
    assert [missing(network, view) for view in views] == [()] * 5
    sent = [header.relay_id for header, _ in network.headers() if header.link == ("kme-5", "kme-8")]
    honest = {view.relay_id for view in views}
    until = max(at for at, relay_id in enumerate(sent) if relay_id in honest)
    of_the_flood = [relay_id for relay_id in sent[:until] if relay_id not in honest]
    assert len(of_the_flood) * (size + 32) <= 5 * ONE_SHARE + size + 32


def test_a_flood_leaves_the_others_room_to_wait(network, monkeypatch, capsys):
    monkeypatch.setattr(fairness, "WAITING_MAX", 100)
    flood(network, 1_000)
    assert network.stores["kme-5"].waiting.counts() == {"kme-8": 50}
    view = network.relay("kme-3", "kme-8", policy="recursive")
    assert "came from kme-2" in capsys.readouterr().out
    assert network.stores["kme-5"].waiting.counts() == {"kme-8": 51}
    network.keys_at.forward(BLOCK / ONE_SHARE + 0.1)
    network.settle()
    assert missing(network, view) == ()


def test_relays_confirm_between_the_parts_of_a_flood_that_does_not_end(network):
    for _ in range(30):
        flood(network, 20)
        assert network.relay("kme-3", "kme-8", policy="recursive").state == "confirmed"
        assert network.relay("kme-1", "kme-8", policy="recursive").state == "confirmed"
        network.keys_at.forward(6)
        network.time.forward(1)
    slots = network.slots()
    assert all(len(messages) == 1 for messages in slots.values())


def garbage(network, number):
    """Noise and forgeries of every size on one link, and noise in the control queue; nothing that is remembered."""
    genuine = next(p.body for p in network.sealed if p.routing_key == link_queue("kme-2", "kme-5"))
    for turn in range(number):
        noise = os.urandom(10 + turn * 37 % 9_000)
        network.on_link("kme-2", "kme-5", noise if turn % 2 else genuine[:-16] + os.urandom(16))
        network.as_coordinator("kme-5", noise)
        if turn % 100 == 0:
            network.settle()
    network.settle()
    network.sealed[:] = [p for p in network.sealed if p.body == genuine]


def pages(network, name):
    network.stores[name].journal.connection.execute("PRAGMA incremental_vacuum")
    return network.stores[name].journal.connection.execute("PRAGMA page_count").fetchone()[0]


def test_garbage_at_full_speed_leaves_memory_and_store_flat_and_the_kme_relaying(monkeypatch):
    monkeypatch.setattr("coordinator.store.dead_letters.DEAD_LETTERS_MAX", 100)
    network = Network()
    network.relay("kme-1", "kme-8", policy="recursive")
    tracemalloc.start()
    try:
        sizes, stores = [], []
        for _ in range(4):
            garbage(network, 500)
            sizes.append(tracemalloc.get_traced_memory()[0])
            stores.append(pages(network, "kme-5"))
            assert network.relay("kme-1", "kme-8", policy="recursive").missing == ()
    finally:
        tracemalloc.stop()
    # A thousand messages a round, some 3 MB: not a tenth of it may stay.
    assert sizes[3] - sizes[1] < 300_000
    assert stores[3] - stores[1] <= 4
    assert sum(1 for _ in network.dead_letters()) == 100
