"""While sites are upgraded one after the other, messages of a later version wait for the program that knows it."""

from contextlib import ExitStack, contextmanager

import pytest

from qkdrelay.broker.names import control_queue, kme_exchange, link_queue, results_queue
from qkdrelay.broker.port import Publication
from qkdrelay.broker.rabbitmq import RabbitMqBroker, RabbitMqSettings
from qkdrelay.messages import codec
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.topology import one_site_each
from qkdrelay.service import reception
from qkdrelay.service.journal import Journal
from qkdrelay.service.loop import Loop
from qkdrelay.service.metrics import Metrics
from support.network import REFERENCE, Network
from support.slow_msgpack import packed
from support.waiting import eventually

VERSION = codec.VERSION + 1
LATER = packed({"v": VERSION, "type": "unheard of", "body": bytes(100)})
LINK = link_queue("kme-3", "kme-5")
PREFETCH = 100
"""Of the broker in one process."""


class Queue:
    """A queue of a network, with whom it is read by and how it is written."""

    def __init__(self, network, name, reader, write):
        self.network, self.name, self.reader, self.write = network, name, reader, write
        self.hub = next(hub for hub in network.hubs.values() if name in hub.queues)

    @property
    def held(self):
        """How many of its messages its reader has, and has not acknowledged."""
        readers = self.network.loops[self.reader].broker._readers.values()
        return sum(name == self.name for each in readers for name, _ in each._unacknowledged.values())

    @property
    def ready(self):
        return self.hub.depth(self.name)

    @property
    def place(self):
        """As its reader names it."""
        readers = self.network.loops[self.reader].broker._readers
        return next(f"{self.name} at {site}" if site else self.name for site in readers if self._is_read_at(site))

    def _is_read_at(self, site):
        return self.name in self.network.loops[self.reader].broker._readers[site].queues


QUEUES = {
    "link": lambda network: Queue(network, LINK, "kme-5", lambda body: network.on_link("kme-3", "kme-5", body)),
    "control": lambda network: Queue(
        network, control_queue("kme-8"), "kme-8", lambda body: network.as_coordinator("kme-8", body)
    ),
    "results": lambda network: Queue(
        network, results_queue("kme-8"), COORDINATOR, lambda body: network.as_kme("kme-8", body)
    ),
}
TOPOLOGIES = {"one broker": REFERENCE, "a site each": one_site_each(REFERENCE)}


@pytest.fixture(params=TOPOLOGIES)
def network(request, tmp_path):
    return Network(TOPOLOGIES[request.param], folder=tmp_path)


@pytest.fixture(params=QUEUES)
def queue(request, network):
    return QUEUES[request.param](network)


@pytest.fixture
def at_an_end(monkeypatch):
    """Let the time pass that messages wait at most."""

    @contextmanager
    def ended():
        with monkeypatch.context() as patch:
            patch.setattr(reception, "HELD_S_MAX", 0.0)
            yield

    return ended


def sample(queue, name, /, **labels):
    queue.network.loops[queue.reader].measure()
    return queue.network.service(queue.reader).metrics.registry.get_sample_value(f"qkdrelay_{name}", labels)


def begin(network, name):
    """Start a service that has stopped."""
    network.time.forward(0.1)
    network.start(name)
    network.loops[name].start()
    network.settle()


def goes_on(network):
    view = network.relay("kme-1", "kme-8")
    assert (view.state, view.missing) == ("confirmed", ())


def test_a_message_of_a_later_version_waits_and_the_others_go_on(network, queue):
    queue.write(LATER)
    goes_on(network)
    assert (queue.held, queue.ready, network.dead_letters()) == (1, 0, [])
    goes_on(network)
    assert (queue.held, queue.ready, network.dead_letters()) == (1, 0, [])
    assert sample(queue, "messages_held", queue=queue.place) == 1
    waits = f"messages of protocol version {VERSION} wait in {queue.place}: this is version {codec.VERSION}; upgrade"
    assert network.loops[queue.reader]._reception.remark == waits


def test_one_that_has_waited_long_enough_is_a_dead_letter_named_by_its_version(network, queue, at_an_end):
    queue.write(LATER)
    network.later(600.0)
    with at_an_end():
        network.settle()
        ((who, _, said),) = network.dead_letters()
    assert (who.partition(",")[0], f"of protocol version {VERSION}" in said) == (queue.reader, True)
    assert (queue.held, queue.ready) == (0, 0)
    assert sample(queue, "messages_held", queue=queue.place) == 0
    assert sample(queue, "messages_refused_total", reason="malformed") == 1
    assert network.loops[queue.reader]._reception.remark == ""
    goes_on(network)


def test_one_of_an_earlier_version_is_refused_at_once(network, queue):
    queue.write(packed({"v": codec.VERSION - 1, "type": "of old"}))
    network.settle()
    ((who, _, said),) = network.dead_letters()
    assert (who.partition(",")[0], "not of protocol version" in said) == (queue.reader, True)


def test_who_stops_gives_back_what_waits_and_who_starts_has_it_again(network, queue):
    queue.write(LATER)
    queue.write(LATER)
    network.settle()
    network.loops[queue.reader].close()
    assert queue.ready == 2
    begin(network, queue.reader)
    goes_on(network)
    assert (queue.held, queue.ready, network.dead_letters()) == (2, 0, [])


def test_what_comes_again_with_a_new_connection_is_refused_once(network, queue, at_an_end):
    queue.write(LATER)
    network.settle()
    for _ in range(3):
        network.lose_connections(queue.reader)
        network.settle()
    assert (queue.held, network.loops[queue.reader]._reception.counts()) == (1, {queue.place: 1})
    with at_an_end():
        network.settle()
        assert len(network.dead_letters()) == 1
    goes_on(network)
    assert (queue.held, len(network.dead_letters())) == (0, 1)


def test_what_is_the_brokers_again_is_not_refused_meanwhile(network, queue, at_an_end):
    queue.write(LATER)
    network.settle()
    hidden = queue.hub.queues.pop(queue.name)
    for reader in network.loops[queue.reader].broker._readers.values():
        with queue.hub.lock:
            if queue.name in reader.consumed:
                queue.hub.queues[queue.name] = hidden
                reader.lose_queue(queue.name)
                del queue.hub.queues[queue.name]
    with at_an_end():
        for _ in range(5):
            network.loops[queue.reader].step(0.0)
    assert network.loops[queue.reader]._reception.counts() == {queue.place: 0}
    queue.hub.queues[queue.name] = hidden
    network.settle()
    assert (queue.held, network.dead_letters()) == (1, [])


@pytest.mark.usefixtures("restless")
def test_a_queue_whose_prefetch_waits_holds_up_no_other(network, at_an_end):
    queue = QUEUES["link"](network)
    for _ in range(PREFETCH + 20):
        queue.write(LATER)
    view = network.relay("kme-1", "kme-8")
    assert (view.state, {route[1:3] for route in view.missing}) == ("confirmed", {("kme-3", "kme-5")})
    assert (queue.held, network.dead_letters()) == (PREFETCH, [])
    assert queue.ready > 20
    assert sample(queue, "messages_held", queue=queue.place) == PREFETCH
    with at_an_end():
        network.settle()
        assert len(network.dead_letters()) == PREFETCH + 20
    assert (queue.held, queue.ready, network.show(view.relay_id).missing) == (0, 0, ())


@pytest.mark.parametrize("name", ["control", "results"])
def test_a_full_queue_of_one_kme_holds_up_the_relays_of_no_other(network, name):
    queue = QUEUES[name](network)
    for _ in range(PREFETCH):
        queue.write(LATER)
    assert network.relay("kme-1", "kme-5").state == "confirmed"
    assert (queue.held, network.dead_letters()) == (PREFETCH, [])


def test_shares_that_waited_arrive_after_the_upgrade(network, monkeypatch):
    def is_later(body):
        """As if what kme-3 seals for kme-5 were of a version that this does not know."""
        return VERSION if body in [each.body for each in network.sealed if each.routing_key == LINK] else None

    with monkeypatch.context() as patch:
        patch.setattr(reception, "later_version", is_later)
        view = network.relay("kme-1", "kme-8")
    assert {route[1:3] for route in view.missing} == {("kme-3", "kme-5")}
    network.loops["kme-5"].close()
    begin(network, "kme-5")
    assert network.show(view.relay_id).missing == ()
    assert network.dead_letters() == []


# --- at RabbitMQ -----------------------------------------------------------------------------------

HERE, OTHER = link_queue("kme-1", "kme-2"), link_queue("kme-3", "kme-2")


class Noting:
    """A service that notes what it is given to handle."""

    def __init__(self):
        self.journal, self.metrics, self.handled = Journal(None, "noting", ""), Metrics(), []

    def handle(self, delivery, now):
        self.handled.append((delivery.queue, delivery.body))
        return True

    def start(self, now): ...
    def tick(self, now, **about): ...
    def committed(self): ...


@pytest.fixture
def host(rabbitmq):
    with rabbitmq.vhost(["kme-1", "kme-2", "kme-3"], [("kme-1", "kme-2"), ("kme-3", "kme-2")]) as host:
        yield host


class AtRabbitMq:
    """kme-2 at a broker, of each queue of which it takes four at a time; and those that write to it."""

    def __init__(self, host, closing, site):
        self.host, self.closing, self.site = host, closing, site
        self.senders = {kme: self.broker(kme) for kme in ("kme-1", "kme-3")}
        self.sent = 0
        self.start()

    def broker(self, user, *queues):
        def way(queues, site):
            login = {"user": user, "password": self.host.passwords[user], "vhost": self.host.vhost}
            options = {"prefetch": 4, "backoff_max_s": 1.0, "queues": queues, "site": site}
            return RabbitMqSettings(addresses=self.host.addresses, **login, **options)

        elsewhere = [way(queues, self.site)] if self.site else []
        broker = RabbitMqBroker(way(() if self.site else queues, ""), elsewhere)
        self.closing.callback(broker.close, 0)
        broker.start()
        return broker

    def start(self):
        self.service = Noting()
        self.loop = Loop(self.service, self.broker("kme-2", HERE, OTHER))

    def send(self, sender, *bodies):
        broker = self.senders[sender]
        first, self.sent = self.sent, self.sent + len(bodies)
        publications = [
            Publication(first + number, kme_exchange(sender), link_queue(sender, "kme-2"), body)
            for number, body in enumerate(bodies)
        ]
        broker.publish(publications)
        confirmed = set()
        eventually(lambda: confirmed.update(broker.receive(0, 0.02).confirmed) or len(confirmed) == len(bodies))

    def until(self, condition, what):
        eventually(lambda: [self.loop.step(0.02), condition()][1], what=what, timeout_s=30)

    def left(self, queue):
        """Messages of a queue that are ready, and that are not acknowledged."""
        found = self.host.server.call("GET", f"queues/{self.host.vhost}/{queue}")
        return found.get("messages_ready", 0), found.get("messages_unacknowledged", 0)


@pytest.fixture(params=["", "berlin"])
def kme(request, host):
    with ExitStack() as closing:
        yield AtRabbitMq(host, closing, request.param)


@pytest.mark.rabbitmq
def test_at_rabbitmq_too_they_wait_hold_up_their_queue_alone_and_come_again(kme, host, monkeypatch):
    kme.send("kme-1", b"1", LATER, b"2", LATER, b"3", LATER)
    kme.until(lambda: len(kme.service.handled) == 3, "what can be handled")
    kme.until(lambda: kme.left(HERE) == (0, 3), "the rest to wait")
    kme.send("kme-1", LATER, b"behind")
    kme.send("kme-3", *[b"others"] * 20)
    kme.until(lambda: len(kme.service.handled) == 23, "what is for others")
    kme.until(lambda: (kme.left(HERE), kme.left(OTHER)) == ((1, 4), (0, 0)), "the queue to be full")
    assert [body for queue, body in kme.service.handled if queue == HERE] == [b"1", b"2", b"3"]

    held, seen = kme.loop._reception, kme.loop._reception.seen.generation
    host.drop_connections("kme-2")
    kme.until(lambda: held.seen.generation > seen and [*held.counts().values()] == [4], "them to come again")
    assert len(kme.service.handled) == 23

    kme.loop.close()
    eventually(lambda: kme.left(HERE) == (5, 0), what="them to be the broker's")
    monkeypatch.setattr(reception, "later_version", lambda body: None)
    kme.start()
    kme.until(lambda: len(kme.service.handled) == 5, "all, with a program that knows the version")
    assert kme.service.handled == [(HERE, LATER)] * 4 + [(HERE, b"behind")]
    kme.until(lambda: kme.left(HERE) == (0, 0), "the acknowledgements")


@pytest.mark.rabbitmq
@pytest.mark.parametrize("kme", [""], indirect=True)
def test_at_rabbitmq_too_what_waited_long_enough_is_handled_once_and_what_was_behind_it(kme, monkeypatch):
    kme.send("kme-1", *[LATER] * 6, b"behind")
    kme.until(lambda: kme.left(HERE) == (3, 4), "the queue to be full")
    monkeypatch.setattr(reception, "HELD_S_MAX", 0.0)
    kme.until(lambda: len(kme.service.handled) == 7, "all")
    assert sorted(kme.service.handled) == sorted([(HERE, LATER)] * 6 + [(HERE, b"behind")])
    kme.until(lambda: kme.left(HERE) == (0, 0), "the acknowledgements")
