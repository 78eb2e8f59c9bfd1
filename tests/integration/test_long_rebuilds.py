"""A target that has to search among false shares: a little in each turn, and others' relays go on meanwhile."""

import os

import pytest

from kme import rebuild_queue, searches
from qkdrelay.schemes import recursive
from support.network import Network, ask, of
from support.work import note_rebuilding

MIDDLE = [f"m{i}" for i in range(18)]
HUB = of(
    ["s", *MIDDLE, "t", "u"],
    [*(("s", kme) for kme in MIDDLE), *((kme, "t") for kme in MIDDLE), *(("u", kme) for kme in MIDDLE[-3:])],
)
"""From s to t any 10 of 18 shares are enough, from u to t 2 of 3."""
SLICE, TURN, STEP = 1 << 21, 1 << 23, 1 << 20
"""Work for one relay in a turn, in a turn, and of the longest step of these relays."""


@pytest.fixture
def turns(monkeypatch):
    """The work of rebuilding in each turn of t, in slices that make a search last for many turns."""
    monkeypatch.setattr(rebuild_queue, "SLICE_WORK", SLICE)
    monkeypatch.setattr(rebuild_queue, "TURN_WORK", TURN)
    monkeypatch.setattr(recursive, "SEARCH_MAX", 64 * SLICE)
    monkeypatch.setattr(searches, "RELAY_SEARCH_MAX", 64 * SLICE)
    works = [0]
    note_rebuilding(monkeypatch, works)
    return works


def step(network, turns):
    """One turn of everybody."""
    for name, loop in network.loops.items():
        if name == "t":
            turns.append(0)
        loop.step(0.0)


def searching(network):
    return bool(network.service("t").rebuild_queue._long)


def send_noise(network, kme):
    """Have a KME send on something else; those that only tamper alter all shares alike, so that some cancel."""
    on_share = network.service(kme).forwarding.on_share
    network.service(kme).forwarding.on_share = lambda sender, header, payload, *rest: on_share(
        sender, header, os.urandom(len(payload)), *rest
    )


def begin(network, turns, tampering=0, noisy=0):
    """Have so many KMEs alter their shares of a relay from s to t; return when t is searching."""
    for kme in MIDDLE[:tampering]:
        network.compromise(kme, "tamper")
    for kme in MIDDLE[:noisy]:
        send_noise(network, kme)
    relay_id = ask(network, "s", "t", policy="disjoint")
    while not searching(network):
        step(network, turns)
    return relay_id


def test_other_relays_are_confirmed_while_a_target_searches_and_no_turn_is_long(turns):
    network = Network(HUB, lab=True)
    hopeless = begin(network, turns, noisy=9)
    for _ in range(3):
        other = ask(network, "u", "t", policy="disjoint")
        while network.keys("t", other) is None:
            step(network, turns)
            assert searching(network)
    network.settle()
    assert max(turns[:-1]) <= TURN + SLICE + STEP
    assert sum(work > 0 for work in turns) > 8
    assert "the search for good ones was given up" in network.wait(hopeless).reason


def test_a_search_that_finds_the_keys_ends_with_a_confirmed_relay(turns):
    network = Network(HUB, lab=True)
    relay_id = begin(network, turns, tampering=6)
    network.settle()
    assert network.show(relay_id).state == "confirmed"
    assert network.keys("t", relay_id) == network.keys("s", relay_id) is not None


def test_a_target_that_crashes_while_it_searches_begins_anew(turns, tmp_path):
    network = Network(HUB, lab=True, folder=tmp_path)
    relay_id = begin(network, turns, tampering=6)
    assert network.keys("t", relay_id) is None
    network.restart("t")
    network.settle()
    assert network.show(relay_id).state == "confirmed"


@pytest.mark.parametrize("tampering", [1, 4])
def test_as_many_tampering_kmes_as_decoding_takes_cause_no_search(turns, tampering):
    network = Network(HUB, lab=True)
    for kme in MIDDLE[:tampering]:
        network.compromise(kme, "tamper")
    relay_id = ask(network, "s", "t", policy="disjoint")
    network.settle()
    view = network.show(relay_id)
    assert view.state == "confirmed"
    assert sum(turns) < SLICE
