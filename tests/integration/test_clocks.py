"""The clock of one service is stepped by hours: nothing hangs, no key is reused, the source has what the target has."""

import pytest

from support.network import DIAMOND, Network, ask

HOURS = 3 * 3600.0
ENDS = ("kme-1", "kme-4")


def uses_no_key_twice(network):
    assert all(len(messages) == 1 for messages in network.slots().values())
    pads = network.pads()
    assert len(pads) == len(set(pads))


@pytest.mark.parametrize("step", [HOURS, -HOURS])
@pytest.mark.parametrize("name", ["kme-1", "kme-2", "kme-4"])
def test_a_kme_whose_clock_is_stepped_under_way_parts_no_ends_and_is_itself_again_once_it_is_right(name, step):
    for turns in range(8):
        network = Network(DIAMOND)
        relay_id = ask(network, *ENDS)
        for _ in range(turns):
            for loop in network.loops.values():
                loop.step(0.0)
        network.step_clock(name, step)
        network.settle()
        for _ in range(4):
            network.later(10.0)
        view = network.show(relay_id)
        source, target = (network.keys(end, relay_id) for end in ENDS)
        assert source in (None, target)
        assert (view.state, source is None) in (("confirmed", False), ("failed", True))
        if view.state == "failed":
            whys = ("are the clocks right?", "in time", "nothing was heard of it for long after its deadline")
            assert any(why in view.reason for why in whys), view.reason
        assert all(store.relays.pending() == 0 for store in network.stores.values())
        network.step_clock(name, 0.0)
        network.later(10.0)
        assert network.relay(*ENDS).state == "confirmed"
        uses_no_key_twice(network)


def test_a_coordinator_whose_clock_is_stepped_back_tells_a_lost_command_again_all_the_same():
    network = Network(DIAMOND)
    network.stop("kme-4")
    relay_id = ask(network, *ENDS, timeout_s=3600.0)
    network.settle()
    assert network.lose_commands("kme-4") == 1
    network.resume("kme-4")
    network.step_clock("coordinator", -HOURS)
    for _ in range(3):
        network.later(10.0)
    assert network.show(relay_id).state == "confirmed"
    uses_no_key_twice(network)
