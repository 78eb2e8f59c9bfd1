"""The rates that a network can give: against every bundle there is, against the formula for one pair, and its proof."""

from itertools import combinations, pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from qkdrelay.network.capacity import KmePair, bundles_of, is_protectable, optimum
from qkdrelay.network.flow_bounds import FlowBounds
from qkdrelay.network.key_rates import key_rates, pairs_of, rates_of
from qkdrelay.network.topology import LinkNote, Topology
from qkdrelay.network.topology_file import load_topology
from support.plans import TOPOLOGIES

NEAR = 1e-6
T_MAX = 3


@st.composite
def networks(draw, kmes_max=7, orders=1):
    """A network whose directed links have rates of their own, and the rates, of so many orders of magnitude."""
    number = draw(st.integers(4, kmes_max))
    kmes = tuple(f"k{i}" for i in range(number))
    # The first two are no neighbours.
    links = tuple(pair for pair in combinations(kmes, 2) if pair != kmes[:2] and draw(st.integers(0, 9)) < 7)
    ways = [way for a, b in links for way in ((a, b), (b, a))]
    rates = {way: float(draw(st.integers(1, 10)) * 10 ** draw(st.integers(0, orders))) for way in ways}
    return Topology("drawn", kmes, links), rates


def graph(topology, rates):
    made = nx.DiGraph()
    made.add_nodes_from(topology.kmes)
    for (a, b), rate in rates.items():
        made.add_edge(a, b, capacity=rate)
    return made


def flows_left(topology, rates, source, target):
    """The least flow after so many KMEs are taken away, by that number, until none is left; slowly."""
    whole, others, found = graph(topology, rates), set(topology.kmes) - {source, target}, []
    for taken in range(len(others) + 1):
        kept = (whole.subgraph(set(topology.kmes) - set(some)) for some in combinations(sorted(others), taken))
        found.append(min(nx.maximum_flow_value(left, source, target) for left in kept))
        if found[-1] == 0:
            break
    return found


def envelope(left, at):
    """The lower convex envelope of (number, flow) at a number."""
    if at >= len(left):
        return 0.0
    lines = [left[at]]
    for low in range(at + 1):
        for high in range(max(at, low + 1), len(left)):
            lines.append(left[low] + (left[high] - left[low]) * (at - low) / (high - low))
    return min(lines)


def every_bundle(topology, pair, compromised, *, threshold):
    """Every set of disjoint paths of a pair, with its worth."""
    undirected = nx.Graph(list(topology.links))
    undirected.add_nodes_from(topology.kmes)
    paths = [tuple(path) for path in nx.all_simple_paths(undirected, pair.source, pair.target)]
    for size in [compromised + 1] if threshold else range(compromised + 1, len(topology.kmes)):
        for some in combinations(paths, size):
            inner = [kme for path in some for kme in path[1:-1]]
            if len(set(inner)) == len(inner) and len(set(some)) == len(some):
                yield some, 1 if threshold else size - compromised


def slowly(topology, rates, pairs, compromised, *, threshold):
    """The optimum over every bundle there is, all at once."""
    links = list(rates)
    columns = [
        (i, paths, worth)
        for i, pair in enumerate(pairs)
        for paths, worth in every_bundle(topology, pair, compromised, threshold=threshold)
    ]
    matrix = np.zeros((len(links) + len(pairs), len(columns) + 1))
    for i, pair in enumerate(pairs):
        matrix[len(links) + i, 0] = pair.demand
    for number, (i, paths, worth) in enumerate(columns, 1):
        matrix[len(links) + i, number] = -worth
        for path in paths:
            for link in pairwise(path):
                matrix[links.index(link), number] += 1
    limits = np.array([*rates.values(), *(0.0 for _ in pairs)])
    return -linprog(np.array([-1.0, *(0.0 for _ in columns)]), A_ub=matrix, b_ub=limits, method="highs").fun


@given(made=st.one_of(networks(), networks(orders=11)), compromised=st.integers(0, 2))
def test_for_one_pair_the_program_gives_what_the_formula_says(made, compromised):
    topology, rates = made
    pair = KmePair("k0", "k1")
    left = flows_left(topology, rates, "k0", "k1")
    if not is_protectable(topology, pair, compromised):
        assert envelope(left, compromised) == 0
        return
    found = optimum(topology, rates, [pair], compromised)
    assert found.share == pytest.approx(envelope(left, compromised), rel=NEAR)
    assert found.share <= found.certificate * (1 + NEAR)
    assert found.certificate == pytest.approx(found.share, rel=1e-4)
    of_threshold = optimum(topology, rates, [pair], compromised, "threshold")
    most = min(left[j] / (compromised + 1 - j) for j in range(compromised + 1))
    assert of_threshold.share <= most * (1 + NEAR)
    assert of_threshold.share <= found.share * (1 + NEAR)


@settings(max_examples=60)
@given(made=networks(kmes_max=6, orders=11), compromised=st.integers(0, 2), data=st.data())
def test_however_far_apart_rates_and_demands_are_links_carry_it_and_nobody_could_have_more(made, compromised, data):
    topology, rates = made
    wants = st.integers(0, 12).map(lambda power: 10.0**power)
    pairs = [
        KmePair(pair.source, pair.target, data.draw(wants))
        for pair in pairs_of(topology)
        if is_protectable(topology, pair, compromised)
    ]
    if not pairs:
        return
    found = optimum(topology, rates, pairs, compromised)
    assert 0 < found.share <= found.certificate <= found.share * (1 + 1e-4)
    used = dict.fromkeys(rates, 0.0)
    for pair, uses in found.uses.items():
        got = 0.0
        for bundle, flow in uses.items():
            got += flow * bundle.worth
            for link in bundle.links:
                used[link] += flow
        assert got >= found.share * pair.demand * (1 - 1e-9)
    assert all(use <= rates[link] * (1 + 1e-9) for link, use in used.items())
    bounds = FlowBounds(topology.kmes, rates)
    for pair in pairs:
        assert found.share * pair.demand <= bounds.least(pair.source, pair.target, compromised) * (1 + 1e-6)


@given(made=networks(orders=11), taken=st.integers(0, 2))
def test_no_protocol_s_bound_is_the_least_flow_however_far_apart_rates_are(made, taken):
    topology, rates = made
    left = flows_left(topology, rates, "k0", "k1")
    least = left[taken] if taken < len(left) else 0
    bound = FlowBounds(topology.kmes, rates).least("k0", "k1", taken)
    assert least * (1 - 1e-9) <= bound <= least * (1 + 1e-6) + 1e-6 * min(ends(rates, "k0", 0), ends(rates, "k1", 1))


def ends(rates, kme, side):
    return sum(rate for link, rate in rates.items() if link[side] == kme)


@settings(max_examples=40)
@given(made=networks(kmes_max=5), compromised=st.integers(0, 1), threshold=st.booleans(), data=st.data())
def test_for_all_pairs_it_gives_what_the_program_over_every_bundle_gives(made, compromised, threshold, data):
    topology, rates = made
    pairs = [
        KmePair(p.source, p.target, data.draw(st.integers(1, 5)))
        for p in pairs_of(topology)
        if is_protectable(topology, p, compromised)
    ]
    if not pairs:
        return
    found = optimum(topology, rates, pairs, compromised, "threshold" if threshold else "bundles")
    assert found.share == pytest.approx(slowly(topology, rates, pairs, compromised, threshold=threshold), rel=NEAR)
    assert found.certificate == pytest.approx(found.share, rel=1e-4)
    for pair in pairs:
        given_to = sum(flow * bundle.worth for bundle, flow in found.uses[pair].items())
        assert given_to >= pair.demand * found.share * (1 - NEAR)
    for link, used in found.used.items():
        assert used <= rates[link] * (1 + NEAR)


@given(made=networks(), prices=st.lists(st.integers(1, 1000), min_size=42, max_size=42))
def test_no_prices_prove_less_than_what_is_delivered(made, prices):
    topology, rates = made
    pairs = [pair for pair in pairs_of(topology) if is_protectable(topology, pair, 1)]
    if not pairs:
        return
    chosen = dict(zip(rates, prices, strict=False))
    least = sum(
        min(
            sum(chosen[link] for link in bundle.links) / bundle.worth
            for bundle in bundles_of(topology, pair, 1, "bundles", chosen)
        )
        for pair in pairs
    )
    bound = sum(rates[link] * price for link, price in chosen.items()) / least
    assert optimum(topology, rates, pairs, 1).share <= bound * (1 + NEAR)


@given(made=networks(), taken=st.integers(0, T_MAX))
def test_the_flow_that_is_left_is_the_least_of_every_set(made, taken):
    topology, rates = made
    left = flows_left(topology, rates, "k0", "k1")
    exact = left[taken] if taken < len(left) else 0.0
    found = FlowBounds(topology.kmes, rates).least("k0", "k1", taken)
    if taken <= 2:
        assert found == pytest.approx(exact)
    else:
        assert found >= exact * (1 - NEAR)


def test_no_pair_alone_is_given_more_than_any_protocol_could():
    topology = load_topology(TOPOLOGIES / "nsfnet.toml")
    for pair in pairs_of(topology)[::9]:
        found = key_rates(topology, [pair], 1)
        assert found.possible.share <= found.pairs[0].any_protocol_bps * (1 + NEAR)
        assert found.plans <= found.threshold * (1 + NEAR)
        assert found.threshold <= found.possible.share * (1 + NEAR)


@pytest.mark.parametrize("name", ["eight-kmes", "nsfnet", "geant", "nobel-germany", "secoqc", "diamond"])
def test_on_each_network_that_comes_with_qkdrelay_the_gap_is_closed(name):
    topology = load_topology(TOPOLOGIES / f"{name}.toml")
    pairs = [pair for pair in pairs_of(topology) if is_protectable(topology, pair, 1)]
    for scheme in ("bundles", "threshold"):
        found = optimum(topology, rates_of(topology), pairs, 1, scheme)
        assert 0 < found.share <= found.certificate * (1 + NEAR)
        assert found.certificate / found.share - 1 < 1e-4


def test_a_rate_that_is_noted_counts_and_else_the_one_a_kme_has():
    links = (("a", "b"), ("b", "c"))
    topology = Topology("two", ("a", "b", "c"), links, {("b", "c"): LinkNote(rate_bps=300)})
    assert rates_of(topology)["c", "b"] == 300
    assert key_rates(topology, [KmePair("a", "c")], 0).possible.share == pytest.approx(300)
