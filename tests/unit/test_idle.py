"""A service that has nothing to do waits: with a broker, and as much without one."""

import pytest

from qkdrelay.network.names import COORDINATOR
from support.network import DIAMOND, Network


@pytest.mark.parametrize("name", [COORDINATOR, "kme-1"])
@pytest.mark.parametrize("connected", [True, False])
def test_an_idle_service_wants_no_turn_for_seconds(name, connected):
    network = Network(DIAMOND)
    network.relay("kme-1", "kme-4")
    network.later(60.0)
    service = network.service(name)
    for _ in range(3):
        network.time.forward(60.0)
        with service.journal.transaction():
            service.tick(network.clock(), connected=connected, reconnected=False)
        service.committed()
        service.journal.batch.end()
        assert service.wait_s(network.clock()) >= 1.0
