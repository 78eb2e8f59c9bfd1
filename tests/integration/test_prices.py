"""Relays go where there is key and where somebody is, as the KMEs' hellos say."""

from itertools import pairwise

from qkdrelay.messages.plans import decode_plan
from qkdrelay.messages.requests import OpenDemand
from support.network import Network

TWO_PATHS = OpenDemand(compromised=1, failed=0, tampering=0)


def links(network):
    """The links of a relay that takes two of the three ways there are from kme-1 to kme-8."""
    view = network.relay("kme-1", "kme-8", policy="best", withstand=TWO_PATHS)
    assert view.state == "confirmed"
    return {link for route in decode_plan(view.plan).routes() for link in pairwise(route)}


def test_a_link_that_is_cut_is_gone_around_and_taken_again_when_it_is_mended():
    network = Network()
    for kme in ("kme-5", "kme-6", "kme-7"):
        network.cut(kme, "kme-8")
        assert (kme, "kme-8") not in links(network)
        network.mend(kme, "kme-8")
        network.later(1.0)


def test_a_link_without_key_is_gone_around_in_that_direction_alone():
    network = Network()
    for kme in ("kme-2", "kme-3", "kme-4"):
        network.drain("kme-1", kme)
        assert ("kme-1", kme) not in links(network)
        network.refill("kme-1", kme)
    network.drain("kme-2", "kme-1")
    assert len(links(network)) == 6


def test_a_kme_that_is_silent_is_gone_around():
    network = Network()
    network.stop("kme-6")
    for _ in range(4):
        network.later(9.0)
    assert "kme-6" not in {kme for link in links(network) for kme in link}


def test_where_there_is_no_other_way_a_link_that_is_down_is_taken_and_waited_for():
    network = Network()
    network.cut("kme-7", "kme-8")
    view = network.relay("kme-1", "kme-8", policy="best")
    assert ("kme-7", "kme-8") in {link for route in decode_plan(view.plan).routes() for link in pairwise(route)}
    assert view.state == "confirmed"


def test_a_kme_that_lies_about_its_key_draws_relays_to_itself_and_no_more():
    """It claims a full buffer for ever: relays that take its word wait there, and others go on."""
    network = Network()
    network.drain("kme-1", "kme-2", 0.6)
    network.drain("kme-1", "kme-4", 0.6)
    network.drain("kme-3", "kme-6")
    network.sending("kme-3", "kme-6").available = network.source("kme-3", "kme-6").capacity
    network.service("kme-3")._hello.expire()
    view = network.relay("kme-1", "kme-8", policy="best")
    assert view.state == "confirmed"
