"""The plans to choose from, and which one is taken."""

import time
from itertools import combinations, pairwise
from pathlib import Path

import networkx as nx
import pytest

from qkdrelay.errors import InvalidPlanError, RequestRefusedError, TopologyError
from qkdrelay.network.analysis import withstands_compromised
from qkdrelay.network.demand import Demand
from qkdrelay.network.key_cost import link_key_bytes
from qkdrelay.network.minimal_sets import Resilience
from qkdrelay.network.planner import recursive_plan
from qkdrelay.network.prices import UNUSABLE, cost
from qkdrelay.network.selection import choose, plans
from qkdrelay.network.topology import LinkNote, Topology
from qkdrelay.network.topology_file import load_topology, reference_topology
from qkdrelay.terminal.refusals import hint_for
from support.plans import learns

REFERENCE = reference_topology()
FILES = sorted((Path(__file__).parents[3] / "infra" / "topologies").glob("*.toml"))


def network(links, trust=None, notes=None):
    """A network written as "sa at sb bt": the names of KMEs are letters."""
    pairs = tuple((link[0], link[1]) for link in links.split())
    return Topology("letters", tuple(dict.fromkeys("".join(links.split()))), pairs, notes or {}, trust or {})


def bound(topology, source, target):
    """How many disjoint paths there are besides a direct link, counted by another library."""
    graph = nx.Graph(topology.links)
    if graph.has_edge(source, target):
        graph.remove_edge(source, target)
    return nx.node_connectivity(graph, source, target)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_bound_is_reached_for_every_pair(file):
    topology = load_topology(file)
    for source, target in combinations(topology.kmes, 2):
        paths = bound(topology, source, target)
        others = len(topology.kmes) - 2
        if target in topology.neighbours[source]:
            chosen = choose(topology, source, target, Demand(others, others))
            assert (chosen.policy, chosen.messages) == ("best", 1)
            continue
        for compromised in range(paths):
            failed = paths - 1 - compromised
            got = choose(topology, source, target, Demand(compromised, failed)).resilience
            assert (got.compromised, got.failed) >= (compromised, failed)
            assert got.failed >= failed
        with pytest.raises(RequestRefusedError):
            choose(topology, source, target, Demand(paths, 0))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_default_withstands_one_compromised_and_if_it_can_one_failed(file):
    topology = load_topology(file)
    for source, target in combinations(topology.kmes, 2):
        paths = bound(topology, source, target)
        if paths < 2 and target not in topology.neighbours[source]:
            with pytest.raises(RequestRefusedError, match="1 path joins"):
                choose(topology, source, target)
        else:
            got = choose(topology, source, target).resilience
            assert got.compromised >= 1
            assert got.failed >= (paths >= 3)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_taken_at_once_is_what_comparing_all_plans_comes_to(file):
    topology = load_topology(file)
    pairs = list(combinations(topology.kmes, 2))
    for source, target in pairs[:: max(1, len(pairs) // 40)]:
        for demand in (Demand(), Demand(1, 1), Demand(2, 0)):
            compared = [c for c in plans(topology, source, target, demand) if c.chosen]
            try:
                taken = [choose(topology, source, target, demand)]
            except RequestRefusedError:
                taken = []
            assert taken == compared


def test_the_reference_pair_goes_over_three_disjoint_paths():
    best, disjoint, recursive = plans(REFERENCE, "kme-1", "kme-8")
    assert [c.policy for c in (best, disjoint, recursive)] == ["best", "disjoint", "recursive"]
    assert [c.messages for c in (best, disjoint, recursive)] == [9, 9, 17]
    assert [c.chosen for c in (best, disjoint, recursive)] == [True, False, False]
    assert best.resilience == Resilience(1, 1, 1, 1)
    assert recursive.resilience == Resilience(1, 0, 0, 0)
    assert recursive.plan == recursive_plan(REFERENCE, "kme-1", "kme-8")


def test_best_takes_no_more_paths_than_the_demand_takes():
    best, disjoint, _ = plans(REFERENCE, "kme-1", "kme-8", Demand(1, 0))
    assert (best.messages, disjoint.messages) == (6, 9)
    assert best.resilience == Resilience(1, 0, 0, 0)


def test_a_policy_that_is_asked_for_is_taken_even_if_it_withstands_no_failure():
    assert choose(REFERENCE, "kme-1", "kme-8", policy="recursive").messages == 17
    with pytest.raises(RequestRefusedError, match="no recursive plan"):
        choose(REFERENCE, "kme-1", "kme-8", Demand(1, 1), "recursive")


def test_a_demand_beyond_the_bound_is_refused_with_the_best_alternative():
    with pytest.raises(RequestRefusedError, match=r"3 disjoint paths join kme-1 and kme-8, and that takes 4") as caught:
        choose(REFERENCE, "kme-1", "kme-8", Demand(2, 1))
    assert hint_for(caught.value) == "possible with policy best: --withstand compromised=2,failed=0"


def test_a_tamperer_counts_as_compromised_and_as_lost():
    assert choose(REFERENCE, "kme-1", "kme-8", Demand(1, 0, tampering=1)).resilience.tampering == 1
    with pytest.raises(RequestRefusedError, match="that takes 4"):
        choose(REFERENCE, "kme-1", "kme-8", Demand(1, 1, tampering=1))


def test_where_one_kme_parts_the_ends_nothing_is_relayed_unless_allowed():
    line = network("sa at")
    with pytest.raises(RequestRefusedError) as caught:
        choose(line, "s", "t")
    assert "--allow-unprotected" in hint_for(caught.value)
    taken = choose(line, "s", "t", allow_unprotected=True)
    assert (taken.chosen, taken.meets_demand, taken.relies_on) == (True, False, ())


def test_neighbours_need_nobody():
    best = choose(network("st sa at"), "s", "t", Demand(1, 1))
    assert best.plan.hops["s"].successors == ("t",)
    assert best.resilience == Resilience(1, 1, 0, 1)


# --- notes of trust, prices ---------------------------------------------------------------------------


def test_a_kme_never_to_be_used_is_on_no_plan():
    noted = Topology("noted", REFERENCE.kmes, REFERENCE.links, {}, {"kme-7": "never"})
    for candidate in plans(noted, "kme-1", "kme-8"):
        assert "kme-7" not in candidate.plan.order
        assert candidate.resilience.failed == 0
    with pytest.raises(InvalidPlanError, match="no path from s to t in network letters that avoids a"):
        plans(network("sa at", {"a": "never"}), "s", "t")


def test_a_kme_noted_as_never_may_still_be_an_end():
    assert choose(network("sa sb at bt", {"s": "never"}), "s", "t").messages == 4


def test_a_kme_to_avoid_is_used_only_if_it_takes_it():
    detour = "sa at sb bt sc cd dt"
    best = choose(network(detour, {"a": "avoid"}), "s", "t", Demand(1, 0))
    assert set(best.plan.order) == set("sbcdt")
    assert set(choose(network(detour, {"a": "avoid"}), "s", "t", Demand(1, 1)).plan.order) == set("sabcdt")


def test_paths_are_taken_where_key_is_cheapest_in_that_direction():
    three = network("sa at sb bt sc ct")
    for busy in "abc":
        best = choose(three, "s", "t", Demand(1, 0), costs=frozenset({((busy, "t"), cost(0.5))}))
        assert busy not in best.plan.order
        back = choose(three, "s", "t", Demand(1, 0), costs=frozenset({(("t", "b"), cost(0.0))}))
        assert set(back.plan.order) == set("sabt")


@pytest.mark.parametrize(("level", "goes_around"), [(1.0, False), (0.95, False), (0.5, True), (0.0, True)])
def test_a_longer_way_is_taken_where_the_shorter_one_is_dearer_than_another_link(level, goes_around):
    detour = network("sa at sb bt sc cd dt")
    dear = frozenset({(("s", "b"), cost(level)), (("b", "t"), cost(level))})
    best = choose(detour, "s", "t", Demand(1, 0), costs=dear)
    assert ("c" in best.plan.order) == goes_around
    assert "a" in best.plan.order


def test_a_link_that_carries_nothing_is_taken_only_where_it_takes_it():
    down = frozenset({(("b", "t"), UNUSABLE)})
    detour = network("sa at sb bt sc cd de et")
    assert "b" not in choose(detour, "s", "t", Demand(1, 0), costs=down).plan.order
    assert "b" in choose(detour, "s", "t", Demand(1, 1), costs=down).plan.order


def test_a_trusted_kme_between_is_relied_upon_only_if_allowed_and_labelled():
    waist = network("sa sb ax bx xc xd ct dt", {"x": "trusted"})
    with pytest.raises(RequestRefusedError, match="1 path joins") as caught:
        choose(waist, "s", "t")
    assert "if x can be trusted" in hint_for(caught.value)
    taken = choose(waist, "s", "t", allow_unprotected=True)
    assert (taken.policy, taken.relies_on, taken.meets_demand) == ("trusted", ("x",), False)
    assert [kme for kme in "abxcd" if learns(taken.plan, [kme])] == ["x"]


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize(
    ("links", "trust", "demand", "why", "hint"),
    [
        ("sa at sb bt", {}, Demand(1, 0), "no KME of letters is noted as trusted", "--policy best does, with 4 "),
        (
            "sa at sb bt",
            {"a": "trusted"},
            Demand(1, 0),
            "best withstands compromised=1,failed=0 without",
            "best does",
        ),
        ("sa at", {}, Demand(), "no KME of letters is noted as trusted", None),
        ("sa ab bt", {"b": "trusted"}, Demand(), "none withstands compromised=1, even if b can be trusted", None),
    ],
)
def test_where_there_is_no_plan_to_trust_or_to_allow_that_is_what_is_said(links, trust, demand, why, hint, allowed):
    with pytest.raises(RequestRefusedError) as caught:
        choose(network(links, trust), "s", "t", demand, "trusted", allow_unprotected=allowed)
    assert str(caught.value).startswith("there is no trusted plan from s to t: ")
    assert why in str(caught.value)
    assert (hint or ("without --policy" if allowed else "--allow-unprotected relays all the same")) in hint_for(
        caught.value
    )
    assert not (allowed and "--allow-unprotected" in hint_for(caught.value))


def test_a_plan_that_trusts_is_taken_by_its_policy_if_that_is_allowed():
    waist = network("sa sb ax bx xc xd ct dt", {"x": "trusted"})
    assert choose(waist, "s", "t", None, "trusted", allow_unprotected=True).relies_on == ("x",)


def test_a_trusted_path_counts_as_one_that_nobody_reads():
    both = network("sx xt sy yt", {"x": "trusted", "y": "trusted"})
    with pytest.raises(RequestRefusedError):
        choose(both, "s", "t", Demand(1, 1))
    taken = choose(both, "s", "t", Demand(1, 1), allow_unprotected=True)
    assert (taken.relies_on, taken.resilience.failed) == (("x", "y"), 1)


def test_no_trust_is_needed_where_the_network_does_without():
    fine = network("sa at sb bt", {"a": "trusted"})
    assert [c.relies_on for c in plans(fine, "s", "t")] == [(), (), ()]


# --- cost, budget, wrong use ---------------------------------------------------------------------------


def layers(count):
    rows = [["s"], *([f"m{i}-{j}" for j in range(3)] for i in range(count)), ["t"]]
    links = tuple((a, b) for near, far in pairwise(rows) for a in near for b in far)
    return Topology("layers", tuple(kme for row in rows for kme in row), links)


def test_a_plan_over_the_budget_is_refused_with_what_to_do():
    with pytest.raises(InvalidPlanError, match="16401 share messages; the budget is 4096") as caught:
        plans(layers(8), "s", "t", policy="recursive")
    assert hint_for(caught.value) == "the policy best takes 27 messages"
    assert [c.policy for c in plans(layers(8), "s", "t")] == ["best", "disjoint"]


@pytest.mark.parametrize("key_count", [4, 6, 7, 10])
def test_the_link_key_is_what_sealing_every_message_draws(key_count):
    """Also where a share becomes a long message on its way: 7 keys make a payload of 256 bytes."""
    notes = {("kme-5", "kme-8"): LinkNote(suite="aes-256-gcm")}
    noted = Topology("noted", REFERENCE.kmes, REFERENCE.links, notes)
    for candidate in plans(noted, "kme-1", "kme-8", key_count=key_count):
        plan = candidate.plan
        drawn = dict.fromkeys(plan.links, 0)
        prefixes = {route[:end] for route in plan.routes() for end in range(2, len(route) + 1)}
        for route in prefixes:
            length = plan.share_length(route, key_count * 32 + 32)  # and a confirmation key
            pad = 0 if noted.note(*route[-2:]).suite == "aes-256-gcm" else length
            drawn[route[-2:]] += 32 + pad
        assert candidate.link_key_batch == drawn
        assert len(prefixes) == candidate.messages
        one = link_key_bytes(plan, 32 + 32, lambda link: noted.note(*link).suite or "otp")
        assert candidate.link_key == one


def random_network(kmes, links, seed):
    graph = nx.gnm_random_graph(kmes, links, seed=seed)
    return Topology("random", tuple(f"k{i}" for i in graph), tuple((f"k{a}", f"k{b}") for a, b in graph.edges))


def test_all_pairs_of_50_kmes_and_88_links_are_planned_in_seconds():
    topology, start = random_network(50, 88, 4), time.process_time()
    reach = topology.hops_to("k0")
    pairs = list(combinations(reach, 2))
    assert len(pairs) > 1000
    assert all(plans(topology, *pair) for pair in pairs)
    assert time.process_time() - start < 10


def test_a_pair_of_500_kmes_is_planned_well_under_a_second():
    topology = random_network(500, 2000, 4)
    start = time.process_time()
    assert next(c.policy for c in plans(topology, "k1", "k499")) == "best"
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("ask", "error", "text"),
    [
        (lambda: plans(REFERENCE, "kme-1", "kme-9"), TopologyError, "no KME 'kme-9'"),
        (lambda: plans(REFERENCE, "kme-1", "kme-1"), InvalidPlanError, "both kme-1"),
        (lambda: plans(REFERENCE, "kme-1", "kme-8", policy="bets"), RequestRefusedError, "no policy 'bets'"),
        (lambda: Demand(-1), RequestRefusedError, "compromised is -1"),
        (lambda: plans(network("sa bt"), "s", "t"), InvalidPlanError, "no path from s to t"),
    ],
)
def test_wrong_use_is_refused(ask, error, text):
    with pytest.raises(error, match=text):
        ask()


def test_the_source_accepts_every_plan_that_is_chosen():
    for source, target in combinations(REFERENCE.kmes, 2):
        assert withstands_compromised(choose(REFERENCE, source, target).plan, 1)
