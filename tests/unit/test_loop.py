"""A batch is committed when it has taken long enough; what is left over is handled next, in order, once."""

from qkdrelay import service as module
from qkdrelay.broker.names import link_queue
from qkdrelay.broker.port import Delivery, Received
from qkdrelay.service import Loop
from support.network import REFERENCE, Network


class Fake:
    """A broker that delivers once, and notes what is acknowledged."""

    def __init__(self, deliveries):
        self.deliveries, self.acknowledged = deliveries, []

    def receive(self, limit, timeout_s):
        taken, self.deliveries = self.deliveries[:limit], self.deliveries[limit:]
        return Received(taken, [], connected=True, generation=1)

    def acknowledge(self, deliveries):
        self.acknowledged.append([delivery.token[1] for delivery in deliveries])

    def publish(self, publications):
        pass


def test_a_batch_that_takes_too_long_is_committed_before_it_is_all_handled(monkeypatch):
    now = 0.0

    def clock():
        nonlocal now
        now += 1.0
        return now

    monkeypatch.setattr(module.time, "perf_counter", clock)
    inner = Network(REFERENCE).service("kme-8")
    handled = []
    inner.handle = lambda delivery, now: handled.append(delivery.token[1])
    queue = link_queue("kme-5", "kme-8")
    broker = Fake([Delivery(queue, "x", queue, b"", redelivered=False, token=(1, n)) for n in range(8)])
    loop = Loop(inner, broker, batch_s=2.5)
    while loop.step(0.0):
        pass
    assert handled == list(range(8))
    assert [tags for tags in broker.acknowledged if tags] == [[0, 1, 2], [3, 4, 5], [6, 7]]
