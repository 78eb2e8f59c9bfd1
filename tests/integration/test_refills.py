"""Supply as the coordinator refills it: a whole network in one process, with applications at three KMEs."""

import pytest
from rich.console import Console

from coordinator.supply.wants import AHEAD_S, FIRST_BYTES, SUPPLY_BYTES_MAX
from kme.applications import KeyRequest, TryLaterError
from qkdrelay.as_data.supplies import supplies_as_data
from qkdrelay.messages.answers import Acknowledged, RelaysView, SuppliesView
from qkdrelay.messages.requests import LinkRequest, RelaysRequest, SuppliesRequest
from qkdrelay_cli.render.supplies import supplies_as_tables
from support.applications import DIRECTORY, SAES, caller
from support.network import Network


class Refilled(Network):
    """The reference network with SAEs at three KMEs, and the coordinator in its own place."""

    def __init__(self, **options):
        directories = dict.fromkeys(("kme-1", "kme-5", "kme-8"), DIRECTORY)
        super().__init__(**{"directories": directories, **options})

    def ask(self, master, slave, number=1, size_bits=256, level=None):
        """Return the answer to come."""
        answer = self.keys_of[SAES[master]].take(caller(master), KeyRequest(slave, number, size_bits, level))
        self.settle()
        return answer

    def turn(self, a, b, *, up):
        """Have a QKD link stop or resume carrying."""
        self.client.ask(LinkRequest(a=a, b=b, up=up), Acknowledged)

    def fetch(self, slave, master, keys):
        answer = self.keys_of[SAES[slave]].fetch(caller(slave), master, [key.key_id for key in keys])
        self.settle()
        return answer.result(timeout=0)


def test_supply_is_refilled_before_it_is_used_up_and_keys_go_on():
    network = Refilled()
    seen = set()
    for _ in range(40):
        taken = network.ask("sae-1", "sae-8", 64).result(timeout=0)
        seen |= {key.key for key in network.fetch("sae-8", "sae-1", taken)}
        network.time.forward(1.0)
        network.settle()
    assert len(seen) == 40 * 64
    supply = [relay for relay in network.coordinator_store.relays.latest(1_000, supply=True) if relay.terms.supply]
    assert {relay.state for relay in supply} == {"confirmed"}
    brought = sum(relay.terms.key_count for relay in supply)
    # What is ahead is bounded by how fast it goes.
    ahead = FIRST_BYTES + 1.5 * AHEAD_S * 64 * 32 + 2 * SUPPLY_BYTES_MAX
    assert 40 * 64 * 32 <= brought * 32 <= 40 * 64 * 32 + ahead


def test_a_link_without_key_is_waited_for_and_then_said():
    network = Refilled()
    network.ask("sae-1", "sae-8").result(timeout=0)
    network.turn("kme-1", "kme-2", up=False)
    network.turn("kme-1", "kme-3", up=False)
    network.turn("kme-1", "kme-4", up=False)
    answer = network.ask("sae-1", "sae-5", 1)
    for _ in range(8):
        network.time.forward(1.0)
        network.settle()
    with pytest.raises(TryLaterError):
        answer.result(timeout=0)
    for peer in ("kme-2", "kme-3", "kme-4"):
        network.turn("kme-1", peer, up=True)
    network.time.forward(60.0)
    network.settle()
    assert network.ask("sae-1", "sae-5", 1).result(timeout=0)


def test_the_coordinator_shows_what_there_is_and_who_waits():
    network = Refilled()
    network.ask("sae-1", "sae-8", 2).result(timeout=0)
    network.time.forward(10.0)
    network.settle()
    view = network.client.ask(SuppliesRequest(), SuppliesView)
    assert view.kmes == ("kme-1", "kme-5", "kme-8")
    (supply,) = [one for one in view.supplies if one.source == "kme-1"]
    assert (supply.supply.target, supply.supply.level, supply.supply.waiting) == ("kme-8", 1, 0)
    assert supply.supply.stored_bytes > 0
    (pair,) = view.pairs
    assert (pair.kme, pair.pair.master, pair.pair.slave, pair.pair.handed_out) == ("kme-1", "sae-1", "sae-8", 2)
    data = supplies_as_data(view)
    assert data["supplies"][0]["stored_bytes"] == supply.supply.stored_bytes
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(supplies_as_tables(view))
    shown = capture.get()
    assert "kme-1>kme-8" in shown
    assert "sae-8" in shown


def test_relays_of_supply_are_listed_to_who_asks_for_them():
    network = Refilled()
    mine = network.relay("kme-1", "kme-8").relay_id
    network.ask("sae-1", "sae-8").result(timeout=0)
    view = network.client.ask(RelaysRequest(limit=9, supply=False), RelaysView)
    assert ([relay.relay_id for relay in view.relays], view.total) == ([mine], 1)
    view = network.client.ask(RelaysRequest(limit=9, supply=True), RelaysView)
    assert view.total == len(view.relays) > 1
    assert [relay.relay_id for relay in view.relays if not relay.supply] == [mine]
