"""What the page asks of the coordinator: little while nobody looks, and as much for fifty viewers as for one."""

from collections import Counter
from contextlib import ExitStack
from uuid import uuid4

import pytest

from qkdrelay.messages.network_answers import NetworkView
from qkdrelay.messages.requests import NetworkRequest
from qkdrelay.network.names import COORDINATOR
from qkdrelay.service.health import Health
from qkdrelay_page.board import RELAY, Board
from qkdrelay_page.watching import AGAIN_S, IDLE_S, SLOWLY_S, TURN_S
from support.network import DIAMOND, Network
from support.page import watching


class Page:
    def __init__(self, lab=False):
        self.network = Network(DIAMOND, lab=lab)
        self.board, self.health, self.now = Board(), Health(), 0.0
        self.watching = watching(self.network, self.board, self.health, timer=lambda: self.now)
        self.asked = Counter()
        publish = self.network.hub.publish

        def counted(user, publication):
            if user == "page":
                self.asked["requests"] += 1
            return publish(user, publication)

        self.network.hub.publish = counted

    def turns(self, count=1):
        """How many requests so many turns take."""
        before = self.asked["requests"]
        for _ in range(count):
            self.rest = self.watching.turn()
            self.now += TURN_S
            self.network.time.forward(TURN_S)
            self.network.settle()
        return self.asked["requests"] - before

    def shown(self, relay=None):
        with self.board.viewer(relay) as viewer:
            return viewer.next(0.0)


@pytest.fixture
def page():
    return Page()


def test_while_nobody_looks_it_asks_now_and_then_whether_the_coordinator_answers(page):
    assert page.turns() == 1
    assert page.rest == IDLE_S
    assert page.health.readiness_problem() == ""
    assert {"hello", "layout", "network", "trouble"} == set(page.shown())


def test_fifty_viewers_cost_the_coordinator_what_one_does(page):
    with page.board.viewer():
        one = page.turns(10)
    with ExitStack() as many:
        for _ in range(50):
            many.enter_context(page.board.viewer())
        assert page.turns(10) <= one
    assert page.rest == TURN_S
    assert one <= 10 * 2 + 2 * (10 * TURN_S / SLOWLY_S + 1)


def test_a_relay_is_asked_for_until_nothing_of_it_changes_any_more(page):
    relay = page.network.relay("kme-1", "kme-4")
    with page.board.viewer(relay.relay_id) as viewer:
        page.turns()
        assert b'"state":"confirmed"' in viewer.next(0.0)["relay"]
        page.turns(20)
        with page.board.viewer():
            assert page.turns(5) <= 5 * 2 + 2 * 2
        page.network.cut("kme-2", "kme-4")
        other = page.network.relay("kme-1", "kme-3")
        with page.board.viewer(other.relay_id):
            page.turns()
            assert f"{RELAY}{other.relay_id}" in page.board._sections
    page.turns()
    with page.board.viewer():
        page.turns()
    assert not [name for name in page.board._sections if name.startswith(RELAY)]


def test_a_relay_that_is_not_there_is_said_not_to_be(page):
    relay = uuid4()
    with page.board.viewer(relay) as viewer:
        page.turns()
        assert b"there is no relay" in viewer.next(0.0)["relay"]
        assert page.health.readiness_problem() == ""


def test_in_the_lab_what_was_learned_is_asked_too(page):
    page = Page(lab=True)
    page.network.compromise("kme-2", "leak")
    relay = page.network.relay("kme-1", "kme-4")
    with page.board.viewer(relay.relay_id) as viewer:
        page.turns(2)
        shown = viewer.next(0.0)["relay"]
    assert b'"kmes":["kme-2"],"shares_held":1,"learned":false' in shown


def test_a_coordinator_that_is_silent_is_trouble_until_it_answers(page):
    with page.board.viewer() as viewer:
        page.turns()
        viewer.next(0.0)
        page.network.stop(COORDINATOR)
        page.turns()
        assert b"the coordinator did not answer" in viewer.next(0.0)["trouble"]
        assert page.rest == AGAIN_S
        assert "did not answer" in page.health.readiness_problem()
        page.network.resume(COORDINATOR)
        page.turns()
        assert viewer.next(0.0)["trouble"] == b"null"
        assert page.health.readiness_problem() == ""


def test_another_network_has_another_layout(page):
    page.turns()
    before = page.shown()["layout"]
    page.watching._show_network(Network().client.ask(NetworkRequest(), NetworkView))
    assert page.shown()["layout"] != before
