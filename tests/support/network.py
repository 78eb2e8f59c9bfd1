"""A whole network in one process, with a clock to set, services to kill and queues to write into."""

from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

from coordinator.lifecycle import Relay
from qkdrelay import client
from qkdrelay.broker.names import (
    COORD_EXCHANGE,
    REQUESTS_KEY,
    client_exchange,
    control_queue,
    kme_exchange,
    link_queue,
    results_queue,
)
from qkdrelay.broker.port import Publication, place
from qkdrelay.link.envelope import seal
from qkdrelay.messages import codec, plans
from qkdrelay.messages.blocks import Announce, BlocksHeld
from qkdrelay.messages.control import Terms
from qkdrelay.messages.dialogue import Asker
from qkdrelay.messages.link import SealedMessage, ShareHeader
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import LabRequest, LinkRequest, RelayRequest
from qkdrelay.network.key_cost import pad_needed
from qkdrelay.network.names import CLI, COORDINATOR
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import parse_topology
from qkdrelay_demo.network import EmbeddedNetwork
from support import descriptors
from support.clock import Clock
from support.kme import NOTHING, NOW
from support.plans import TOPOLOGIES


def topology(name):
    return parse_topology((TOPOLOGIES / f"{name}.toml").read_text(), name)


REFERENCE, DIAMOND = topology("eight-kmes"), topology("diamond")
DIAMOND_WITH_SAES = replace(DIAMOND, saes={"sae-1": "kme-1", "sae-4": "kme-4"})


class Killed(BaseException):
    """A process ended here, with nothing cleaned up."""


class Network(EmbeddedNetwork):
    """The network of ``topology``; ``sealed`` has every share that was published on a QKD link since it was made.

    And ``about_blocks`` what the ends of links told each other about blocks of key.
    """

    def __init__(self, topology=REFERENCE, **options):
        descriptors.spare()  # a test may make dozens of networks
        self.time = Clock()
        self.sealed, self.about_blocks = [], []
        super().__init__(topology, **{"clock": self.time, **options})
        for hub in self.hubs.values():
            hub.publish = self._recorded(hub.publish)

    def _recorded(self, publish):
        def recorded(user, publication):
            if publication.routing_key.startswith("link."):
                (self.about_blocks if is_about_blocks(publication.body) else self.sealed).append(publication)
            return publish(user, publication)

        return recorded

    def relay(self, source, target, policy="recursive", **wishes):
        """As the embedded network's, but by the reference rule unless told otherwise."""
        return super().relay(source, target, policy=policy, **wishes)

    def ask(self, body):
        """Return the answer once nothing moves any more: of a relay that is followed, how it is then."""
        if not isinstance(body, RelayRequest) or not body.follow:
            return self.client.ask(body, object)
        followed, last = self.client.follow(body), None
        while (view := followed.next(0.0)) is not None:
            last = view
        return last

    def service(self, name):
        return self.loops[name].service

    def later(self, seconds):
        """Let time pass, in one step, and then everything that can happen."""
        self.time.forward(seconds)
        self.settle()

    def wait(self, relay_id, seconds=31.0):
        """Let the deadline pass and show the relay."""
        self.later(seconds)
        return self.show(relay_id)

    def cut(self, a, b):
        self.ask(LinkRequest(a=a, b=b, up=False))

    def mend(self, a, b):
        self.ask(LinkRequest(a=a, b=b, up=True))

    def compromise(self, kme, mode):
        self.ask(LabRequest(kme=kme, mode=mode))

    def stop(self, *names):
        self.stopped = self.stopped | set(names)

    def resume(self, *names):
        self.stopped = self.stopped - set(names)
        self.settle()

    def demand(self, kme, compromised):
        """Have ``kme`` demand by its own settings that a plan withstands so many compromised KMEs."""
        self.settings[kme] = replace(self.settings[kme], withstand_compromised=compromised)
        self.restart(kme)
        self.settle()  # its neighbours hear of it: what they seal before, a store in memory could not open

    def copy_store(self, name):
        """Return ``name``'s store as it is now."""
        return self.loops[name].journal.connection.serialize()

    def step_clock(self, name, seconds):
        """Have the clock of ``name`` differ from everybody's by so much from now on."""
        self.loops[name].clock = lambda: self.clock() + seconds

    def restart(self, name, copy=None):
        """Start ``name`` anew from what is on its disk, as after a kill; or from a ``copy`` of its store."""
        if name != COORDINATOR:
            self.time.forward(0.1)  # a start takes a while; and blocks begun after it sort after those before
        old = self.loops[name]
        old.broker.close(0.0)
        old.journal.close()
        if copy is not None:
            old.journal.path.write_bytes(copy)
        self.start(name)
        self.loops[name].clock = old.clock
        self.loops[name].start()

    def take_over(self, folder, *, stopped=None):
        """Have another coordinator lead, from a ``folder`` of its own; the one before was killed.

        Or it was ``stopped``, and its connections are gone: it is a service by this name from now on.
        """
        old = self.loops[COORDINATOR]
        if stopped is None:
            old.broker.close(0.0)
            old.journal.close()
        else:
            self.loops[stopped] = old
            self.stop(stopped)
            with old.broker._changed:
                for reader in old.broker._readers.values():
                    reader.lose()
        self.time.forward(5.0)
        self.start_coordinator(folder, anew=True)
        self.loops[COORDINATOR].start()

    def lose_connections(self, name, *sites):
        """Have ``name`` lose its connections to the brokers of these sites (of all): what it has not given up is back.

        Its own site is the one of no name.
        """
        readers = self.loops[name].broker._readers
        for site in sites or readers:
            with readers[site].hub.lock:
                readers[site].lose()

    def lose_queues(self, name, deliveries):
        """Have ``name`` lose the queues of these alone."""
        readers = self.loops[name].broker._readers
        for site, queue in {(delivery.site, delivery.queue) for delivery in deliveries}:
            with readers[site].hub.lock:
                readers[site].lose_queue(queue)

    def filled(self):
        """What is in queues, delivered or not: (site, queue, number of each message)."""
        found = []
        for site, hub in sorted(self.hubs.items()):
            with hub.lock:
                held = [each for reader in hub._connections for each in reader._unacknowledged.values()]
                for name, queue in sorted(hub.queues.items()):
                    messages = [*queue.ready, *(message for of, message in held if of == name)]
                    if messages:
                        found.append((site, name, *sorted(message.number for message in messages)))
        return found

    def empty(self, site, *queues):
        """Lose what is in these queues of a site's broker, delivered or not; in all of them, and all connections.

        As if it was restored empty.
        """
        hub = self.hubs[site]
        with hub.lock:
            for reader in tuple(hub._connections):
                if not queues:
                    reader.lose()
                for name in reader.consumed & set(queues):
                    reader.lose_queue(name)
            for name in queues or hub.queues:
                hub.queues[name].ready.clear()
                hub.queues[name].ready_bytes = 0

    def lose_commands(self, name):
        """Lose what the coordinator told ``name`` and it has not handled: the broker thinks it has. Return how many."""
        broker, home = self.loops[name].broker, self.topology.coordinator
        control = place(control_queue(name), "" if self.topology.site_of.get(name, "") == home else home)
        links = [queue for queue in broker._inbox._waiting if queue != control]
        lost = broker._inbox.take(1_000_000, links)
        broker.acknowledge(lost)
        return len(lost)

    def kill_at(self, name, point):
        """Have ``name`` die at that one of its crash points, counted from 0.

        They lie before and after each commit, and before and after each single publication and acknowledgement.
        """
        loop, left = self.loops[name], point

        def passing():
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1

        def singly(act):
            def acting(many):
                for one in many:
                    act([one])
                    passing()

            return acting

        transaction = loop.journal.transaction

        @contextmanager
        def stepped():
            with transaction():
                yield
                passing()
            passing()

        loop.journal.transaction = stepped
        loop.broker.publish = singly(loop.broker.publish)
        loop.broker.acknowledge = singly(loop.broker.acknowledge)

    def sending(self, sender, receiver):
        """The end of a link that seals: what it has granted, and what it announces."""
        return self.service(sender).links.keys._exchanges[receiver].sending

    def source(self, sender, receiver):
        """What makes the key that ``sender`` seals with for ``receiver``."""
        return self.links[sender][receiver].source

    def limit_key(self, sender, receiver, clock, *, rate_bps, buffer_bytes):
        """Give one direction of a link little key from now on: what was granted before is gone."""
        source, sending = self.source(sender, receiver), self.sending(sender, receiver)
        source._rate, source._buffer, source._clock = rate_bps / 8, buffer_bytes, clock
        source._level, source._at = float(buffer_bytes), clock()
        self._drop_granted(sending)
        self.settle()

    def drain(self, sender, receiver, part=1.0):
        """Take key away from one direction of a link: so much of what is left, and of what is granted all."""
        source, sending = self.source(sender, receiver), self.sending(sender, receiver)
        source._level = (1.0 - part) * source.available()
        self._drop_granted(sending)
        self.service(sender)._hello.expire()
        self.settle()

    def _drop_granted(self, sending):
        sending._sender, sending._slack = sending._sender.reconnected(), -1

    def refill(self, sender, receiver):
        """Let one direction of a link have all the key that it can keep."""
        source = self.source(sender, receiver)
        source._level = float(source.capacity())
        self.service(sender)._hello.expire()
        self.settle()

    def inject(self, user, exchange, routing_key, body):
        """Write a message as ``user``, as whoever has the broker in hand can."""
        hub = self.hub_of(user)
        with hub.lock:
            assert hub.publish(user, Publication(None, exchange, routing_key, body)) is None

    def on_link(self, sender, receiver, body):
        self.inject(sender, kme_exchange(sender), link_queue(sender, receiver), body)

    def as_coordinator(self, kme, body):
        self.inject(COORDINATOR, COORD_EXCHANGE, control_queue(kme), body)

    def as_kme(self, kme, body):
        """To the coordinator."""
        self.inject(kme, kme_exchange(kme), results_queue(kme), body)

    def as_cli(self, body):
        self.inject(CLI, client_exchange(CLI), REQUESTS_KEY, body)

    def asker(self, address="cli.q.0"):
        """A command line, at whose queue nobody reads unless told otherwise."""
        return Asker(self.cli_key, address, self.clock)

    def dead_letters(self):
        """(KME, queue, reason) of each, oldest first."""
        letters = self.coordinator_store.dead_letters.latest()
        return [(letter.kme, letter.queue, letter.reason) for letter in reversed(letters)]

    def headers(self):
        """(header, body) of every share that was published on a QKD link."""
        for publication in self.sealed:
            yield codec.decode(codec.decode(publication.body, SealedMessage).header, ShareHeader), publication.body

    def pads(self):
        """Every byte of pad that was used: (link, block, offset), as often as messages were sealed with it."""
        headers = {body: header for header, body in self.headers()}
        return [
            (header.link, piece.block, offset)
            for header in headers.values()
            for piece in header.pad
            for offset in range(piece.offset, piece.offset + piece.length)
        ]

    def slots(self):
        """The messages that were sealed under each slot: (link, block, index) -> set of bytes."""
        used = {}
        for header, body in self.headers():
            used.setdefault((header.link, header.slot.block, header.slot.index), set()).add(body)
        return used


def is_about_blocks(body):
    """Whether a message on a QKD link is about blocks of key, and no share."""
    return codec.is_of(body, Announce) or codec.is_of(body, BlocksHeld)


def sealed_by(network, sender, receiver, route, part, payload, *, key=None, **changes):
    """What a compromised KME, which has its links' keys, can send: anything, correctly sealed.

    ``key`` is what it drew for another message; without it, it draws some.
    """
    suite = network.links[sender][receiver].suite
    sending, needed = network.sending(sender, receiver), pad_needed(suite, len(payload))
    key = key or sending.draw(needed)
    if key is None:  # it is granted more, like anybody who uses so much
        sending._drawn += 2 * needed
        network.settle()
        key = sending.draw(needed)
    header = {
        "link": (sender, receiver),
        "slot": key.slot_name,
        "pad": key.pieces,
        "relay_id": uuid4(),
        "route": tuple(route),
        "plan": part if isinstance(part, bytes) else plans.encode_plan(part),
        "deadline": network.clock() + 60.0,
    }
    return seal(suite, ShareHeader(**{**header, **changes}), payload, key.slot, key.pad)


def of(kmes, links):
    """A topology of these."""
    return Topology("drawn", tuple(kmes), tuple(links))


def carried(network, plan):
    """Relay once over just this plan, let the deadline pass if it comes to that, and return what is shown of it."""
    amount = {"key_count": 1, "key_size_bits": 128, "withstand": NOTHING}
    deadline, plan = network.clock() + 30.0, plans.encode_plan(plan)
    terms = Terms(relay_id=new_relay_id(NOW), plan=plan, supply=None, deadline=deadline, **amount)
    planned = Relay(terms=terms, policy="", protected=False, created_at=network.clock())
    with network.coordinator_store.journal.transaction():
        network.service(COORDINATOR).relays.change(None, planned, network.clock())
    network.settle()
    return network.wait(terms.relay_id)


def relay_request(source, target, **wishes):
    """As the client's, at the time at which a network's clock begins."""
    return client.relay_request(source, target, **{"relay_id": new_relay_id(NOW), **wishes})


def ask(network, source, target, *, relay_id=None, **wishes):
    """Ask for a relay, or for a known one once more, and let nothing happen yet; return its id."""
    relay_id = relay_id or new_relay_id(network.clock())
    wishes = {"relay_id": relay_id, "policy": "recursive", "allow_unprotected": True, **wishes}
    body = relay_request(source, target, **wishes)
    network.as_cli(network.asker().request(body)[1])
    return body.relay_id
