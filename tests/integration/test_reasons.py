"""Why a relay failed, in single cases: each reason is what was really missing."""

from itertools import pairwise

import pytest

from coordinator import lifecycle, relay_actions
from kme import forwarding
from kme.forwarding import RejectedShareError
from qkdrelay.messages.reports import Rebuilt, Waiting
from qkdrelay.service.events import event_name, log_fields, log_level
from support.kme import RELAY
from support.network import Network, carried, of
from support.plans import written


@pytest.fixture
def network():
    return Network()


def turn(network, a, b, *, up):
    """A link carries, or not, and nobody is told."""
    for kme, peer in ((a, b), (b, a)):
        with network.stores[kme].journal.transaction():
            network.stores[kme].waiting.switch_link(peer, up=up)


def test_a_link_that_is_down_between_neighbours_is_the_reason(network):
    network.cut("kme-1", "kme-2")
    view = network.wait(network.relay("kme-1", "kme-2").relay_id)
    assert view.reason == "the share did not reach kme-2 in time: waits at kme-1: the QKD link to kme-2 is down"
    assert (view.missing, view.collected, view.short_splits) == ((("kme-1", "kme-2"),), (), ())


def test_a_share_that_waited_and_was_sent_is_not_said_to_wait(network):
    turn(network, "kme-1", "kme-2", up=False)
    relay_id = network.relay("kme-1", "kme-2").relay_id
    assert [stuck.reason for stuck in network.show(relay_id).stuck] == ["link.down"]
    network.stop("kme-2")
    turn(network, "kme-1", "kme-2", up=True)
    network.later(1.0)
    assert network.show(relay_id).stuck == ()
    view = network.wait(relay_id)
    assert view.reason == "the share did not reach kme-2 in time: no news from kme-2"


def test_a_link_without_key_is_the_reason(network):
    network.limit_key("kme-1", "kme-2", lambda: 0.0, rate_bps=1, buffer_bytes=300)
    network.relay("kme-1", "kme-2")
    view = network.wait(network.relay("kme-1", "kme-2", key_count=4).relay_id)
    assert view.reason == "the share did not reach kme-2 in time: waits at kme-1: the QKD link to kme-2 has no key left"


def test_a_share_for_which_there_is_no_room_was_dropped(network):
    network.limit_key("kme-1", "kme-2", lambda: 0.0, rate_bps=1, buffer_bytes=100)
    view = network.wait(network.relay("kme-1", "kme-2").relay_id)
    dropped = "kme-1 dropped it: it takes more key than the link to kme-2 can ever hold"
    assert view.reason == f"the share did not reach kme-2 in time: {dropped}"


def test_a_share_that_its_receiver_refuses_is_said_to_be_refused(network, monkeypatch):
    check = forwarding.check_final_share

    def refusing(relay, route, payload):
        if "kme-6" in route:
            raise RejectedShareError("it is not to my liking")
        check(relay, route, payload)

    monkeypatch.setattr(forwarding, "check_final_share", refusing)
    view = network.wait(network.relay("kme-1", "kme-8").relay_id)
    assert view.reason == (
        "too few shares in time: the split on kme-1 has 1 of the 2 it needs;"
        " kme-8 refused it: it is not to my liking (2 routes)"
    )
    assert {stuck.reason for stuck in view.stuck} == {"refused: it is not to my liking"}


def test_an_inner_split_that_fell_short_is_no_reason_where_enough_others_did_not(network, monkeypatch):
    advance, lost = lifecycle.advance, []

    def advancing(relay, sender, report, now):
        if not isinstance(report, Rebuilt):
            return advance(relay, sender, report, now)
        lost.append(report)
        return relay

    monkeypatch.setattr(relay_actions, "advance", advancing)
    network.cut("kme-7", "kme-8")
    view = network.wait(network.relay("kme-1", "kme-8").relay_id)
    assert lost
    assert [split.split for split in view.short_splits] == [("kme-1", "kme-4")]
    assert view.reason.startswith(
        "enough shares have reached kme-8, but it has not said in time that it rebuilt the keys"
    )


def test_only_the_most_frequent_places_are_named(network):
    for kme, receiver in (
        ("kme-1", "kme-2"),
        ("kme-3", "kme-5"),
        ("kme-3", "kme-6"),
        ("kme-4", "kme-6"),
        ("kme-7", "kme-8"),
    ):
        network.cut(kme, receiver)
    view = network.wait(network.relay("kme-1", "kme-8").relay_id)
    assert view.reason == (
        "too few shares in time: the split on kme-1 has 0 of the 2 it needs;"
        " waits at kme-1: the QKD link to kme-2 is down (2 routes);"
        " waits at kme-7: the QKD link to kme-8 is down (2 routes);"
        " waits at kme-3: the QKD link to kme-5 is down; and 2 more"
    )


def test_what_was_not_heard_of_may_be_the_coordinators_fault(network):
    network.stop("kme-2", "kme-8")
    relay_id = network.relay("kme-1", "kme-8").relay_id
    network.hub.drop("coordinator")
    view = network.wait(relay_id)
    assert view.reason == "the target kme-8 did not answer in time; the coordinator was without the broker meanwhile"
    later = network.wait(network.relay("kme-1", "kme-8").relay_id)
    assert later.reason == "the target kme-8 did not answer in time"


def line(*kmes, splitting=None):
    """A plan along these KMEs, of which ``splitting`` splits between two that both lead on to the last."""
    hops = {kme: ((after,), 1) for kme, after in pairwise(kmes)}
    if splitting is not None:
        hops |= {splitting: (("x", "y"), 2), "x": ((kmes[-1],), 1), "y": ((kmes[-1],), 1)}
    return written(hops, kmes[0], kmes[-1])


@pytest.mark.parametrize(
    ("plan", "tampering", "what"),
    [
        (line("s", "a", "b", "t"), "a", "what has reached t is false"),
        (line("s", "a", "b", "t", splitting="b"), "a", "what has reached b is false"),
        (line("s", "a", "b", "t", splitting="b"), "x", "those of the split on s>a>b do not fit together"),
        (line("s", "t", splitting="s"), "x", "those of the split on s do not fit together"),
    ],
)
def test_what_was_altered_is_named_by_where_it_does_not_fit(plan, tampering, what):
    network = Network(of(plan.order, plan.links), lab=True, withstand_compromised=0)
    network.compromise(tampering, "tamper")
    view = carried(network, plan)
    assert view.reason == f"enough shares came, but false ones among them left too few good ones: {what}"


def test_that_a_share_was_sent_is_logged_and_told_without_a_reason():
    sent = Waiting(relay_id=RELAY, route=("kme-1", "kme-2"), reason="")
    assert (event_name(sent), log_level(sent)) == ("share.resumed", "info")
    assert log_fields(sent) == {"relay_id": RELAY, "route": ("kme-1", "kme-2"), "link": "kme-1>kme-2"}
