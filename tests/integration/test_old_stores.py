"""A store comes back as it was: one commit ago (the disk lied about it, power was lost), or from an older copy.

Whichever service it is and whenever it happens: no key is used twice, nobody gets wrong keys, and the relay ends.
"""

from itertools import combinations

import pytest

from qkdrelay.errors import RequestRefusedError
from support.network import DIAMOND, Network, ask

STEPS = 8
"""In so many turns of everybody a relay over the diamond is over."""
ENDS = ("kme-1", "kme-4")
REASONS = ("there are no keys of this relay", "too few shares in time", "has not rebuilt the keys")


def turn(network):
    for loop in network.loops.values():
        loop.step(0.0)


def finish(network):
    network.settle()
    for _ in range(8):
        network.later(10.0)


def uses_no_key_twice(network):
    assert all(len(messages) == 1 for messages in network.slots().values())
    pads = network.pads()
    assert len(pads) == len(set(pads))


def is_safe(network, relay_id):
    """Return how the relay ended; whatever was lost, no key was used twice and no end has others than the other."""
    uses_no_key_twice(network)
    view = network.show(relay_id)
    keys = [network.keys(end, relay_id) for end in ENDS]
    assert len({key for key in keys if key is not None}) <= 1
    assert (view.false_shares, view.disputed, view.equivocating) == ((), (), ())
    if view.state == "failed":
        assert any(reason in view.reason for reason in REASONS), view.reason
        assert keys[0] is None  # the target at most holds what it has rebuilt
    else:
        assert view.state == "confirmed"
    return view.state, keys


@pytest.mark.parametrize("name", ["kme-1", "kme-2", "kme-4"])
def test_a_kme_whose_last_commit_is_lost_after_it_published_and_acknowledged(tmp_path, name):
    """Also then a relay that was confirmed has its keys at both ends."""
    ended = []
    for steps in range(STEPS):
        network = Network(DIAMOND, folder=tmp_path / str(steps))
        relay_id = ask(network, *ENDS)
        for _ in range(steps):
            turn(network)
        copy = network.copy_store(name)
        network.loops[name].step(0.0)
        network.restart(name, copy)
        finish(network)
        state, keys = is_safe(network, relay_id)
        assert state == "failed" or (keys[0] == keys[1] and len(keys[0]) == 32)
        ended.append(state)
    # Lost for good is only what no other service has: the source's fresh keys. The target is told its terms again.
    assert ended.count("failed") == {"kme-1": 1, "kme-2": 0, "kme-4": 0}[name]


def test_a_coordinator_whose_last_commit_is_lost_after_it_published_and_acknowledged(tmp_path):
    for steps in range(STEPS):
        network = Network(DIAMOND, folder=tmp_path / str(steps))
        relay_id = ask(network, *ENDS)
        for _ in range(steps):
            turn(network)
        copy = network.copy_store("coordinator")
        network.loops["coordinator"].step(0.0)
        network.restart("coordinator", copy)
        finish(network)
        if steps == 0:  # it was asked, and does not know: whoever asked asks again, as the command line does
            with pytest.raises(RequestRefusedError, match="there is no relay"):
                network.show(relay_id)
            ask(network, *ENDS, relay_id=relay_id)
            finish(network)
        state, keys = is_safe(network, relay_id)
        assert state == "confirmed"
        assert keys[0] == keys[1] is not None


@pytest.mark.parametrize("name", ["kme-1", "kme-2", "kme-4"])
def test_a_kme_whose_store_is_restored_from_any_older_copy(tmp_path, name):
    for network, relay_id in restored(tmp_path, name):
        is_safe(network, relay_id)
        assert network.relay(*ENDS).state == "confirmed"


def test_a_coordinator_whose_store_is_restored_from_any_older_copy(tmp_path):
    """It may take a relay for failed that it confirmed before; the ends stay with what they were told first."""
    for network, relay_id in restored(tmp_path, "coordinator"):
        uses_no_key_twice(network)
        source, target = (network.keys(end, relay_id) for end in ENDS)
        assert source == target
        assert network.relay(*ENDS).state == "confirmed"


def restored(folder, name):
    """Yield a network and its relay for each older copy of ``name``'s store, restored at each later step."""
    for copied, at in combinations(range(1, STEPS - 1), 2):
        network = Network(DIAMOND, folder=folder / f"{copied}-{at}")
        relay_id = ask(network, *ENDS)
        for step in range(at):
            if step == copied:
                copy = network.copy_store(name)
            turn(network)
        network.restart(name, copy)
        finish(network)
        yield network, relay_id
