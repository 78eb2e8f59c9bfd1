"""The command line at a site asks for what concerns that site, and is told of nothing else."""

from dataclasses import replace
from typing import get_args

import pytest

from coordinator.clients import SITE_MAY, VIEWER_PER_S
from qkdrelay.broker.memory import MemoryBroker
from qkdrelay.broker.names import REPLIES_EXCHANGE, REQUESTS_KEY, answer_queues, client_exchange, requests_queue
from qkdrelay.broker.port import Publication
from qkdrelay.client import CoordinatorClient, relay_request
from qkdrelay.errors import BrokerUnreachableError, RequestRefusedError
from qkdrelay.messages import requests
from qkdrelay.messages.answers import Acknowledged, RelaysView, RelayView, SuppliesView
from qkdrelay.messages.dialogue import Asker
from qkdrelay.messages.network_answers import NetworkView
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.network.names import CLI, PAGE, site_user
from qkdrelay.network.sites import Site
from support.applications import Whole
from support.kme import NOW
from support.network import REFERENCE, Network

SITES = {
    "west": Site(("kme-1", "kme-2", "kme-3"), "west.example"),
    "mid": Site(("kme-4", "kme-5"), "mid.example"),
    "east": Site(("kme-6", "kme-7", "kme-8"), "east.example"),
}
APART = replace(REFERENCE, sites=SITES, coordinator="west")
FOREIGN, OWN = ("kme-1", "kme-6"), ("kme-5", "kme-2")
"""Ends of relays that do not concern mid, and that do."""


class AtASite:
    """A `Client` at a site of a network that works while it waits: asks there, and reads where the coordinator is."""

    def __init__(self, network, site, number=0):
        self.network, self.site, self.address = network, site, answer_queues(site)[number]
        self._answers = MemoryBroker(network.hub, site_user(site), [self.address])
        self._answers.start()

    def send(self, body):
        self.network.inject_at(self.site, CLI, client_exchange(CLI), REQUESTS_KEY, body)

    def check(self):
        pass

    def receive(self, timeout_s):
        self.network.settle()
        received = self._answers.receive(1, 0.0)
        self._answers.acknowledge(received.deliveries)
        return next(((each.exchange, each.routing_key, each.body) for each in received.deliveries), None)

    def close(self):
        self._answers.close(0.0)


def at(network, site, key=None, number=0):
    key = key or network.site_keys[site]
    return CoordinatorClient(AtASite(network, site, number), key, network.clock, network.time)


class Sites(Network):
    def inject_at(self, site, user, exchange, routing_key, body):
        hub = self.hubs[site]
        with hub.lock:
            assert hub.publish(user, Publication(None, exchange, routing_key, body)) is None


class SitesWithApplications(Whole, Sites):
    pass


@pytest.fixture
def network():
    network = Sites(APART, lab=True)
    network.own, network.foreign = (network.relay(*ends).relay_id for ends in (OWN, FOREIGN))
    return network


def test_a_site_has_keys_relayed_that_begin_or_end_there_and_follows_them(network):
    mid = at(network, "mid")
    for ends in (OWN, tuple(reversed(OWN)), ("kme-4", "kme-5")):
        relay_id = new_relay_id(NOW)
        view = mid.follow(relay_request(*ends, relay_id=relay_id, policy="recursive", allow_unprotected=True))
        assert view.until_decided().state == "confirmed"
        assert network.keys(ends[0], relay_id) == network.keys(ends[1], relay_id) != None  # noqa: E711 - all three


def test_a_site_does_not_have_keys_relayed_between_others(network):
    before = network.ask(requests.RelaysRequest(limit=50, supply=True)).total
    with pytest.raises(RequestRefusedError, match="neither kme-1 nor kme-6 is at this site") as refused:
        at(network, "mid").ask(relay_request(*FOREIGN, relay_id=new_relay_id(NOW)), object)
    assert refused.value.hint == "one of them must be kme-4 or kme-5"
    assert network.ask(requests.RelaysRequest(limit=50, supply=True)).total == before


def test_a_site_is_told_of_its_own_relays_alone(network):
    mid, west = at(network, "mid"), network.client
    asked = requests.RelaysRequest(limit=50, supply=True)
    assert [relay.relay_id for relay in mid.ask(asked, RelaysView).relays] == [network.own]
    assert mid.ask(asked, RelaysView).total == 1
    assert west.ask(asked, RelaysView).total == 2
    shown = requests.ShowRequest(relay=str(network.own), follow=False)
    assert mid.ask(shown, RelayView) == west.ask(shown, RelayView)
    for follow in (False, True):
        with pytest.raises(RequestRefusedError, match="there is no relay"):
            mid.ask(requests.ShowRequest(relay=str(network.foreign), follow=follow), object)


def test_an_id_that_another_relay_has_is_taken_and_no_more_is_said(network):
    with pytest.raises(RequestRefusedError) as refused:
        at(network, "mid").ask(relay_request(*OWN, relay_id=network.foreign), object)
    assert str(refused.value) == f"the relay id {network.foreign} is taken"


def test_a_site_sees_its_kmes_their_neighbours_and_the_links_of_both(network):
    network.cut("kme-6", "kme-8")
    network.cut("kme-5", "kme-8")
    view, whole = (asked.ask(requests.NetworkRequest(), NetworkView) for asked in (at(network, "mid"), network.client))
    own = {"kme-4", "kme-5"}
    assert set(view.links) == {link for link in whole.links if own & set(link)} != set(whole.links)
    assert {kme.name for kme in view.kmes} == own.union(*view.links)
    for kme in view.kmes:
        assert {link.peer for link in kme.links} == {
            other for link in view.links if kme.name in link for other in link if other != kme.name
        }
    assert view.down == (("kme-5", "kme-8"),)
    assert view.topology().links == view.links  # as the command line draws it
    assert {site.name for site in view.sites} == {"west", "mid", "east"}


def test_a_site_takes_down_its_own_links_and_no_others(network):
    mid = at(network, "mid")
    assert mid.ask(requests.LinkRequest(a="kme-5", b="kme-8", up=False), Acknowledged)
    with pytest.raises(RequestRefusedError, match="neither kme-6 nor kme-8 is at this site"):
        mid.ask(requests.LinkRequest(a="kme-6", b="kme-8", up=False), object)
    assert network.ask(requests.NetworkRequest()).down == (("kme-5", "kme-8"),)


def test_a_site_sees_supplies_that_begin_or_end_there():
    network = SitesWithApplications(topology=APART)
    for asked in (("sae-5", "sae-1"), ("sae-1", "sae-8")):
        network.take(*asked)
    network.later(30.0)
    mid, whole = (asked.ask(requests.SuppliesRequest(), SuppliesView) for asked in (at(network, "mid"), network.client))
    assert {(view.source, view.supply.target) for view in mid.supplies} == {
        (view.source, view.supply.target) for view in whole.supplies if "kme-5" in (view.source, view.supply.target)
    }
    assert {(pair.kme, pair.pair.master) for pair in mid.pairs} == {("kme-5", "sae-5")}
    assert mid.kmes == ("kme-5",)
    assert len(mid.supplies) < len(whole.supplies)


EACH = {
    requests.AttentionRequest: requests.AttentionRequest(),
    requests.LabRequest: requests.LabRequest(kme="kme-5", mode="leak"),
    requests.AttackRequest: requests.AttackRequest(relay="0000", kmes=()),
    requests.DeadLettersRequest: requests.DeadLettersRequest(limit=5),
    requests.DeadLetterRequest: requests.DeadLetterRequest(letter=1),
    requests.RequeueRequest: requests.RequeueRequest(letters=(1,)),
    requests.DropRequest: requests.DropRequest(letters=None),
}


def test_each_kind_of_request_is_allowed_or_tried():
    assert set(EACH) | SITE_MAY == set(get_args(requests.RequestBody))


@pytest.mark.parametrize("body", EACH.values(), ids=lambda body: type(body).__name__)
def test_all_else_is_for_the_coordinators_site(network, body):
    network.inject("kme-2", "kme.kme-2", "dead.kme-2", b"no dead letter")
    with pytest.raises(RequestRefusedError, match="this is for the coordinator's site to ask"):
        at(network, "mid").ask(body, object)
    assert network.dead_letters()
    assert all(kme.lab_mode is None for kme in network.ask(requests.NetworkRequest()).kmes)


def test_a_site_is_answered_so_many_requests_a_second(network):
    mid = at(network, "mid")
    asked = [mid.send(requests.NetworkRequest()) for _ in range(int(3 * VIEWER_PER_S))]
    network.settle()
    for request in asked[: int(VIEWER_PER_S)]:
        assert isinstance(mid.receive(request, network.time() + 1.0), NetworkView)
    with pytest.raises(RequestRefusedError, match="this site asks too often"):
        mid.ask(requests.NetworkRequest(), NetworkView)
    assert network.client.ask(requests.NetworkRequest(), NetworkView)
    assert at(network, "east").ask(requests.NetworkRequest(), NetworkView)
    network.later(2.0)
    assert mid.ask(requests.NetworkRequest(), NetworkView)


def test_a_site_leaves_room_for_the_relays_of_others(network, monkeypatch):
    monkeypatch.setattr("coordinator.requests.OF_A_SITE_MAX", 3)
    network.stop("kme-5")
    mid = at(network, "mid")
    for _ in range(3):
        mid.ask(relay_request("kme-5", "kme-2", relay_id=new_relay_id(NOW)), RelayView)
    with pytest.raises(RequestRefusedError, match="3 relays of this site are under way"):
        mid.ask(relay_request("kme-4", "kme-1", relay_id=new_relay_id(NOW)), object)
    assert network.relay("kme-4", "kme-1").state == "confirmed"  # as the coordinator's own site asks
    assert at(network, "east").ask(relay_request("kme-8", "kme-1", relay_id=new_relay_id(NOW)), RelayView)


@pytest.mark.parametrize("whose", ["east", "cli", "page"])
def test_no_other_key_opens_the_coordinator_to_a_site(network, whose):
    """Nor does a site's open it to another, nor to the coordinator's own command line."""
    keys = {"cli": network.cli_key, "page": network.page_key, **network.site_keys}
    with pytest.raises(BrokerUnreachableError):
        at(network, "mid", keys[whose]).ask(requests.NetworkRequest(), NetworkView)
    reasons = [reason for _, _, reason in network.dead_letters()]
    assert reasons
    assert all("QKDRELAY_CLI_KEY is another at site mid, or somebody forges" in reason for reason in reasons)


def test_no_answer_goes_to_the_queues_of_others(network):
    for address in ("cli.q.0", "page.q.0", "cli.east.q.0", "cli.q.q.0"):
        asker = Asker(network.site_keys["mid"], address, network.clock)
        asker.client = CLI
        _, signed = asker.request(requests.NetworkRequest())
        network.inject_at("mid", CLI, client_exchange(CLI), REQUESTS_KEY, signed)
    network.settle()
    assert not network.hub.depth("cli.east.q.0")
    assert {reason for _, _, reason in network.dead_letters()} == {
        f"{address} is no queue of the cli's" for address in ("cli.q.0", "page.q.0", "cli.east.q.0", "cli.q.q.0")
    }


def test_what_is_read_at_another_site_is_of_that_sites_client_whatever_it_says(network):
    """The page's exchange, and all but the command line's, are nobody's there."""
    hub = network.hubs["mid"]
    assert {name for name in hub._kinds if name in (CLI, PAGE)} == {CLI}
    _, signed = network.asker().request(requests.LinkRequest(a="kme-6", b="kme-8", up=False))
    network.inject_at("mid", CLI, client_exchange(CLI), REQUESTS_KEY, signed)  # as the coordinator's command line
    network.settle()
    assert network.ask(requests.NetworkRequest()).down == ()


def test_answers_that_nobody_reads_bound_themselves(network):
    mid = at(network, "mid", number=1)
    mid.connection.close()
    for _ in range(20):
        mid.connection.network.later(1.0)
        mid.send(requests.NetworkRequest())
    network.settle()
    queue = network.hub.queues[answer_queues("mid")[1]]
    assert 0 < len(queue.ready) <= 20
    assert queue.policy["overflow"] == "drop-head"
    assert queue.policy["message-ttl"] == 60_000


def test_a_sites_user_reads_its_answers_and_nobody_elses(network):
    for site in ("mid", "east"):
        for other in ("mid", "east"):
            for queue in answer_queues(other):
                assert network.hub.may_read(site_user(site), queue) == (site == other)
        assert not network.hub.may_read(site_user(site), REPLIES_EXCHANGE)
        assert not network.hub.may_read(site_user(site), requests_queue(CLI))
        assert network.hub.refusal(site_user(site), client_exchange(CLI)) is not None
    assert network.hubs["mid"].may_read(site_user("west"), requests_queue(CLI))
