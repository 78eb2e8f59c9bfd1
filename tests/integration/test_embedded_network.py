"""Whole relays over the in-process broker: what is delivered, what is not, and what is said about it."""

from dataclasses import replace
from itertools import permutations

import pytest

from qkdrelay.client import relay_request
from qkdrelay.errors import RequestRefusedError
from qkdrelay.messages.plans import decode_plan
from qkdrelay.messages.requests import AttackRequest
from qkdrelay.network.analysis import shortfall
from qkdrelay.network.planner import recursive_plan
from support.network import DIAMOND, REFERENCE, Network, ask, topology
from support.plans import delivers

PLAN = recursive_plan(REFERENCE, "kme-1", "kme-8")
BETWEEN = [f"kme-{n}" for n in range(2, 8)]


def same_keys(network, view):
    """The keys that both ends have released, or None where neither has; never one alone, never two."""
    source, target = (network.keys(end, view.relay_id) for end in (view.source, view.target))
    assert source == target
    if source is not None:
        assert len(source) == view.key_count * view.key_size_bits // 8
    return source


def wish(relay_id, **wishes):
    return relay_request(**{"source": "kme-1", "target": "kme-8", "relay_id": relay_id, **wishes})


@pytest.fixture
def network():
    return Network()


# --- what is delivered -----------------------------------------------------------------------------


@pytest.mark.parametrize("suite", ["otp", "aes-256-gcm"])
def test_every_kme_can_relay_to_every_other(suite):
    network = Network(suite=suite, withstand_compromised=0)
    for source, target in permutations(REFERENCE.kmes, 2):
        view = network.relay(source, target, allow_unprotected=True)
        assert (view.source, view.target, view.state, view.final) == (source, target, "confirmed", True)
        assert same_keys(network, view)
        assert (view.missing, view.false_shares, view.disputed, view.stuck) == ((), (), (), ())
    assert network.dead_letters() == []
    assert all(len(messages) == 1 for messages in network.slots().values())


@pytest.mark.parametrize("name", ["eight-kmes", "nsfnet"])
def test_relays_between_all_ordered_pairs_of_kmes_run_at_once(name):
    network = Network(topology(name))
    kmes = network.topology.kmes
    # Nobody answers until all are asked for: then they all run at the same time.
    network.stop(*kmes)
    relays = {pair: ask(network, *pair, policy="best") for pair in permutations(kmes, 2)}
    network.settle()
    assert {network.show(relay_id).state for relay_id in relays.values()} == {"planned"}
    network.resume(*kmes)
    keys = {}
    for (source, target), relay_id in relays.items():
        view = network.show(relay_id)
        assert (view.source, view.target, view.state, view.final) == (source, target, "confirmed", True)
        assert (view.missing, view.false_shares, view.disputed, view.stuck) == ((), (), (), ())
        held = {kme: found for kme in kmes if (found := network.keys(kme, relay_id)) is not None}
        assert held.keys() == {source, target}
        assert held[source] == held[target]
        keys[relay_id] = held[source]
    assert len(set(keys.values())) == len(kmes) * (len(kmes) - 1)
    assert network.dead_letters() == []
    assert all(len(messages) == 1 for messages in network.slots().values())


def test_the_diamond_confirms():
    network = Network(DIAMOND)
    view = network.relay("kme-1", "kme-4")
    assert view.state == "confirmed"
    assert view.planned_share_messages == 4
    assert same_keys(network, view)


@pytest.mark.parametrize(("count", "bits"), [(1, 64), (1000, 256), (16_384, 256), (1, 65_536)])
def test_many_or_long_keys_travel_in_one_relay(network, count, bits):
    view = network.relay("kme-1", "kme-8", key_count=count, key_size_bits=bits)
    assert view.state == "confirmed"
    assert len(same_keys(network, view)) == count * bits // 8
    assert len(network.sealed) == 17


def test_two_relays_have_different_keys_and_no_slot_in_common(network):
    views = [network.relay("kme-1", "kme-8") for _ in range(2)]
    assert same_keys(network, views[0]) != same_keys(network, views[1])
    slots = network.slots()
    assert len(slots) == 34
    assert all(len(messages) == 1 for messages in slots.values())


def test_asking_twice_starts_one_relay(network):
    view = network.relay("kme-1", "kme-8")
    again = network.ask(wish(view.relay_id, timeout_s=9.0))
    assert (again.source, again.target, again.key_count) == ("kme-1", "kme-8", 1)
    wishes = {"source": "kme-2", "target": "kme-3", "key_count": 5, "key_size_bits": 128, "timeout_s": 9.0}
    with pytest.raises(RequestRefusedError, match="was asked for before, as another: from kme-1, not kme-2"):
        network.ask(wish(view.relay_id, **wishes))
    assert len(network.sealed) == 17


# --- what is missing -------------------------------------------------------------------------------


def test_without_link_7_8_fifteen_of_seventeen_share_messages_go_and_the_two_routes_are_named(network):
    network.cut("kme-7", "kme-8")
    view = network.relay("kme-1", "kme-8")
    assert view.state == "confirmed"
    assert same_keys(network, view)
    assert view.planned_share_messages == 17
    assert len(network.sealed) == 15
    lost = {("kme-1", "kme-3", "kme-7", "kme-8"), ("kme-1", "kme-4", "kme-7", "kme-8")}
    assert set(view.missing) == lost
    assert {(stuck.route, stuck.reason) for stuck in view.stuck} == {(route, "link.down") for route in lost}
    assert [(s.split, s.present, s.needed) for s in view.short_splits] == [(("kme-1", "kme-4"), 1, 2)]


def test_what_waited_for_a_link_goes_when_it_is_mended(network):
    network.cut("kme-7", "kme-8")
    view = network.relay("kme-1", "kme-8")
    network.mend("kme-7", "kme-8")
    view = network.show(view.relay_id)
    assert (view.missing, view.stuck, view.false_shares) == ((), (), ())
    assert len(network.sealed) == 17


def test_without_kme_6_the_relay_fails_at_its_deadline_and_names_what_fell_short(network):
    network.stop("kme-6")
    view = network.relay("kme-1", "kme-8", timeout_s=30.0)
    assert view.state == "started"
    network.later(29.9)
    assert network.show(view.relay_id).state == "started"
    view = network.wait(view.relay_id, 0.2)
    assert view.state == "failed"
    assert view.reason == (
        "too few shares in time: the split on kme-1 has 1 of the 2 it needs; no news from kme-6 (2 routes)"
    )
    short = {(split.split, split.present, split.needed) for split in view.short_splits}
    assert short == {(("kme-1",), 1, 2), (("kme-1", "kme-2"), 1, 2), (("kme-1", "kme-4"), 1, 2)}
    assert all("kme-6" in route for route in view.missing)
    for end in ("kme-1", "kme-8"):
        kept = network.stores[end].relays.get(view.relay_id)
        assert (kept.state, kept.payload) == ("failed", None)
    assert network.stores["kme-8"].shares.of(view.relay_id) == {}


def test_what_comes_after_the_failure_changes_nothing(network):
    network.stop("kme-6")
    view = network.wait(network.relay("kme-1", "kme-8").relay_id)
    network.resume("kme-6")
    after = network.show(view.relay_id)
    assert (after.state, after.reason) == ("failed", view.reason)
    assert same_keys(network, after) is None


@pytest.mark.parametrize("link", REFERENCE.links, ids="-".join)
def test_with_one_link_cut_a_relay_confirms_exactly_when_the_plan_withstands_it(network, link):
    network.cut(*link)
    view = network.wait(network.relay("kme-1", "kme-8").relay_id)
    assert (view.state == "confirmed") == delivers(PLAN, cut=[link])
    assert (same_keys(network, view) is not None) == delivers(PLAN, cut=[link])
    for route in view.missing:
        assert set(link) <= set(route)


@pytest.mark.parametrize("kme", REFERENCE.kmes)
def test_with_one_kme_stopped_a_relay_confirms_exactly_when_the_plan_withstands_it(network, kme):
    network.stop(kme)
    view = network.wait(network.relay("kme-1", "kme-8").relay_id)
    assert (view.state == "confirmed") == delivers(PLAN, failed=[kme])
    assert (same_keys(network, view) is not None) == delivers(PLAN, failed=[kme])
    assert all(kme in route for route in view.missing)
    ends = {"kme-1": "the source kme-1 did not answer", "kme-8": "the target kme-8 did not answer"}
    assert view.reason.startswith(ends.get(kme, "too few shares" if view.state == "failed" else ""))


@pytest.mark.parametrize("away", ["kme-1", "kme-8"])
def test_an_end_that_was_away_has_nothing_of_a_relay_that_failed_meanwhile(network, away):
    network.stop(away)
    view = network.wait(network.relay("kme-1", "kme-8").relay_id)
    assert (view.state, view.released_at) == ("failed", ())
    network.resume(away)
    kept = [network.stores[end].relays.get(view.relay_id) for end in ("kme-1", "kme-8")]
    assert [relay.payload for relay in kept if relay is not None] == [None]
    assert all(store.relays.pending() == 0 for store in network.stores.values())


# --- what is false ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kme", BETWEEN)
def test_a_tampering_kme_prevents_no_more_than_a_failed_one_and_no_innocent_route_is_named(kme):
    network = Network(lab=True)
    network.compromise(kme, "tamper")
    view = network.wait(network.relay("kme-1", "kme-8").relay_id)
    assert (view.state == "confirmed") == delivers(PLAN, failed=[kme])
    same_keys(network, view)
    assert all(kme in route for route in view.false_shares)
    if view.state == "confirmed":
        disputed = {route for dispute in view.disputed for group in dispute.sets for route in group}
        assert any(kme in route for route in (*view.false_shares, *disputed))
    else:
        assert "false ones" in view.reason


def test_a_false_share_among_enough_good_ones_is_named_with_its_route():
    network = Network(lab=True)
    network.compromise("kme-7", "tamper")
    view = network.relay("kme-1", "kme-8")
    assert view.state == "confirmed"
    assert ("kme-1", "kme-3", "kme-7", "kme-8") in view.false_shares
    assert view.missing == ()


def test_a_tampering_kme_cannot_have_its_false_share_forgotten(monkeypatch):
    """It gives its share a deadline that is almost over, and waits for a late one of somebody else's."""
    network = Network(lab=True)
    network.compromise("kme-7", "tamper")
    links = network.service("kme-7").links
    seal = links._seal
    monkeypatch.setattr(links, "_seal", lambda share: seal(replace(share, deadline=network.time() - 59.0)))
    network.cut("kme-4", "kme-6")
    view = network.relay("kme-1", "kme-8")
    assert view.state == "confirmed"
    assert ("kme-1", "kme-3", "kme-7", "kme-8") in view.false_shares
    network.later(20.0)
    network.mend("kme-4", "kme-6")
    again = network.show(view.relay_id)
    assert again.missing == ()
    assert again.false_shares == view.false_shares


@pytest.mark.parametrize("kme", BETWEEN)
def test_a_withholding_kme_is_as_good_as_a_stopped_one(kme):
    network = Network(lab=True)
    network.compromise(kme, "withhold")
    view = network.wait(network.relay("kme-1", "kme-8").relay_id)
    assert (view.state == "confirmed") == delivers(PLAN, failed=[kme])
    assert all(kme in route for route in view.missing)


@pytest.mark.parametrize(
    ("leaking", "learned"),
    [
        (["kme-4"], False),
        (["kme-6"], False),
        (["kme-4", "kme-6"], False),
        (["kme-5", "kme-6"], True),
        (["kme-2", "kme-3"], True),
        (["kme-8"], True),
    ],
)
def test_what_leaking_kmes_learn_together(leaking, learned):
    network = Network(lab=True)
    for kme in leaking:
        network.compromise(kme, "leak")
    view = network.relay("kme-1", "kme-8")
    assert view.state == "confirmed"
    attack = network.ask(AttackRequest(relay=str(view.relay_id), kmes=()))
    assert (attack.kmes, attack.learned) == (tuple(leaking), learned)
    assert attack.shares_held == sum(route[-1] in leaking for route in prefixes(PLAN))


def prefixes(plan):
    return {route[:n] for route in plan.routes() for n in range(2, len(route) + 1)}


def test_an_honest_kme_leaks_again_nothing_once_restored():
    network = Network(lab=True)
    network.compromise("kme-5", "leak")
    network.compromise("kme-6", "leak")
    network.compromise("kme-6", None)
    view = network.relay("kme-1", "kme-8")
    attack = network.ask(AttackRequest(relay=str(view.relay_id), kmes=()))
    assert (attack.kmes, attack.learned) == (("kme-5",), False)


# --- little key ------------------------------------------------------------------------------------


def test_a_share_waits_for_link_key_visibly_and_goes_when_key_comes():
    network = Network(DIAMOND)
    # 32 bytes of keys, 32 of confirmation key, 32 of AMD code: 96 of pad, a slot of 32, and 64 for a block of key.
    network.limit_key("kme-1", "kme-2", network.time, rate_bps=80, buffer_bytes=200)
    assert network.relay("kme-1", "kme-4").state == "confirmed"
    view = network.relay("kme-1", "kme-4")
    assert view.state == "started"
    assert [(stuck.route, stuck.reason) for stuck in view.stuck] == [(("kme-1", "kme-2"), "link.key_exhausted")]
    # 8 bytes of pad were left over.
    network.later(18.3)
    assert network.show(view.relay_id).state == "started"
    network.later(0.2)
    view = network.show(view.relay_id)
    assert (view.state, view.stuck) == ("confirmed", ())
    assert same_keys(network, view)


def test_a_link_without_key_does_not_hold_up_the_others():
    network = Network()
    network.limit_key("kme-1", "kme-2", network.time, rate_bps=1, buffer_bytes=10)
    for _ in range(3):
        view = network.relay("kme-1", "kme-8")
        assert view.state == "confirmed"
        assert all(route[1] == "kme-2" for route in view.missing)


def test_what_waited_too_long_is_dropped_and_fresh_shares_go():
    network = Network(DIAMOND)
    network.cut("kme-1", "kme-2")
    view = network.wait(network.relay("kme-1", "kme-4").relay_id, 100.0)
    assert view.state == "failed"
    assert network.stores["kme-1"].waiting.counts() == {}
    network.mend("kme-1", "kme-2")
    assert network.relay("kme-1", "kme-4").state == "confirmed"


# --- the plan --------------------------------------------------------------------------------------


def test_the_view_shows_the_plan_and_what_it_lacks(network):
    network.cut("kme-2", "kme-6")
    view = network.relay("kme-1", "kme-8")
    plan = decode_plan(view.plan)
    assert plan == PLAN
    assert set(view.collected) | set(view.missing) == set(PLAN.routes())
    assert [(s.split, s.present, s.needed) for s in view.short_splits] == shortfall(PLAN, view.collected)


def test_ends_that_ask_for_more_than_the_plan_gives_refuse_and_say_so():
    network = Network(withstand_compromised=2)
    view = network.relay("kme-1", "kme-8")
    assert view.state == "failed"
    assert "refused by kme-1: the plan does not withstand 2 compromised KME" in view.reason
    assert network.sealed == []


def test_on_each_connection_link_key_is_of_other_blocks():
    network = Network()
    for _ in range(3):
        assert network.relay("kme-1", "kme-8").state == "confirmed"
        network.hub.drop("kme-1")
    blocks = {}
    for link, block, _ in network.slots():
        blocks.setdefault(link, set()).add(block)
    assert {len(of_link) for link, of_link in blocks.items() if link[0] == "kme-1"} == {3}
    assert {len(of_link) for link, of_link in blocks.items() if link[0] != "kme-1"} == {1}
    assert {len(bodies) for bodies in network.slots().values()} == {1}
