"""What every broker must do. Written once; collected through one subclass for each broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pytest

from qkdrelay.broker.names import (
    DEAD_LETTERS_QUEUE,
    REPLIES_EXCHANGE,
    control_queue,
    dead_key,
    kme_exchange,
    link_queue,
    requests_queue,
    results_queue,
)
from qkdrelay.broker.port import Broker, Client, Delivery, MessageTooLargeError, Publication, Received, place
from qkdrelay.messages.codec import MESSAGE_BYTES_MAX
from qkdrelay.network.names import CLI, COORDINATOR
from support.waiting import eventually

KMES = ("kme-1", "kme-2", "kme-10")
LINKS = (("kme-1", "kme-2"), ("kme-10", "kme-2"))
LINK = link_queue("kme-1", "kme-2")
OTHER_LINK = link_queue("kme-10", "kme-2")

QUIET_S = 0.3
"""How long nothing has to happen before a test believes that nothing will."""


class Network(Protocol):
    """A broker with the definitions of `KMES` and `LINKS`, and the hands to disturb it."""

    elsewhere: str
    """The site that services read at it as, while they publish at it as their own; empty if it is simply theirs."""

    def connect(self, user: str, queues: Sequence[str] = (), prefetch: int = 100) -> Broker: ...
    def made(self, user: str, queues: Sequence[str] = (), prefetch: int = 100) -> Broker: ...
    def client(self, watch: Sequence[str] = ()) -> Client: ...
    def drop(self, user: str) -> None: ...
    def bind(self, source: str, routing_key: str, destination: str) -> None: ...
    def unbind(self, source: str, routing_key: str, destination: str) -> None: ...
    def make_queue(self, queue: str) -> None: ...
    def delete_queue(self, queue: str) -> None: ...
    def make_exchange(self, exchange: str) -> None: ...
    def delete_exchange(self, exchange: str) -> None: ...


Adjust = Callable[[dict[str, Any]], None]
NetworkFactory = Callable[[Adjust], AbstractContextManager[Network]]


class Service:
    """Steps one broker and keeps all that came out of it."""

    def __init__(self, broker: Broker, *, acknowledges: bool = False) -> None:
        self.broker = broker
        self.acknowledges = acknowledges
        self.deliveries: list[Delivery] = []
        self.confirmed: list[int] = []
        self.last: Received = Received(deliveries=[], confirmed=[], connected=False, generation=0, publishing=0)

    @property
    def unusable(self) -> dict[str, str]:
        """What cannot be used, and why, at the own broker or at another site's."""
        return {
            **self.last.refused,
            **{name: why for far in self.last.sites.values() for name, why in far.refused.items()},
        }

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    def step(self, timeout_s: float = 0.02, limit: int = 1000, resting: Sequence[str] = ()) -> None:
        self.last = self.broker.receive(limit, timeout_s, resting)
        self.deliveries += self.last.deliveries
        self.confirmed += self.last.confirmed
        if self.acknowledges and self.last.deliveries:
            self.broker.acknowledge(self.last.deliveries)

    def until(self, condition: Callable[[], object], what: str = "", timeout_s: float = 30.0) -> None:
        def stepped() -> bool:
            self.step()
            return bool(condition())

        eventually(stepped, timeout_s=timeout_s, what=what)

    def until_connected(self) -> Service:
        self.until(lambda: self.last.connected, "a connection")
        return self

    def receive(self, count: int) -> list[Delivery]:
        """Wait until ``count`` more deliveries are there, and return those."""
        seen = len(self.deliveries)
        self.until(lambda: len(self.deliveries) >= seen + count, f"{count} deliveries after {seen}")
        assert len(self.deliveries) == seen + count
        return self.deliveries[seen:]

    def until_taken(self, count: int, *, resting: Sequence[str]) -> None:
        """Wait until ``count`` deliveries in all are there, from queues that do not rest."""

        def taken() -> bool:
            self.step(resting=resting)
            return len(self.deliveries) >= count

        eventually(taken, what=f"{count} deliveries")

    def take_nothing_until(self, condition: Callable[[], object]) -> None:
        """Wait for ``condition``, with whatever is delivered left where it is."""

        def stepped() -> bool:
            self.step(limit=0)
            return bool(condition())

        eventually(stepped)

    def receive_in_turns(self, count: int, *, limit: int) -> None:
        """Wait until ``count`` deliveries in all are there, taken ``limit`` at a time."""

        def taken() -> bool:
            self.step(limit=limit)
            return len(self.deliveries) >= count

        eventually(taken, what=f"{count} deliveries")

    def receive_any_order(self, count: int) -> list[bytes]:
        """Wait for ``count`` more deliveries, and return their bodies sorted: what comes back may come late."""
        return sorted(delivery.body for delivery in self.receive(count))

    def settle(self, count: int) -> None:
        """Wait until ``count`` publications are confirmed, or nothing more is for `QUIET_S`."""
        before = -1
        while before < len(self.confirmed) < count:
            before = len(self.confirmed)
            self.step(QUIET_S)

    def gets_nothing(self) -> None:
        seen = len(self.deliveries)
        self.step(QUIET_S)
        assert self.deliveries[seen:] == []

    def publish(self, bodies: Sequence[bytes], key: str = LINK, exchange: str = "kme.kme-1", first: int = 0) -> None:
        """Publish and wait for the confirm of each."""
        self.broker.publish([Publication(first + i, exchange, key, body) for i, body in enumerate(bodies)])
        wanted = set(range(first, first + len(bodies)))
        self.until(lambda: wanted <= set(self.confirmed), "all confirms")


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [number.to_bytes(4, "big") for number in range(start, start + count)]


def report(number: int) -> list[Publication]:
    """A message of kme-1 for a queue that is always there."""
    return [Publication(number, "kme.kme-1", results_queue("kme-1"), b"report")]


class BrokerContract:
    """Subclasses provide the fixture ``make_network``."""

    @pytest.fixture
    def network(self, make_network: NetworkFactory) -> Iterator[Network]:
        with make_network(lambda _: None) as network:
            yield network

    @pytest.fixture
    def sender(self, network: Network) -> Service:
        return Service(network.connect("kme-1"))

    @pytest.fixture
    def receiver(self, network: Network) -> Service:
        return Service(network.connect("kme-2", [LINK]))

    def test_a_published_message_is_confirmed_and_delivered(self, sender: Service, receiver: Service) -> None:
        sender.publish([b"\x00share\xff"], first=41)
        (delivery,) = receiver.receive(1)
        assert sender.confirmed == [41]
        assert (delivery.queue, delivery.routing_key) == (LINK, LINK)
        assert delivery.body == b"\x00share\xff"
        assert not delivery.redelivered

    def test_who_waits_is_woken_by_a_message_and_by_a_confirm(self, sender: Service, receiver: Service) -> None:
        sender.until_connected()
        receiver.until_connected()
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(receiver.broker.receive, 10, 60.0)
            sender.broker.publish([Publication(1, "kme.kme-1", LINK, b"wake up")])
            assert [delivery.body for delivery in waiting.result(10).deliveries] == [b"wake up"]
            assert sender.broker.receive(0, 10).confirmed == [1]

    def test_who_waits_is_woken_from_any_thread_and_if_nobody_waits_the_next_one_does_not(
        self, sender: Service
    ) -> None:
        sender.until_connected()
        with ThreadPoolExecutor() as threads:
            for _ in range(3):
                waiting = threads.submit(sender.broker.receive, 10, 60.0)
                sender.broker.wake()
                assert waiting.result(10).deliveries == []

    def test_who_waits_hears_of_a_new_connection_when_it_is_there(self, network: Network, receiver: Service) -> None:
        before = receiver.until_connected().last

        def until_it_is_another() -> Received:
            while (now := receiver.broker.receive(10, 60.0)).generation == before.generation or not now.connected:
                pass
            return now

        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(until_it_is_another)
            network.drop("kme-2")
            assert waiting.result(30).publishing > before.publishing

    def test_before_it_is_started_nothing_comes(self, network: Network, sender: Service) -> None:
        sender.publish([b"early"])
        receiver = Service(network.made("kme-2", [LINK]))
        receiver.step(QUIET_S)
        assert (receiver.bodies, receiver.last.generation) == ([], 0)
        receiver.broker.start()
        receiver.broker.start()
        receiver.receive(1)
        assert receiver.bodies == [b"early"]

    def test_a_delivery_names_its_sender_by_the_exchange(self, network: Network) -> None:
        receiver = Service(network.connect("kme-2", [LINK, OTHER_LINK]))
        Service(network.connect("kme-1")).publish([b"from 1"])
        Service(network.connect("kme-10")).publish([b"from 10"], OTHER_LINK, kme_exchange("kme-10"))
        deliveries = receiver.receive(2)
        assert {delivery.body: delivery.exchange for delivery in deliveries} == {
            b"from 1": "kme.kme-1",
            b"from 10": "kme.kme-10",
        }

    def test_an_acknowledged_message_does_not_come_again(
        self, network: Network, sender: Service, receiver: Service
    ) -> None:
        sender.publish([b"done"])
        receiver.broker.acknowledge(receiver.receive(1))
        sender.publish([b"open"], first=1)
        receiver.receive(1)
        network.drop("kme-2")
        (again,) = receiver.receive(1)
        assert again.body == b"open"

    def test_what_was_not_acknowledged_is_redelivered_after_a_lost_connection(
        self, network: Network, sender: Service, receiver: Service
    ) -> None:
        sender.publish(numbered(5))
        before = receiver.receive(5)
        network.drop("kme-2")
        after = receiver.receive(5)
        assert sorted(delivery.body for delivery in after) == numbered(5)
        assert [delivery.redelivered for delivery in after] == [True] * 5
        assert before[0].token[0] < after[0].token[0] <= receiver.last.generation

    def test_a_queue_whose_channel_was_lost_is_named_once_before_or_with_what_comes_of_it_again(
        self, network: Network, sender: Service
    ) -> None:
        link, other = (place(queue, network.elsewhere) for queue in (LINK, OTHER_LINK))
        receiver = Service(network.connect("kme-2", [LINK, OTHER_LINK]))
        sender.publish([b"held"])
        receiver.receive(1)
        named: list[str] = []

        def come_again() -> bool:
            named.extend(receiver.last.returned)
            assert link in named or not receiver.last.deliveries
            return len(named) >= 2 and receiver.bodies == [b"held", b"held"]

        network.drop("kme-2")
        receiver.until(come_again, "the message once more")
        receiver.step(QUIET_S)
        assert sorted([*named, *receiver.last.returned]) == sorted([link, other])

    def test_a_queue_that_is_lost_alone_is_named_alone(self, network: Network, sender: Service) -> None:
        receiver = Service(network.connect("kme-2", [LINK, OTHER_LINK]))
        sender.publish([b"held"])
        receiver.receive(1)
        network.delete_queue(LINK)
        receiver.until(lambda: receiver.last.returned, "the name of the queue")
        assert set(receiver.last.returned) == {place(LINK, network.elsewhere)}

    def test_stale_acknowledgements_are_ignored(self, network: Network, sender: Service, receiver: Service) -> None:
        sender.publish(numbered(3))
        stale = receiver.receive(3)
        network.drop("kme-2")
        receiver.receive(3)
        receiver.broker.acknowledge(stale)
        sender.publish([b"still works"], first=3)
        receiver.receive(1)
        network.drop("kme-2")
        assert receiver.receive_any_order(4) == [*numbered(3), b"still works"]

    def test_any_subset_can_be_acknowledged_and_twice(
        self, network: Network, sender: Service, receiver: Service
    ) -> None:
        sender.publish(numbered(10))
        deliveries = receiver.receive(10)
        chosen = [deliveries[i] for i in (9, 0, 1, 4, 6)]
        receiver.broker.acknowledge(chosen)
        receiver.broker.acknowledge(chosen)
        receiver.broker.acknowledge([deliveries[2], deliveries[0]])
        sender.publish([b"next"], first=10)
        assert receiver.receive(1)[0].token[0] == deliveries[0].token[0], "the connection was lost"
        network.drop("kme-2")
        rest = [deliveries[i].body for i in (3, 5, 7, 8)]
        assert receiver.receive_any_order(5) == [*rest, b"next"]

    def test_the_prefetch_bounds_what_is_unacknowledged(self, network: Network, sender: Service) -> None:
        receiver = Service(network.connect("kme-2", [LINK], prefetch=3))
        sender.publish(numbered(10))
        first = receiver.receive(3)
        receiver.gets_nothing()
        receiver.broker.acknowledge(first[1:2])
        receiver.receive(1)
        receiver.gets_nothing()

    def test_receive_returns_no_more_than_asked_for(self, sender: Service, receiver: Service) -> None:
        sender.publish(numbered(5))
        receiver.until(lambda: receiver.deliveries)
        while len(receiver.deliveries) < 5:
            receiver.step(limit=2)
            assert len(receiver.last.deliveries) <= 2
        assert receiver.bodies == numbered(5)

    def test_queues_take_turns_so_that_a_full_one_holds_up_no_other(self, network: Network, sender: Service) -> None:
        receiver = Service(network.connect("kme-2", [LINK, OTHER_LINK]))
        # All is delivered before any of it is taken, and the full queue's first.
        receiver.take_nothing_until(lambda: receiver.last.connected)
        sender.publish([b"full"] * 50)
        receiver.step(QUIET_S, limit=0)
        Service(network.connect("kme-10")).publish([b"other"] * 3, OTHER_LINK, kme_exchange("kme-10"))
        receiver.step(QUIET_S, limit=0)
        receiver.receive_in_turns(53, limit=2)
        order = receiver.bodies
        assert order.count(b"other") == 3
        assert max(place for place, body in enumerate(order) if body == b"other") <= 8

    def test_a_queue_that_rests_is_left_out_and_keeps_what_it_has(self, network: Network, sender: Service) -> None:
        receiver = Service(network.connect("kme-2", [LINK, OTHER_LINK]))
        sender.publish(numbered(3))
        Service(network.connect("kme-10")).publish([b"other"], OTHER_LINK, kme_exchange("kme-10"))
        resting = [place(LINK, network.elsewhere)]
        receiver.until_taken(1, resting=resting)
        receiver.step(QUIET_S, resting=resting)
        assert receiver.bodies == [b"other"]
        assert [delivery.body for delivery in receiver.receive(3)] == numbered(3)

    def test_who_waits_for_queues_that_all_rest_waits(
        self, network: Network, sender: Service, receiver: Service
    ) -> None:
        sender.publish([b"rests"])
        receiver.step(QUIET_S, resting=[place(LINK, network.elsewhere)])
        assert receiver.deliveries == []
        receiver.receive(1)

    def test_each_connection_to_publish_on_has_a_number_of_its_own(self, network: Network, sender: Service) -> None:
        sender.until(lambda: sender.last.connected)
        before = sender.last.publishing
        assert before >= 1
        network.drop("kme-1")
        sender.until(lambda: sender.last.connected and sender.last.publishing > before, "another connection")
        sender.publish([b"goes on"])
        assert sender.last.publishing > before

    def test_a_message_nobody_is_bound_for_is_confirmed_only_once_it_is_routed(
        self, network: Network, sender: Service, receiver: Service
    ) -> None:
        network.unbind("kme.kme-1", LINK, LINK)
        sender.broker.publish([Publication(1, "kme.kme-1", LINK, b"early")])
        sender.publish([b"report"], results_queue("kme-1"), first=2)
        sender.step(QUIET_S)
        assert sender.confirmed == [2]
        network.bind("kme.kme-1", LINK, LINK)
        sender.until(lambda: 1 in sender.confirmed, "the confirm")
        assert receiver.receive(1)[0].body == b"early"
        receiver.gets_nothing()

    def test_an_observation_is_not_retried_and_has_no_outcome(self, network: Network, sender: Service) -> None:
        coordinator = Service(network.connect(COORDINATOR, [results_queue("kme-1")]))
        sender.until_connected()
        sender.broker.publish(
            [
                Publication(None, "kme.kme-1", "nobody.listens", b"lost"),
                Publication(None, "kme.kme-1", results_queue("kme-1"), b"seen"),
            ]
        )
        sender.publish([b"kept"], results_queue("kme-1"), first=7)
        assert [delivery.body for delivery in coordinator.receive(2)] == [b"seen", b"kept"]
        sender.step(QUIET_S)
        assert sender.confirmed == [7]

    def test_the_largest_message_passes(self, sender: Service, receiver: Service) -> None:
        body = bytes(range(256)) * (MESSAGE_BYTES_MAX // 256)
        sender.publish([body])
        assert receiver.receive(1)[0].body == body

    def test_a_larger_message_is_refused_with_all_that_came_with_it(self, sender: Service, receiver: Service) -> None:
        small = Publication(1, "kme.kme-1", LINK, b"small")
        large = Publication(2, "kme.kme-1", LINK, bytes(MESSAGE_BYTES_MAX + 1))
        with pytest.raises(MessageTooLargeError, match=str(MESSAGE_BYTES_MAX)):
            sender.broker.publish([small, large])
        receiver.gets_nothing()

    def test_one_consumer_of_a_queue_is_active_and_another_takes_over(self, network: Network, sender: Service) -> None:
        active = Service(network.connect("kme-2", [LINK], prefetch=2)).until_connected()
        standby = Service(network.connect("kme-2", [LINK])).until_connected()
        sender.publish(numbered(5))
        active.receive(2)
        standby.gets_nothing()
        active.broker.close(5)
        assert standby.receive_any_order(5) == numbered(5)

    def test_a_kme_cannot_write_what_is_anothers(self, network: Network, sender: Service) -> None:
        # kme.kme-1 is how kme.kme-10 begins: an unanchored permission would open it.
        receiver = Service(network.connect("kme-2", [OTHER_LINK]))
        sender.publish([b"own"])
        sender.broker.publish([Publication(1, "kme.kme-10", OTHER_LINK, b"forged")])
        sender.step(QUIET_S)
        Service(network.connect("kme-10")).publish([b"honest"], OTHER_LINK, "kme.kme-10")
        assert receiver.receive(1)[0].body == b"honest"
        receiver.gets_nothing()
        assert sender.confirmed == [0]

    def test_a_kme_cannot_read_what_is_anothers(self, network: Network, sender: Service, receiver: Service) -> None:
        thief = Service(network.connect("kme-10", [LINK]))
        thief.step(QUIET_S)
        sender.publish([b"for kme-2"])
        thief.gets_nothing()
        assert (set(thief.unusable), thief.last.connected) == ({LINK}, bool(network.elsewhere))
        assert receiver.receive(1)[0].body == b"for kme-2"

    def test_a_queue_deleted_while_it_is_read_is_named_and_the_others_go_on(
        self, network: Network, sender: Service
    ) -> None:
        other = Service(network.connect("kme-10"))
        receiver = Service(network.connect("kme-2", [LINK, OTHER_LINK]))
        sender.publish([b"read"])
        (held,) = receiver.receive(1)
        network.delete_queue(LINK)
        receiver.until(lambda: LINK in receiver.unusable, "the loss of the queue")
        other.publish([b"meanwhile"], OTHER_LINK, "kme.kme-10")
        (meanwhile,) = receiver.receive(1)
        assert (meanwhile.body, receiver.last.connected) == (b"meanwhile", True)
        before = receiver.last.generation
        sender.broker.publish([Publication(1, "kme.kme-1", LINK, b"waits"), *report(2)])
        sender.until(lambda: 2 in sender.confirmed and sender.last.unrouted, "the report, and what is not routed")
        assert (sender.last.unrouted, 1 in sender.confirmed) == ({LINK: "kme.kme-1"}, False)
        network.make_queue(LINK)
        network.bind("kme.kme-1", LINK, LINK)
        sender.until(lambda: 1 in sender.confirmed and not sender.last.unrouted, "the confirm")
        assert receiver.receive(1)[0].body == b"waits"
        receiver.until(lambda: not receiver.unusable)
        assert receiver.last.generation > before, "who reads a queue anew may have missed something"
        receiver.broker.acknowledge([held])  # of the queue that was
        receiver.broker.acknowledge([meanwhile])
        receiver.broker.close(10)
        successor = Service(network.connect("kme-2", [LINK, OTHER_LINK]))
        assert successor.receive(1)[0].body == b"waits"
        successor.gets_nothing()

    def test_a_queue_that_is_missing_at_the_start_is_named_and_read_once_it_is_there(
        self, network: Network, sender: Service
    ) -> None:
        network.delete_queue(LINK)
        receiver = Service(network.connect("kme-2", [control_queue("kme-2"), LINK, OTHER_LINK]), acknowledges=True)
        Service(network.connect("kme-10")).publish([b"others go on"], OTHER_LINK, "kme.kme-10")
        assert receiver.receive(1)[0].body == b"others go on"
        receiver.until(lambda: set(receiver.unusable) == {LINK}, "the name of the queue")
        assert "no queue" in receiver.unusable[LINK]
        assert receiver.last.connected
        network.make_queue(LINK)
        network.bind("kme.kme-1", LINK, LINK)
        sender.publish([b"back"])
        assert receiver.receive(1)[0].body == b"back"

    def test_a_queue_this_user_may_not_read_does_not_concern_the_others(
        self, network: Network, sender: Service
    ) -> None:
        foreign = control_queue("kme-1")
        receiver = Service(network.connect("kme-2", [foreign, LINK]))
        sender.publish([b"for kme-2"])
        assert receiver.receive(1)[0].body == b"for kme-2"
        receiver.until(lambda: foreign in receiver.unusable)
        assert set(receiver.unusable) == {foreign}

    def test_what_is_for_a_missing_exchange_waits_alone(self, network: Network, sender: Service) -> None:
        coordinator = Service(network.connect(COORDINATOR))
        kme = Service(network.connect("kme-1", [control_queue("kme-1")]), acknowledges=True)
        network.delete_exchange(REPLIES_EXCHANGE)
        replies = [Publication(number, REPLIES_EXCHANGE, "cli.q.gone", b"reply") for number in (1, 2)]
        coordinator.broker.publish([*replies, Publication(None, REPLIES_EXCHANGE, "cli.q.gone", b"lost")])
        for number in range(3, 30):
            coordinator.publish([b"order"], control_queue("kme-1"), "coord", first=number)
        kme.receive(27)
        coordinator.until(lambda: coordinator.last.refused)
        assert set(coordinator.last.refused) == {REPLIES_EXCHANGE}
        assert "no exchange" in coordinator.last.refused[REPLIES_EXCHANGE]
        assert coordinator.last.connected
        network.make_exchange(REPLIES_EXCHANGE)
        network.bind(REPLIES_EXCHANGE, "cli.q.gone", control_queue("kme-1"))
        coordinator.until(lambda: {1, 2} <= set(coordinator.confirmed) and not coordinator.last.refused)
        assert kme.receive_any_order(2) == [b"reply", b"reply"]

    def test_an_exchange_that_only_observations_go_to_is_used_again_once_it_is_back(self, network: Network) -> None:
        coordinator = Service(network.connect(COORDINATOR))
        kme = Service(network.connect("kme-1", [control_queue("kme-1")]))
        network.delete_exchange(REPLIES_EXCHANGE)
        reply = Publication(None, REPLIES_EXCHANGE, "cli.q.gone", b"reply")

        def refused() -> bool:
            coordinator.broker.publish([reply])
            return bool(coordinator.last.refused)

        coordinator.until(refused, "the missing exchange")
        network.make_exchange(REPLIES_EXCHANGE)
        network.bind(REPLIES_EXCHANGE, "cli.q.gone", control_queue("kme-1"))

        def accepted() -> bool:
            coordinator.broker.publish([reply])
            kme.step()
            return bool(kme.deliveries) and not coordinator.last.refused

        coordinator.until(accepted, "the exchange to be used again")

    def test_a_binding_that_is_missing_is_named(self, network: Network, sender: Service) -> None:
        network.unbind("kme.kme-1", LINK, LINK)
        sender.broker.publish([Publication(1, "kme.kme-1", LINK, b"waits"), *report(2)])
        sender.until(lambda: sender.last.unrouted and 2 in sender.confirmed)
        assert sender.last.unrouted == {LINK: "kme.kme-1"}
        assert sender.last.connected
        network.bind("kme.kme-1", LINK, LINK)
        sender.until(lambda: 1 in sender.confirmed and not sender.last.unrouted)

    def test_close_flushes_acknowledgements_and_gives_back_the_rest(
        self, network: Network, sender: Service, receiver: Service
    ) -> None:
        sender.publish(numbered(400))
        deliveries = receiver.receive(100)
        receiver.broker.acknowledge(deliveries[:50])
        receiver.broker.close(10)
        assert receiver.broker.receive(10, 0).deliveries == []
        successor = Service(network.connect("kme-2", [LINK], prefetch=400))
        assert successor.receive_any_order(350) == numbered(350, start=50)

    def test_close_waits_for_confirms_and_the_last_receive_returns_them(
        self, sender: Service, receiver: Service
    ) -> None:
        sender.broker.publish([Publication(i, "kme.kme-1", LINK, body) for i, body in enumerate(numbered(1000))])
        sender.broker.close(20)
        assert sorted(sender.broker.receive(10, 0).confirmed) == list(range(1000))
        assert not sender.broker.receive(10, 0).connected
        receiver.acknowledges = True
        assert [delivery.body for delivery in receiver.receive(1000)] == numbered(1000)

    def test_close_gives_up_on_what_cannot_be_delivered_in_time(self, sender: Service) -> None:
        sender.publish([b"routed"])
        sender.broker.publish([Publication(1, "kme.kme-1", "nobody.listens", b"never")])
        sender.broker.close(QUIET_S)
        assert sender.broker.receive(10, 0).confirmed == []

    def test_thousands_pipelined_arrive_once_and_in_order_on_each_link(self, network: Network) -> None:
        receiver = Service(network.connect("kme-2", [LINK, OTHER_LINK]), acknowledges=True)
        senders = {kme: Service(network.connect(kme)) for kme in ("kme-1", "kme-10")}
        for kme, sender in senders.items():
            key = link_queue(kme, "kme-2")
            bodies = enumerate(numbered(3000))
            sender.broker.publish([Publication(i, kme_exchange(kme), key, body) for i, body in bodies])
        receiver.receive(6000)
        for kme, sender in senders.items():
            of_link = [each.body for each in receiver.deliveries if each.exchange == kme_exchange(kme)]
            assert of_link == numbered(3000)
            sender.until(lambda s=sender: len(s.confirmed) == 3000, "all confirms")  # type: ignore[misc]
            assert sorted(sender.confirmed) == list(range(3000))

    def test_lost_connections_under_load_lose_no_message(
        self, network: Network, sender: Service, receiver: Service
    ) -> None:
        receiver.acknowledges = True
        for part in range(4):
            first = part * 1000
            bodies = enumerate(numbered(1000, start=first))
            sender.broker.publish([Publication(first + i, "kme.kme-1", LINK, body) for i, body in bodies])
            receiver.until(lambda n=first + 100: len(set(receiver.bodies)) >= n)  # type: ignore[misc]
            network.drop("kme-1" if part % 2 else "kme-2")
            sender.until(lambda n=first + 500: len(sender.confirmed) >= n)  # type: ignore[misc]
        sender.until(lambda: len(sender.confirmed) >= 4000, "all confirms")
        receiver.until(lambda: len(set(receiver.bodies)) == 4000, "all messages")
        assert sorted(sender.confirmed) == list(range(4000))

    def test_twenty_five_crashes_of_a_receiver_lose_nothing(self, network: Network, sender: Service) -> None:
        sender.publish(numbered(20))
        for _ in range(25):
            crashing = Service(network.connect("kme-2", [LINK]))
            crashing.receive(20)
            crashing.broker.close(10)
        survivor = Service(network.connect("kme-2", [LINK]), acknowledges=True)
        assert survivor.receive_any_order(20) == numbered(20)

    def test_what_comes_back_beyond_the_limit_is_dead_lettered(self, make_network: NetworkFactory) -> None:
        def limit_deliveries(document: dict[str, Any]) -> None:
            for policy in document["policies"]:
                if policy["name"] == "links":
                    policy["definition"]["delivery-limit"] = 2

        with make_network(limit_deliveries) as network:
            Service(network.connect("kme-1")).publish([b"poison"])
            for _ in range(3):
                crashing = Service(network.connect("kme-2", [LINK]))
                crashing.receive(1)
                crashing.broker.close(10)
            coordinator = Service(network.connect(COORDINATOR, [DEAD_LETTERS_QUEUE]))
            (dead,) = coordinator.receive(1)
            assert (dead.exchange, dead.routing_key, dead.body) == ("dlx", LINK, b"poison")

    def test_a_full_queue_refuses_until_there_is_room(self, make_network: NetworkFactory) -> None:
        def bound_links(document: dict[str, Any]) -> None:
            for policy in document["policies"]:
                if policy["name"] == "links":
                    policy["definition"]["max-length-bytes"] = 20_000

        bodies = [bytes([number]) * 1000 for number in range(200)]
        with make_network(bound_links) as network:
            sender = Service(network.connect("kme-1"))
            sent = 0
            # A burst may overshoot the bound, so a few at a time.
            while len(sender.confirmed) == sent:
                assert sent < len(bodies), "the queue took everything"
                more = [Publication(sent + i, "kme.kme-1", LINK, bodies[sent + i]) for i in range(10)]
                sender.broker.publish(more)
                sent += len(more)
                sender.settle(sent)
            receiver = Service(network.connect("kme-2", [LINK]), acknowledges=True)

            def all_there() -> bool:
                receiver.step()
                return len(sender.confirmed) == sent and set(receiver.bodies) == set(bodies[:sent])

            sender.until(all_there, "all messages, late")

    def test_the_coordinator_reaches_each_kme_and_each_kme_the_coordinator(self, network: Network) -> None:
        queues = [results_queue("kme-1"), DEAD_LETTERS_QUEUE]
        coordinator = Service(network.connect(COORDINATOR, queues))
        kme = Service(network.connect("kme-1", [control_queue("kme-1")]))
        coordinator.publish([b"start"], control_queue("kme-1"), "coord")
        assert kme.receive(1)[0].body == b"start"
        kme.publish([b"report"], results_queue("kme-1"))
        kme.publish([b"rejected"], dead_key("kme-1"), first=1)
        arrived = {delivery.queue: delivery for delivery in coordinator.receive(2)}
        assert arrived[results_queue("kme-1")].body == b"report"
        assert arrived[DEAD_LETTERS_QUEUE].exchange == "kme.kme-1"

    def test_a_client_gets_the_reply_to_its_request(self, network: Network) -> None:
        coordinator = Service(network.connect(COORDINATOR, [requests_queue(CLI)]))
        with network.client() as client, network.client() as other:
            client.send(client.address.encode())
            (request,) = coordinator.receive(1)
            assert (request.exchange, request.routing_key) == ("cli", "requests")
            coordinator.publish([b"reply"], request.body.decode(), REPLIES_EXCHANGE)
            assert client.receive(20) == (REPLIES_EXCHANGE, client.address, b"reply")
            assert other.receive(0) is None

    def test_a_client_that_watches_sees_what_it_watches_with_its_senders(self, network: Network) -> None:
        coordinator = Service(network.connect(COORDINATOR, [results_queue("kme-1")]))
        watched, other = Service(network.connect("kme-1")), Service(network.connect("kme-2"))
        with network.client(watch=["results.#"]) as all_of_them, network.client(watch=["*.kme-1"]) as client:
            other.publish([b"not watched"], results_queue("kme-2"), "kme.kme-2")
            assert all_of_them.receive(20) == ("kme.kme-2", results_queue("kme-2"), b"not watched")
            watched.publish([b"report"], results_queue("kme-1"))
            for each in (client, all_of_them):
                assert each.receive(20) == ("kme.kme-1", results_queue("kme-1"), b"report")
            assert coordinator.receive(1)[0].body == b"report"
