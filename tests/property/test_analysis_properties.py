"""The analysis of plans against the sharing itself, against brute force, and the planner against Menger's bound."""

from itertools import chain, combinations, pairwise, product
from random import Random
from unittest import mock

import networkx as nx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qkdrelay.errors import RequestRefusedError
from qkdrelay.network import exhaustive, minimal_sets, probability
from qkdrelay.network.analysis import withstands_compromised
from qkdrelay.network.bdd import Diagram
from qkdrelay.network.demand import Demand
from qkdrelay.network.plan import Hop, Plan
from qkdrelay.network.planner import PairPaths
from qkdrelay.network.selection import choose, plans
from qkdrelay.network.threshold_circuit import blocking, learning
from qkdrelay.network.topology import Topology
from qkdrelay.network.what_if import case
from qkdrelay.schemes import recursive
from qkdrelay.sharing import gf256
from support.plans import at_target, carry, delivers, eight, learns, random_plans, written

SEEDS = st.integers(0, 2**32)
KEYS = bytes(range(48))


def subsets(things):
    things = list(things)
    return chain.from_iterable(combinations(things, size) for size in range(len(things) + 1))


def between(plan):
    return [kme for kme in plan.order if kme not in (plan.source, plan.target)]


# --- learning, against the span of the shares ---------------------------------------------------


def rows(plan):
    """Every share of a relay as a linear function: route -> its coefficients of (secret, each random coefficient).

    The sharing code works on each byte by itself, with the same factors. So if byte j of the secret and of the random
    coefficients is 1 for the unknown number j and 0 elsewhere, byte j of a share is the share's coefficient of
    unknown number j. The AMD code, which adds bytes and alters none, is left out.
    """
    splits = sum(n * (plan.threshold(k) - 1) for k, n in plan.path_counts.items() if k != plan.target)
    size, drawn = 1 + splits, 0

    def unknowns(length):
        nonlocal drawn
        first, drawn = drawn + 1, drawn + length // size
        return b"".join(unit(number, size) for number in range(first, drawn + 1))

    with mock.patch("qkdrelay.sharing.amd.encode", lambda message, random: message):
        shares = carry(plan, unit(0, size), unknowns)
    assert drawn == splits
    return shares


def unit(number, size):
    return bytes(number) + b"\1" + bytes(size - number - 1)


def is_in_span(wanted, vectors):
    """Whether ``wanted`` is a linear combination of ``vectors`` over GF(2^8): Gauss's elimination."""
    pivots = []

    def reduced(vector):
        for place, pivot in pivots:
            if vector[place]:
                vector = add(vector, gf256.scale(vector[place], pivot))
        return vector

    for vector in vectors:
        rest = reduced(vector)
        place = next((i for i, byte in enumerate(rest) if byte), None)
        if place is not None:
            pivots.append((place, gf256.scale(gf256.inverse(rest[place]), rest)))
    return not any(reduced(wanted))


def add(a, b):
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def spans(plan, shares, coalition):
    seen = [vector for route, vector in shares.items() if route[-1] in coalition]
    return is_in_span(unit(0, len(shares[plan.source,])), seen)


def test_on_the_reference_network_a_coalition_learns_exactly_what_its_shares_span():
    plan = eight()
    shares = rows(plan)
    for coalition in subsets(between(plan)):
        assert learns(plan, coalition) == spans(plan, shares, coalition)
        assert case(plan, compromised=coalition).learned == spans(plan, shares, coalition)


@given(st.data(), random_plans())
@settings(max_examples=80)
def test_a_coalition_learns_exactly_when_the_secret_is_in_the_span_of_its_shares(data, plan):
    assume(plan.share_messages <= 150)
    shares = rows(plan)
    for coalition in data.draw(st.lists(st.sets(st.sampled_from(between(plan) or ["s"])), max_size=6)):
        assert learns(plan, coalition) == spans(plan, shares, coalition)


# --- delivery, against what the target rebuilds ----------------------------------------------------


@given(st.data(), random_plans(), SEEDS)
@settings(max_examples=150)
def test_the_target_rebuilds_exactly_when_the_analysis_says_so(data, plan, seed):
    failed = data.draw(st.sets(st.sampled_from(between(plan)), max_size=3)) if between(plan) else set()
    cut = data.draw(st.sets(st.sampled_from(plan.links), max_size=3))
    shares = at_target(plan, carry(plan, KEYS, Random(seed).randbytes))
    links = {route: set(pairwise(route)) for route in shares}
    came = {r: share for r, share in shares.items() if not failed & set(r) and not cut & links[r]}
    rebuilt = recursive.rebuild(plan, came, len(KEYS)).secret == KEYS
    turned = [(b, a) for a, b in cut]
    assert delivers(plan, failed, turned) == rebuilt
    assert case(plan, failed=failed, cut=turned).delivered == rebuilt


@given(st.data(), random_plans(), SEEDS)
@settings(max_examples=150)
def test_the_target_rebuilds_in_spite_of_as_many_tampering_kmes_as_stated(data, plan, seed):
    most = minimal_sets.resilience(plan, len(between(plan))).tampering
    coalition = set(data.draw(st.permutations(between(plan)))[:most])
    random = Random(seed)

    def tamper(route, payload):
        if coalition & set(route[-2:]) and random.random() < 0.7:
            return random.randbytes(len(payload))
        return payload

    held = at_target(plan, carry(plan, KEYS, random.randbytes, tamper))
    came = {route: share for route, share in held.items() if not coalition & set(route) or random.random() < 0.8}
    assert recursive.rebuild(plan, came, len(KEYS)).secret == KEYS


# --- minimal sets and probabilities, against brute force -------------------------------------------


def brute_force(circuit):
    found = []
    for chosen in subsets(circuit.elements):
        if not any(set(known) <= set(chosen) for known in found) and circuit.holds(chosen):
            found.append(chosen)
    return {frozenset(chosen) for chosen in found}


def circuits(plan):
    every = learning(plan), blocking(plan), blocking(plan, kmes=False, links=True), blocking(plan, links=True)
    return [circuit for circuit in every if len(circuit.elements) <= 10]


@given(random_plans())
@settings(max_examples=60)
def test_minimal_sets_are_those_that_trying_all_finds(plan):
    for circuit in circuits(plan):
        true, found = brute_force(circuit), minimal_sets.minimal(circuit, 10_000)
        assert {frozenset(chosen) for chosen in found.sets} == true
        assert len(found.sets) == len(true)
        assert [len(chosen) for chosen in found.sets] == sorted(len(chosen) for chosen in true)
        assert found.smallest == minimal_sets.smallest(circuit) == min(map(len, true), default=None)
        assert sum(found.counts.values()) == len(true)
        assert found.complete


@given(random_plans(kmes_max=6))
@settings(max_examples=8)
def test_the_solver_finds_the_same_minimal_sets(plan):
    for circuit in circuits(plan)[:3]:
        by_diagram, by_solver = minimal_sets.minimal(circuit, 40), minimal_sets.minimal(circuit, 40, nodes_max=2)
        if by_diagram.complete:
            assert by_solver.sets == by_diagram.sets
        assert by_solver.smallest == by_diagram.smallest
        assert by_solver.complete == by_diagram.complete


@given(random_plans(), st.integers(0, 4))
@settings(max_examples=150)
def test_a_kme_finds_exactly_the_plans_that_withstand_so_many(plan, size):
    worst = combinations(between(plan), min(size, len(between(plan))))
    assert withstands_compromised(plan, size) == (not any(learns(plan, coalition) for coalition in worst))


@given(random_plans(), st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=100)
def test_a_kme_finds_the_same_however_many_it_tries_at_once(plan, size, at_once):
    with mock.patch.object(exhaustive, "SETS_AT_ONCE_MAX", at_once):
        small = withstands_compromised(plan, size)
    assert small == withstands_compromised(plan, size)


@given(random_plans(kmes_max=5), SEEDS)
@settings(max_examples=60)
def test_a_probability_is_the_sum_over_all_cases(plan, seed):
    random = Random(seed)
    of = {element: random.choice((0.0, 1.0, random.random())) for element in (*plan.order, *plan.links)}
    for circuit, found in (
        (learning(plan), probability.leak(plan, {kme: of[kme] for kme in plan.order})),
        (blocking(plan, links=True), probability.loss(plan, of, of)),
    ):
        if len(circuit.elements) > 10:
            continue
        total = 0.0
        for case_ in product((False, True), repeat=len(circuit.elements)):
            chosen = [e for e, there in zip(circuit.elements, case_, strict=True) if there]
            weight = 1.0
            for element, there in zip(circuit.elements, case_, strict=True):
                weight *= of[element] if there else 1 - of[element]
            total += weight * circuit.holds(chosen)
        assert found.exact
        assert found.low == found.high == pytest.approx(total, abs=1e-12)
        assert Diagram(circuit).probability([of[e] for e in circuit.elements]) == pytest.approx(total, abs=1e-12)


# --- the planner, against an independent count of disjoint paths -----------------------------------


@st.composite
def networks(draw, *, apart=False):
    """Networks of all densities, some of them in pieces; ``apart``: the first two KMEs are no neighbours."""
    n = draw(st.integers(3, 14))
    names = [f"kme-{i}" for i in range(n)]
    density, random = draw(st.floats(0.15, 0.8)), Random(draw(SEEDS))
    pairs = list(combinations(names, 2))[apart:]
    return Topology("random", tuple(names), tuple(pair for pair in pairs if random.random() < density))


def connectivity(topology, source, target):
    """How many KMEs it takes to part the two, which are no neighbours."""
    graph = nx.Graph(topology.links)
    graph.add_nodes_from(topology.kmes)
    return nx.node_connectivity(graph, source, target)


@given(networks(apart=True))
@settings(max_examples=60)
def test_the_planner_reaches_mengers_bound_on_networks_it_has_never_seen(topology):
    source, target = topology.kmes[:2]
    paths = connectivity(topology, source, target)
    for compromised in range(paths):
        failed = paths - 1 - compromised
        plan = choose(topology, source, target, Demand(compromised, failed)).plan
        assert withstands_compromised(plan, compromised)
        assert all(delivers(plan, some) for some in combinations(between(plan), min(failed, len(between(plan)))))
        if compromised < len(topology.kmes) - 2 and paths < len(topology.kmes) - 2:
            with pytest.raises(RequestRefusedError, match=r"no plan withstands"):
                choose(topology, source, target, Demand(compromised, failed + 1))


@given(networks(apart=True))
@settings(max_examples=60)
def test_so_many_disjoint_paths_have_no_fewer_links_than_those_found(topology):
    source, target = topology.kmes[:2]
    graph = nx.DiGraph()
    for kme in topology.kmes:
        graph.add_edge((kme, "in"), (kme, "out"), capacity=1, weight=0)
    for a, b in (*topology.links, *((b, a) for a, b in topology.links)):
        graph.add_edge((a, "out"), (b, "in"), capacity=1, weight=1)
    found = PairPaths(topology, source, target).disjoint()
    assert len(found) == connectivity(topology, source, target)
    for number, paths in enumerate(found, 1):
        graph.nodes[source, "out"]["demand"], graph.nodes[target, "in"]["demand"] = -number, number
        assert sum(len(path) - 1 for path in paths) == nx.min_cost_flow_cost(graph)
        middle = [kme for path in paths for kme in path[1:-1]]
        assert len(middle) == len(set(middle))


@given(networks())
@settings(max_examples=60)
def test_every_candidate_withstands_what_it_says_and_uses_only_links_there_are(topology):
    source, target = topology.kmes[:2]
    assume(topology.hops_to(target).get(source) is not None)
    for candidate in plans(topology, source, target):
        plan = Plan.checked(source, target, candidate.plan.hops)
        assert all(topology.link(a, b) for a, b in plan.links)
        others = [kme for kme in topology.kmes if kme not in (source, target)]
        for size, harm in (
            (candidate.resilience.compromised, lambda some, plan=plan: learns(plan, some)),
            (candidate.resilience.failed, lambda some, plan=plan: not delivers(plan, some)),
        ):
            assert not any(harm(some) for some in combinations(others, size))
            assert size == len(others) or any(harm(some) for some in combinations(others, size + 1))


def test_a_split_without_all_its_shares_falls_short_where_the_case_says():
    plan = written({"s": (("a", "b"), 2), "a": (("t",), 1), "b": (("t",), 1)}, "s", "t")
    found = case(plan, compromised=("a",), failed=("b",))
    assert [(short.kme, short.present, short.missing, short.needed) for short in found.short] == [
        ("s", ("a",), ("b",), 2)
    ]
    assert [(held.kme, held.member) for held in found.held] == [("a", True)]
    assert plan.hops["s"] == Hop(("a", "b"), 2)
