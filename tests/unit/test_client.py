"""The coordinator's client over the in-process broker: answers, refusals, silence, and answers of others."""

import pytest

from qkdrelay.broker.names import REPLIES_EXCHANGE
from qkdrelay.client import REPORTS, CoordinatorClient, reported
from qkdrelay.errors import BrokerUnreachableError, MalformedMessageError, RequestRefusedError, TopologyError
from qkdrelay.messages import dialogue
from qkdrelay.messages.answers import Acknowledged, RelaysView
from qkdrelay.messages.network_answers import NetworkView
from qkdrelay.messages.reports import Hello
from qkdrelay.messages.requests import LinkRequest, NetworkRequest, RelaysRequest, ShowRequest
from qkdrelay.network.names import COORDINATOR
from qkdrelay_demo.network import SettlingConnection
from support.network import DIAMOND, Network, relay_request


@pytest.fixture
def network():
    return Network(DIAMOND)


class Waiting(SettlingConnection):
    """While it waits, the network's clock goes on."""

    def receive(self, timeout_s):
        time = self._network.time
        until = time() + timeout_s
        while (message := super().receive(0.0)) is None and time() < until:
            time.forward(min(until - time(), 0.5))
        return message


@pytest.fixture
def client(network):
    return CoordinatorClient(Waiting(network), network.cli_key, network.clock, network.time)


def test_an_answer_is_of_the_kind_asked_for(client):
    assert client.ask(NetworkRequest(), NetworkView).name == "diamond"
    with pytest.raises(BrokerUnreachableError, match="cannot be understood: a NetworkView for an answer"):
        client.ask(NetworkRequest(), RelaysView)


def test_a_refusal_is_raised_with_its_reason_and_hint(client):
    with pytest.raises(RequestRefusedError, match="no QKD link between") as refused:
        client.ask(LinkRequest(a="kme-1", b="kme-4", up=False), Acknowledged)
    assert refused.value.hint


def test_a_kme_that_does_not_obey_cannot_be_reached(network, client):
    network.stop("kme-2")
    with pytest.raises(BrokerUnreachableError, match="kme-2 did not answer within 5 s"):
        client.ask(LinkRequest(a="kme-1", b="kme-2", up=False), Acknowledged, 10.0)


def test_silence_ends_after_the_time_given_and_does_not_say_that_nothing_happened(network, client):
    network.stop(COORDINATOR)
    before = network.time()
    with pytest.raises(BrokerUnreachableError, match="did not answer within 3 s") as silent:
        client.ask(NetworkRequest(), NetworkView, 3.0)
    assert "it may still carry the request out" in silent.value.hint
    assert network.time() - before == pytest.approx(3.0)
    network.resume(COORDINATOR)
    assert (
        client.ask(RelaysRequest(limit=1, supply=False), RelaysView).total == 0
    )  # the late answer to the other is none to this


def test_a_relay_is_followed_until_it_is_decided(network, client):
    network.stop("kme-1", "kme-4")
    followed = client.follow(relay_request("kme-1", "kme-4"))
    assert followed.first().state == "planned"
    assert not followed.is_silent
    assert followed.next(1.0) is None
    network.resume("kme-1", "kme-4")
    shown = []
    decided = followed.until_decided(shown.append)
    assert decided.state == "confirmed"
    assert shown[-1] == decided
    again = client.follow(ShowRequest(relay=str(decided.relay_id), follow=True))
    assert again.first().state == "confirmed"


def test_a_relay_that_fails_is_followed_to_its_end(network, client):
    network.stop("kme-4")
    assert client.follow(relay_request("kme-1", "kme-4", timeout_s=5.0)).until_decided().state == "failed"


def test_a_coordinator_that_falls_silent_is_asked_again_and_at_last_given_up(network, client):
    network.stop("kme-4")
    followed = client.follow(relay_request("kme-1", "kme-4", timeout_s=5.0))
    followed.first()
    network.stop(COORDINATOR)
    with pytest.raises(BrokerUnreachableError, match="has not said in time how the relay ended; last it was planned"):
        followed.until_decided()
    assert followed.is_silent


def forge(network, client, key):
    """Have an answer come first that another than the coordinator has signed."""
    body = Acknowledged(text="done")
    send = client.connection.send
    answerer = dialogue.Answerer(key, lambda: b"\xff" * 16)

    def forging(signed):
        request = dialogue.Answerer(network.cli_key, bytes).take(signed, network.clock())[0]
        network.inject(COORDINATOR, REPLIES_EXCHANGE, client.connection.address, answerer.answer(request, body))
        send(signed)

    client.connection.send = forging


def test_a_forged_answer_is_passed_over(network, client):
    forge(network, client, bytes(32))
    assert client.ask(NetworkRequest(), NetworkView).name == "diamond"


def test_only_forged_answers_are_none_and_are_named(network, client):
    network.stop(COORDINATOR)
    forge(network, client, bytes(32))
    with pytest.raises(BrokerUnreachableError, match="not signed by the coordinator") as forged:
        client.ask(LinkRequest(a="kme-1", b="kme-2", up=False), Acknowledged)
    assert "QKDRELAY_CLI_KEY must be the coordinator's" in forged.value.hint


def test_with_the_coordinators_key_that_forgery_would_be_an_answer(network, client):
    forge(network, client, network.cli_key)
    assert client.ask(NetworkRequest(), Acknowledged).text == "done"


def test_what_kmes_report_is_read_as_it_comes(network):
    watching = SettlingConnection(network, watch=REPORTS)
    network.later(10.0)
    heard = {}
    while (message := watching.receive(0.0)) is not None:
        kme, reports = reported(message[1], message[2])
        heard.setdefault(kme, []).extend(reports)
    assert set(heard) == set(DIAMOND.kmes)
    assert all(isinstance(reports[-1], Hello) for reports in heard.values())


@pytest.mark.parametrize(
    ("key", "error"), [("results.kme-1", MalformedMessageError), ("coord", TopologyError), ("results.", TopologyError)]
)
def test_what_is_no_report_is_refused(key, error):
    with pytest.raises(error):
        reported(key, b"noise")
