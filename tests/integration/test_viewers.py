"""Whoever has all that the page has, its user at the broker and its key, can look and do nothing else."""

from typing import get_args

import pytest

from coordinator.attention import ALARMS_EACH, SHOWN_MAX
from coordinator.clients import ATTACKS_PER_S, VIEWER_MAY, VIEWER_PER_S
from qkdrelay.broker.definitions import definitions
from qkdrelay.broker.memory import MemoryBroker, MemoryClient
from qkdrelay.broker.names import client_exchange, requests_queue
from qkdrelay.client import CoordinatorClient, relay_request
from qkdrelay.errors import BrokerUnreachableError, RequestRefusedError
from qkdrelay.messages import requests
from qkdrelay.messages.answers import AttackView, AttentionView, RelaysView, RelayView, SuppliesView
from qkdrelay.messages.dialogue import Asker
from qkdrelay.messages.network_answers import NetworkView
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.reports import Alarm
from qkdrelay.network.names import CLI, COORDINATOR, PAGE
from qkdrelay_demo.network import SettlingConnection
from support.kme import NOW
from support.network import DIAMOND, Network

RELAY = new_relay_id(NOW)
EACH = {
    requests.RelayRequest: relay_request("kme-1", "kme-4", relay_id=RELAY),
    requests.RelaysRequest: requests.RelaysRequest(limit=5, supply=True),
    requests.ShowRequest: requests.ShowRequest(relay=str(RELAY), follow=False),
    requests.NetworkRequest: requests.NetworkRequest(),
    requests.SuppliesRequest: requests.SuppliesRequest(),
    requests.AttentionRequest: requests.AttentionRequest(),
    requests.LinkRequest: requests.LinkRequest(a="kme-1", b="kme-2", up=False),
    requests.LabRequest: requests.LabRequest(kme="kme-2", mode="leak"),
    requests.AttackRequest: requests.AttackRequest(relay=str(RELAY), kmes=()),
    requests.DeadLettersRequest: requests.DeadLettersRequest(limit=5),
    requests.DeadLetterRequest: requests.DeadLetterRequest(letter=1),
    requests.RequeueRequest: requests.RequeueRequest(letters=(1,)),
    requests.DropRequest: requests.DropRequest(letters=None),
}
ANSWERS = {
    requests.RelaysRequest: RelaysView,
    requests.ShowRequest: RelayView,
    requests.NetworkRequest: NetworkView,
    requests.SuppliesRequest: SuppliesView,
    requests.AttentionRequest: AttentionView,
    requests.AttackRequest: AttackView,
}


@pytest.fixture
def network(tmp_path):
    network = Network(DIAMOND, lab=True, folder=tmp_path)
    network.relay("kme-1", "kme-4", relay_id=RELAY)
    network.inject("kme-2", "kme.kme-2", "dead.kme-2", b"no dead letter")
    network.settle()
    return network


def viewer(network, key=None, client=PAGE):
    """One who asks with the page's connection."""
    connection = SettlingConnection(network, client)
    return CoordinatorClient(connection, key or network.page_key, network.clock, network.time)


def state(network):
    """All that a request could change."""
    asked = network.client
    view = asked.ask(requests.NetworkRequest(), NetworkView)
    letters = asked.ask(requests.DeadLettersRequest(limit=50), object)
    relays = asked.ask(requests.RelaysRequest(limit=50, supply=True), RelaysView)
    return (
        [(kme.name, kme.lab_mode, kme.links) for kme in view.kmes],
        view.down,
        [letter.letter for letter in letters.letters],
        [(relay.relay_id, relay.state) for relay in relays.relays],
        network.service(COORDINATOR).subscriptions.followers_count(),
    )


def test_each_kind_of_request_is_tried():
    assert set(EACH) == set(get_args(requests.RequestBody))
    assert set(ANSWERS) == VIEWER_MAY


@pytest.mark.parametrize("kind", sorted(VIEWER_MAY, key=str), ids=lambda kind: kind.__name__)
def test_what_a_viewer_may_ask_is_answered_as_to_the_command_line_and_changes_nothing(network, kind):
    before = state(network)
    seen = viewer(network).ask(EACH[kind], ANSWERS[kind])
    if kind is not requests.NetworkRequest:  # which says how long ago something was
        assert seen == network.client.ask(EACH[kind], ANSWERS[kind])
    assert state(network) == before


@pytest.mark.parametrize("kind", sorted(set(EACH) - VIEWER_MAY, key=str), ids=lambda kind: kind.__name__)
def test_all_else_is_refused_and_nothing_of_it_is_done(network, kind):
    before = state(network)
    body = relay_request("kme-1", "kme-4", relay_id=new_relay_id(NOW)) if kind is requests.RelayRequest else EACH[kind]
    with pytest.raises(RequestRefusedError, match=f"a viewer may not ask this: {kind.__name__}"):
        viewer(network).ask(body, object)
    network.settle()
    assert state(network) == before
    alarms = viewer(network).ask(requests.AttentionRequest(), AttentionView).alarms
    assert [(alarm.event, alarm.about) for alarm in alarms] == [("request.refused", kind.__name__)]


def test_a_viewer_takes_no_followers_place(network):
    before = state(network)
    with pytest.raises(RequestRefusedError, match="may not ask this: ShowRequest"):
        viewer(network).ask(requests.ShowRequest(relay=str(RELAY), follow=True), object)
    assert state(network) == before


def test_the_key_of_one_client_is_of_no_use_as_another(network):
    before = state(network)
    for client, key in ((PAGE, network.cli_key), (CLI, network.page_key)):
        asker = Asker(key, f"{client}.q.0", network.clock)
        _, signed = asker.request(EACH[requests.LinkRequest])
        for exchange, user in ((client_exchange(CLI), CLI), (client_exchange(PAGE), PAGE)):
            network.inject(user, exchange, "requests", signed)
            network.settle()
    letters = network.client.ask(requests.DeadLettersRequest(limit=50), object).letters
    assert all(
        "is another there, or somebody forges" in letter.reason or "not from" in letter.reason for letter in letters[:4]
    )
    assert {letter.sender for letter in letters[:4]} == {"the command line", "the page"}
    assert state(network)[:2] == before[:2]


def test_no_answer_goes_to_a_queue_of_the_command_lines(network):
    """Who has the page's key could else have answers sent there, under a name that is another's."""
    victim = MemoryClient(network.hub)
    asker = Asker(network.page_key, "page.q.0", network.clock)
    asker._address = victim.address
    _, signed = asker.request(requests.NetworkRequest())
    network.inject(PAGE, client_exchange(PAGE), "requests", signed)
    network.settle()
    assert victim.receive(0.0) is None
    letters = network.client.ask(requests.DeadLettersRequest(limit=1), object).letters
    assert "is no queue of the page's" in letters[0].reason


def test_whoever_asks_as_the_page_too_often_is_told_so_and_holds_nobody_up(network):
    asks = viewer(network)
    for _ in range(int(2 * VIEWER_PER_S)):  # at one moment: the clock stands still
        asks.ask(requests.NetworkRequest(), NetworkView)
    for _ in range(20):
        with pytest.raises(RequestRefusedError, match="a viewer asks too often"):
            asks.ask(requests.NetworkRequest(), NetworkView)
    assert network.client.ask(requests.NetworkRequest(), NetworkView)
    network.time.forward(1.0)
    assert asks.ask(requests.NetworkRequest(), NetworkView)


def test_attacks_are_computed_for_a_viewer_a_few_times_a_second(network):
    asks = viewer(network)
    for _ in range(int(2 * ATTACKS_PER_S)):
        asks.ask(EACH[requests.AttackRequest], AttackView)
    with pytest.raises(RequestRefusedError, match="too often"):
        asks.ask(EACH[requests.AttackRequest], AttackView)


def test_the_pages_requests_have_a_queue_of_their_own():
    """Who fills it with requests leaves the command line's alone."""
    passwords = dict.fromkeys(("kme-1", "kme-2", "coordinator", "cli", "page", "operator"), "x")
    made = definitions(["kme-1", "kme-2"], [("kme-1", "kme-2")], passwords)
    leads = {each["destination"] for each in made["bindings"] if each["source"] == client_exchange(PAGE)}
    assert leads == {requests_queue(PAGE)} != {requests_queue(CLI)}


def test_the_page_does_not_read_what_kmes_say():
    network = Network(DIAMOND)
    client = MemoryClient(network.hub, PAGE)
    reader = MemoryBroker(network.hub, PAGE, ["events"])
    reader.start()
    assert not reader.receive(1, 0.0).connected
    client.close()


def test_a_coordinator_without_the_pages_key_answers_no_page(network):
    network.page_key = None
    network.restart(COORDINATOR)
    with pytest.raises(BrokerUnreachableError) as error:
        viewer(network, bytes(32)).ask(requests.NetworkRequest(), NetworkView)
    assert "with this QKDRELAY_PAGE_KEY" in error.value.hint
    assert network.client.ask(requests.NetworkRequest(), NetworkView)


def attention(network):
    return viewer(network).ask(requests.AttentionRequest(), AttentionView)


def test_attention_has_failed_relays_letters_and_alarms_newest_first(network):
    network.cut("kme-2", "kme-4")
    network.cut("kme-3", "kme-4")
    first = network.relay("kme-1", "kme-4", timeout_s=5.0)
    network.wait(first.relay_id)
    second = network.relay("kme-1", "kme-4", timeout_s=5.0)
    network.wait(second.relay_id)
    network.step_clock("kme-2", 60.0)
    network.later(11.0)
    seen = attention(network)
    assert [relay.relay_id for relay in seen.failed] == [second.relay_id, first.relay_id]
    assert "too few shares in time" in seen.failed[0].reason
    assert [(alarm.event, alarm.about) for alarm in seen.alarms][:1] == [("clock.skewed", "kme-2")]
    assert seen.letters_total == len(seen.letters) == 1
    network.restart(COORDINATOR)
    assert [relay.relay_id for relay in attention(network).failed] == [second.relay_id, first.relay_id]


def test_who_raises_a_thousand_alarms_hides_nobody_elses(network):
    network.service("kme-3")._reporting.report(Alarm(event="link.number_reused", text="with other bytes"))
    for number in range(1_000):
        network.service("kme-2")._reporting.report(Alarm(event=f"loud {number}", text="x" * 500))
    network.later(11.0)
    alarms = attention(network).alarms
    assert ("link.number_reused", "kme-3") in {(alarm.event, alarm.about) for alarm in alarms}
    assert sum(alarm.about == "kme-2" for alarm in alarms) == ALARMS_EACH
    assert len(alarms) <= SHOWN_MAX
