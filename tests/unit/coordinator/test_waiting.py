"""The coordinator's loop sleeps until something is due, and does it then."""

from itertools import pairwise

import pytest

from qkdrelay.network.names import COORDINATOR
from qkdrelay.service import loop as module
from qkdrelay.service.process import StopRequest
from support.network import DIAMOND, Network, ask

HOUSEKEEPING_S = 10.0


def waits(network, is_over):
    """Run the coordinator's loop until it ``is_over``; return how long it waited each time, which alone moves time."""
    loop, stop, waited = network.loops[COORDINATOR], StopRequest(), []
    receive = loop.broker.receive

    def sleeping(limit, timeout_s, resting=()):
        received = receive(limit, 0.0, resting)
        if not received.deliveries and not received.confirmed and timeout_s > 0:
            waited.append(timeout_s)
            network.time.forward(timeout_s)
        if is_over():
            stop.set()
        return received

    loop.broker.receive = sleeping
    loop.run(stop)
    return waited


@pytest.mark.parametrize("timeout_s", [3.7, 8.0, 25.25])
def test_an_idle_coordinator_waits_until_the_deadline_of_a_relay_under_way_and_then_fails_it(monkeypatch, timeout_s):
    monkeypatch.setattr(module, "IDLE_S", 3600.0)
    network = Network(DIAMOND)
    begun, relays, last = network.clock(), network.coordinator_store.relays, {}
    network.stop(*DIAMOND.kmes)
    network.relay("kme-1", "kme-4", timeout_s=1.0)
    network.later(1.0)
    asked = network.clock()
    relay_id = ask(network, "kme-1", "kme-4", timeout_s=timeout_s)

    def is_over():
        last["seen"] = relays.get(relay_id)
        return last["seen"] is not None and last["seen"].state == "failed"

    waited = waits(network, is_over)
    assert (last["seen"].ended_at, last["seen"].reason) == (
        asked + timeout_s,
        "the source kme-1 and the target kme-4 did not answer in time",
    )
    housekeeping = [begun + n * HOUSEKEEPING_S for n in (1, 2)]
    times = [asked, *(at for at in housekeeping if at < asked + timeout_s), asked + timeout_s]
    assert waited == pytest.approx([b - a for a, b in pairwise(times)])
