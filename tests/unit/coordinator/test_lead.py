"""One coordinator leads at a time, by a token that comes back; without one it leads no longer."""

import threading

import pytest

from coordinator.lead import LEASE_S, TOKEN_EVERY_S, Lead, Term
from qkdrelay.broker.definitions import definitions
from qkdrelay.broker.memory import MemoryBroker, MemoryHub
from qkdrelay.broker.names import COORD_EXCHANGE, LEAD_QUEUE
from qkdrelay.broker.port import Publication
from qkdrelay.network.names import COORDINATOR, SERVICE_USERS
from qkdrelay.service.health import Health
from qkdrelay.service.process import StopRequest
from support.clock import Clock
from support.waiting import eventually

KMES, LINKS = ("kme-1", "kme-2"), [("kme-1", "kme-2")]


@pytest.fixture
def hub():
    return MemoryHub(definitions(KMES, LINKS, dict.fromkeys((*KMES, *SERVICE_USERS), "x")))


def broker(hub):
    made = MemoryBroker(hub, COORDINATOR, [LEAD_QUEUE])
    made.start()
    return made


class Coordinators:
    """Several, with one clock; each has its steps in turn."""

    def __init__(self, hub, number):
        self.clock = Clock()
        self.all = [Lead(broker(hub), self.clock) for _ in range(number)]

    def pass_time(self, seconds, but=()):
        for _ in range(int(seconds)):
            self.clock.forward(1.0)
            for lead in self.all:
                if lead not in but:
                    lead.step(0.0)

    def who(self):
        return [number for number, lead in enumerate(self.all) if lead.held]


def test_the_first_leads_and_the_others_wait_for_ever(hub):
    coordinators = Coordinators(hub, 3)
    coordinators.pass_time(1)
    for _ in range(50):
        assert coordinators.who() == [0]
        coordinators.pass_time(7)
    assert hub.depth(LEAD_QUEUE) == 0


def test_the_next_leads_soon_after_the_first_is_gone(hub):
    coordinators = Coordinators(hub, 3)
    coordinators.pass_time(20)
    coordinators.all.pop(0).close()
    coordinators.pass_time(TOKEN_EVERY_S + 1)
    assert coordinators.who() == [0]
    coordinators.all.pop(0).close()
    coordinators.pass_time(TOKEN_EVERY_S + 1)
    assert coordinators.who() == [0]


def test_a_token_counts_from_when_it_was_sent_and_once(hub):
    """Whoever was stopped, and goes on, finds its own in the inbox."""
    coordinators = Coordinators(hub, 1)
    (lead,) = coordinators.all
    coordinators.pass_time(1)
    token = b"t" * 16
    lead._sent[token] = coordinators.clock()
    coordinators.clock.forward(4.0)
    for _ in range(2):
        lead._broker.publish([Publication(None, COORD_EXCHANGE, LEAD_QUEUE, token)])
        lead._sent_at = coordinators.clock()  # none of its own
        lead.step(0.0)
        coordinators.clock.forward(LEASE_S - 4.0)
        assert not lead.held
    assert not lead._sent


def test_what_others_send_makes_nobody_lead_and_is_not_kept(hub):
    coordinators = Coordinators(hub, 1)
    (lead,) = coordinators.all
    for _ in range(100):
        lead._broker.publish([Publication(None, COORD_EXCHANGE, LEAD_QUEUE, b"forged")])
    lead._may_lead = lambda: False
    coordinators.pass_time(100)
    assert not lead.held
    assert hub.depth(LEAD_QUEUE) == 0
    assert lead._sent == {}


def test_tokens_that_never_come_back_are_forgotten(hub):
    hub.unbind(COORD_EXCHANGE, LEAD_QUEUE, LEAD_QUEUE)
    coordinators = Coordinators(hub, 1)
    coordinators.pass_time(1000)
    assert coordinators.who() == []
    assert len(coordinators.all[0]._sent) <= 8


def test_one_whose_loop_is_stuck_gives_the_lead_up(hub):
    coordinators = Coordinators(hub, 2)
    coordinators.pass_time(10)
    coordinators.all[0]._may_lead = lambda: False
    coordinators.pass_time(LEASE_S + 1)
    assert coordinators.who() == []
    coordinators.all[0].close()
    coordinators.pass_time(TOKEN_EVERY_S + 1)
    assert coordinators.who() == [1]


def test_who_leads_knows_how_long_it_has_been_alone(hub):
    coordinators = Coordinators(hub, 2)
    coordinators.pass_time(60)
    lead, waits = coordinators.all
    assert lead.alone_s() <= TOKEN_EVERY_S
    assert waits.alone_s() == 0
    coordinators.pass_time(60, but=[waits])
    assert 55 <= lead.alone_s() <= 65


@pytest.fixture
def stop():
    return StopRequest()


def test_a_term_begins_once_it_leads_and_ends_with_the_lead(hub, stop):
    health = Health()
    with Term(MemoryBroker(hub, COORDINATOR, [LEAD_QUEUE]), stop, health) as term:
        assert not term.is_set()
        assert term.begins()
        assert not term.is_set()
        term.lead._until = -1.0
        assert term.is_set()
        assert term.is_lost
        # Its own thread leaves the queue to the others, whatever the loop does.
        eventually(lambda: not hub.queues[LEAD_QUEUE].consumers, what="the queue to be left")


def test_who_waits_is_ready_and_says_so_and_ends_when_the_process_does(hub, stop):
    health, first, connected = Health(), broker(hub), []
    with Term(MemoryBroker(hub, COORDINATOR, [LEAD_QUEUE]), stop, health, connected=connected.append) as term:
        begins = []
        waiting = threading.Thread(target=lambda: begins.append(term.begins()))
        waiting.start()
        eventually(health.remark, what="the remark")
        assert (health.readiness_problem(), health.remark()) == ("", "this coordinator does not lead; it waits")
        stop.set()
        waiting.join(10)
    assert begins == [False]
    assert connected[-1]
    assert not term.is_lost
    first.close(0.0)
