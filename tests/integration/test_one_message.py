"""What one signed message makes its receiver do is bounded, whatever is in it: commands, log lines, rows, answers."""

import os
from itertools import cycle, islice
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from coordinator.liveness import ORDER_AGAIN_S
from qkdrelay.broker.names import control_queue, results_queue
from qkdrelay.messages import codec, signing
from qkdrelay.messages.control import (
    COMMANDS_MAX,
    Cancel,
    Commands,
    Confirm,
    Deliver,
    Expect,
    SetLab,
    SetLink,
    SignedMessage,
)
from qkdrelay.messages.reports import (
    REPORTS_MAX,
    Alarm,
    Collected,
    Confirmed,
    Dispute,
    Done,
    Expected,
    Findings,
    Forwarded,
    Hello,
    LinkReport,
    Rebuilt,
    Refused,
    Rejected,
    Report,
    Reports,
    Split,
    Started,
    Waiting,
)
from qkdrelay.messages.requests import ShowRequest
from qkdrelay.network.names import COORDINATOR
from qkdrelay.service.moderation import LINES_MAX
from support.kme import OF_NO_NOTE, terms
from support.messages import values
from support.network import Network

BAD = "kme-8"
"""Compromised; the target of both relays."""
LINKS = ("kme-5", "kme-6", "kme-7")
ROUTE = ("kme-1", "kme-2", "kme-5", "kme-8")


class Watched:
    """A network whose log, commands, answers and rows are counted; with a relay that is confirmed and one under way."""

    def __init__(self):
        self.network = Network()
        self.ended = self.network.relay("kme-1", BAD).relay_id
        self.network.stop("kme-6")
        self.open = self.network.relay("kme-1", BAD).relay_id
        self.sent = []
        publish = self.network.hub.publish

        def counted(user, publication):
            self.sent.append(publication)
            return publish(user, publication)

        self.network.hub.publish = counted

    def follow(self):
        """Have somebody at a command line follow both relays."""
        for relay in (self.open, self.ended):
            body = ShowRequest(relay=str(relay), follow=True)
            self.network.as_cli(self.network.asker().request(body)[1])
        self.network.settle()

    def rows(self):
        database = self.network.coordinator_store.journal.connection
        tables = ("relays", "flow", "stuck", "down", "dead_letters")
        return sum(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)

    def report(self, *items, kme=BAD):
        """One signed message of ``kme``; returns commands, log lines, rows and answers that follow from it."""
        self.sent.clear()
        before = self.rows()
        with capture_logs() as lines:
            self.network.as_kme(kme, signed(self.network, kme, Reports(items=items)))
            self.network.loops[COORDINATOR].step(0.0)
        loud = [line for line in lines if line["log_level"] in ("warning", "error")]
        answers = [each for each in self.sent if each.routing_key.startswith("cli.q.")]
        return len(self.commands()), len(loud), self.rows() - before, len(answers)

    def commands(self):
        orders = [each.body for each in self.sent if each.routing_key.endswith(".control")]
        return [item for body in orders for item in codec.decode(inside(body), Commands).items]


def inside(body):
    return codec.decode(body, SignedMessage).body


def signed(network, kme, body, recipient=COORDINATOR):
    """Signed by a KME with the key it has, under a number that is its next; by the coordinator, if that is it."""
    end = kme if recipient == COORDINATOR else recipient
    journal = network.stores[kme].journal if recipient == COORDINATOR else network.coordinator_store.journal
    stream = "reports" if recipient == COORDINATOR else f"control {recipient}"
    with journal.transaction():
        number = journal.numbers.next(stream)
    return signing.sign(
        network.control_keys[end], kme, recipient, epoch=journal.numbers.epoch, number=number, body=body
    )


def hello(*links):
    return Hello(clock=1e9, version="0", lab=False, lab_mode=None, links=links, pending=0)


def link(peer, *, up=False):
    return LinkReport(peer=peer, up=up, available_bytes=1, buffer_bytes=10, rate_bps=1, waiting=0, key=OF_NO_NOTE)


def finding(relay, false=(), sets=()):
    disputed = (Dispute(split=("kme-1",), sets=sets),) if sets else ()
    return Findings(relay_id=relay, false=false, disputed=disputed, equivocating=(), unclear="")


FLOODS = {
    "hello, one link many times": lambda at: [hello(*[link("kme-5")] * 511)],
    "hello, links it has not": lambda at: [hello(*[link(f"kme-{n}") for n in range(100, 611)])],
    "hellos": lambda at: [hello(*map(link, LINKS))] * REPORTS_MAX,
    "alarms": lambda at: [Alarm(event=f"a{n}", text="x" * 500) for n in range(REPORTS_MAX // 2)],
    "unknown relays": lambda at: [Collected(relay_id=uuid4(), route=ROUTE) for _ in range(REPORTS_MAX)],
    "of others": lambda at: [Forwarded(relay_id=at.open, route=("kme-1", "kme-2"))] * REPORTS_MAX,
    "collected": lambda at: [Collected(relay_id=at.open, route=ROUTE)] * REPORTS_MAX,
    "splits": lambda at: [Split(relay_id=at.open, route=ROUTE, shares=2, threshold=2)] * REPORTS_MAX,
    "waiting": lambda at: [Waiting(relay_id=at.open, route=ROUTE, reason=f"{n}") for n in range(REPORTS_MAX)],
    "rejected": lambda at: [
        Rejected(relay_id=at.open, route=ROUTE, link=("kme-5", BAD), reason=f"{n}") for n in range(REPORTS_MAX)
    ],
    "confirmed": lambda at: [Confirmed(relay_id=at.open)] * REPORTS_MAX,
    "refused": lambda at: [Refused(relay_id=at.open, reason=f"{n}") for n in range(REPORTS_MAX)],
    "proofs": lambda at: [Rebuilt(relay_id=at.open, proof=os.urandom(16)) for _ in range(REPORTS_MAX)],
    "released and not": lambda at: list(
        islice(cycle([Started(relay_id=at.ended), Confirmed(relay_id=at.ended)]), REPORTS_MAX)
    ),
    "findings": lambda at: list(islice(cycle([finding(at.ended, (ROUTE,)), finding(at.ended)]), REPORTS_MAX)),
    "findings on no route": lambda at: [finding(at.ended, (("kme-1", f"kme-{n}"),)) for n in range(REPORTS_MAX)],
    "disputes on no route": lambda at: [finding(at.ended, sets=((("kme-9",),),))] * REPORTS_MAX,
    "done": lambda at: [Done(command=SetLab(command_id=uuid4(), mode=None), error="no") for _ in range(REPORTS_MAX)],
}


@pytest.mark.parametrize("flood", FLOODS)
def test_one_message_of_a_kme_brings_few_commands_lines_rows_and_answers(flood):
    at = Watched()
    at.follow()
    commands, lines, rows, answers = at.report(*FLOODS[flood](at))
    assert commands <= len(LINKS)
    assert lines <= LINES_MAX + 1
    assert rows <= 1
    assert answers <= 2
    assert at.network.dead_letters() == []


def test_a_source_that_takes_its_confirmation_back_again_and_again_brings_one_command(monkeypatch):
    at = Watched()
    at.network.resume("kme-6")
    monkeypatch.setattr(at.network.service(COORDINATOR).liveness, "note", lambda *_: None)
    flip = [Started(relay_id=at.ended), Confirmed(relay_id=at.ended)]
    for many in (flip[:1] * REPORTS_MAX, flip * (REPORTS_MAX // 2)):
        assert at.report(*many, kme="kme-1")[0] <= 1


@pytest.mark.parametrize("count", [REPORTS_MAX + 1, 20_000])
def test_a_message_with_more_reports_is_refused_as_a_whole(count):
    at = Watched()
    commands, lines, rows, _ = at.report(*[Alarm(event="x", text="y")] * count)
    assert (commands, lines, rows) == (0, 1, 1)
    assert "items" in at.network.dead_letters()[0][2]


def test_a_hello_with_more_links_than_a_kme_can_have_is_refused():
    at = Watched()
    assert at.report(hello(*[link("kme-5")] * 7_000))[:3] == (0, 1, 1)


def test_a_link_that_does_not_keep_to_its_order_is_ordered_again_in_time_however_often_it_says_so():
    at = Watched()

    def ordered(*, up):
        at.report(hello(*(link(peer, up=up) for peer in LINKS)))
        return {command.peer for command in at.commands() if isinstance(command, SetLink)}

    assert [ordered(up=False) for _ in range(50)] == [set(LINKS)] + [set()] * 49
    at.network.time.forward(ORDER_AGAIN_S)
    assert ordered(up=False) == set(LINKS)
    # Also if it says in between that it has obeyed.
    assert [ordered(up=n % 2 == 0) for n in range(50)] == [set()] * 50


def test_what_is_known_of_a_kme_are_its_own_links_each_once():
    at = Watched()
    at.report(hello(link("kme-5"), link("kme-1"), link("kme-5", up=True), link("kme-99")))
    _, last = at.network.service(COORDINATOR).liveness.last_hellos[BAD]
    assert last.links == (link("kme-5", up=True),)


def test_no_kme_can_say_that_another_one_has_obeyed():
    at = Watched()
    subscriptions = at.network.service(COORDINATOR).subscriptions
    command = uuid4()
    request, _ = at.network.asker().request(ShowRequest(relay="0000", follow=False))
    subscriptions.await_done(request, "", {command: "kme-1"}, 0.0)
    subscriptions.done(BAD, Done(command=SetLab(command_id=command, mode=None), error="never"))
    assert subscriptions._callers[request.request_id].kmes == {command: "kme-1"}
    subscriptions.done("kme-1", Done(command=SetLab(command_id=command, mode=None), error=""))
    caller = subscriptions._callers[request.request_id]
    assert (caller.kmes, caller.errors) == ({}, ())


RELAYS = ("the one that ended", "the one under way", "none")


@pytest.fixture(scope="module")
def shared():
    at = Watched()
    at.follow()
    return at


def about(report, relay_id):
    return msgspec.structs.replace(report, relay_id=relay_id) if hasattr(report, "relay_id") else report


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(values(Report), st.sampled_from(RELAYS)), min_size=1, max_size=4))
def test_whatever_a_message_repeats_it_brings_no_more(shared, reports):
    ids = {RELAYS[0]: shared.ended, RELAYS[1]: shared.open, RELAYS[2]: UUID(int=1)}
    items = [about(report, ids[which]) for report, which in reports]
    commands, lines, rows, answers = shared.report(*islice(cycle(items), 400))
    assert commands <= len(LINKS)
    assert lines <= len(items) * (LINES_MAX + 1) + 8
    assert rows <= len(items)
    assert answers <= 2


def test_what_a_message_itself_overtakes_is_not_told():
    """A target that says that it expects a relay and then refuses, in one breath: nothing is begun that has failed."""
    at = Watched()
    at.follow()
    target = at.network.coordinator_store.relays.get(at.open).ends[1]
    items = (Expected(relay_id=at.open), Refused(relay_id=at.open, reason="no"))
    at.report(*items, kme=target)
    assert [type(command) for command in at.commands()] == [Cancel, Cancel]


# --- a KME, and what the coordinator tells it -------------------------------------------------------

ORDERS = {
    "links": lambda relay: SetLink(command_id=uuid4(), peer="kme-5", up=False),
    "links it has not": lambda relay: SetLink(command_id=uuid4(), peer="kme-1", up=False),
    "proofs": lambda relay: Confirm(relay_id=relay, proof=os.urandom(16)),
    "proofs of nothing": lambda relay: Confirm(relay_id=uuid4(), proof=os.urandom(16)),
    "giving up": lambda relay: Cancel(relay_id=relay),
    "what is for people": lambda relay: Deliver(relay_id=relay),
    "terms it refuses": lambda relay: Expect(terms=terms(relay_id=uuid4())),
}


@pytest.mark.parametrize("order", ORDERS)
def test_one_message_of_the_coordinator_brings_at_most_one_report_and_two_lines_a_command(order):
    at = Watched()
    relay = at.open if order == "giving up" else at.ended
    many = [ORDERS[order](relay) for _ in range(COMMANDS_MAX)]
    at.sent.clear()
    with capture_logs() as lines:
        at.network.as_coordinator(BAD, signed(at.network, COORDINATOR, Commands(items=tuple(many)), BAD))
        at.network.loops[BAD].step(0.0)
    told = [each for each in at.sent if each.routing_key == results_queue(BAD)]
    reports = [item for each in told for item in codec.decode(inside(each.body), Reports).items]
    assert len([report for report in reports if not isinstance(report, Hello)]) <= COMMANDS_MAX
    assert len(reports) <= COMMANDS_MAX + 1
    assert len(lines) <= 2 * COMMANDS_MAX + 1


def test_a_message_with_more_commands_is_refused_as_a_whole():
    at = Watched()
    many = Commands(items=tuple(SetLink(command_id=uuid4(), peer="kme-5", up=False) for _ in range(COMMANDS_MAX + 1)))
    at.network.as_coordinator(BAD, signed(at.network, COORDINATOR, many, BAD))
    at.network.settle()
    assert [letter[1] for letter in at.network.dead_letters()] == [control_queue(BAD)]
    assert at.network.stores[BAD].waiting.links_down() == frozenset()
