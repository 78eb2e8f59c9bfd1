"""Random networks with cut links and stopped KMEs: a relay confirms exactly when its plan says so."""

from itertools import combinations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kme.blocks.announcing import ANNOUNCE_AGAIN_S
from qkdrelay.network.planner import recursive_plan
from support.network import Network, ask, of
from support.plans import delivers


@st.composite
def networks(draw, kmes_max=8):
    """Connected: each KME is linked to an earlier one, and to any others."""
    kmes = [f"k{n}" for n in range(draw(st.integers(2, kmes_max)))]
    links = {(draw(st.sampled_from(kmes[:n])), kmes[n]) for n in range(1, len(kmes))}
    pairs = list(combinations(kmes, 2))
    links.update(draw(st.lists(st.sampled_from(pairs), max_size=2 * len(kmes))))
    return of(kmes, sorted(links))


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(networks(), st.sampled_from(["otp", "aes-256-gcm"]), st.data())
def test_a_relay_confirms_exactly_when_the_plan_delivers(topology, suite, data):
    source, target = data.draw(st.permutations(topology.kmes))[:2]
    cut = data.draw(st.lists(st.sampled_from(topology.links), max_size=3, unique=True))
    stopped = data.draw(st.lists(st.sampled_from(topology.kmes), max_size=2, unique=True))
    network = Network(topology, suite=suite, withstand_compromised=0)
    for link in cut:
        network.cut(*link)
    network.stop(*stopped)
    plan = recursive_plan(topology, source, target)
    view = network.wait(network.relay(source, target, allow_unprotected=True).relay_id)
    expected = delivers(plan, stopped, cut)
    assert (view.state == "confirmed") == expected
    keys = [network.keys(end, view.relay_id) for end in (source, target)]
    assert keys[0] == keys[1]
    assert (keys[0] is not None) == expected
    if not expected and not {source, target} & set(stopped):
        kept = [network.stores[end].relays.get(view.relay_id) for end in (source, target)]
        assert [(relay.state, relay.payload) for relay in kept] == [("failed", None)] * 2
    assert (view.false_shares, view.disputed, view.equivocating) == ((), (), ())
    assert network.dead_letters() == []
    assert all(len(messages) == 1 for messages in network.slots().values())
    # Everything that is mended in the end comes to rest: nothing waits, nothing is undecided.
    network.resume(*stopped)
    for link in cut:
        network.mend(*link)
    network.later(400.0)
    assert set(network.show(view.relay_id).released_at) == ({source, target} if expected else set())
    assert all(store.waiting.counts() == {} and store.relays.pending() == 0 for store in network.stores.values())


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(networks(), st.data())
def test_a_tampering_kme_makes_nobody_accept_a_wrong_key_and_names_no_innocent(topology, data):
    source, target, *between = data.draw(st.permutations(topology.kmes))
    network = Network(topology, lab=True, withstand_compromised=0)
    if between:
        network.compromise(between[0], "tamper")
    view = network.wait(network.relay(source, target, allow_unprotected=True).relay_id)
    assert network.keys(source, view.relay_id) == network.keys(target, view.relay_id)
    assert all(between[0] in route for route in view.false_shares)
    plan = recursive_plan(topology, source, target)
    assert (view.state == "confirmed") == delivers(plan, between[:1])


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(networks(6), st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["drop", "step"])), max_size=60), st.data())
def test_relays_confirm_in_whatever_order_services_work_and_connections_break(topology, acts, data):
    network = Network(topology, withstand_compromised=0)
    names = list(network.loops)
    source, target = data.draw(st.permutations(topology.kmes))[:2]
    relay_id = ask(network, source, target)
    for place, act in acts:
        name = names[place % len(names)]
        if act == "drop":
            network.hub.drop(name)
        else:
            network.loops[name].step(0.0)
    network.settle()
    # Of two blocks of key that are announced in one breath the second is held once it is announced again.
    network.later(ANNOUNCE_AGAIN_S[0])
    assert network.show(relay_id).state == "confirmed"
    assert network.keys(source, relay_id) == network.keys(target, relay_id)
    assert all(len(messages) == 1 for messages in network.slots().values())
