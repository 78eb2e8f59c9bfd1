"""`coordinator analyse --all-pairs`: what every pair withstands, in one line and as a picture."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from functools import cache
from itertools import combinations, permutations
from pathlib import Path
from xml.etree import ElementTree as ET

import networkx as nx
import pytest

from qkdrelay.network.demand import Demand
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import load_topology
from qkdrelay_cli.render.pairs import all_pairs
from qkdrelay_pictures.pairs import MATRIX_KMES_MAX, draw_pairs
from support.svg import SVG, boxes, overlap, page, texts, within

TOPOLOGIES = Path(__file__).parents[3] / "infra" / "topologies"
FILES = sorted(TOPOLOGIES.glob("*.toml"))


def backbone(kmes, links, seed):
    """A network as operators build them: the shortest spans between sites strewn over a country, in one piece."""
    rng = random.Random(seed)
    sites = [(rng.random(), rng.random()) for _ in range(kmes)]
    spans = nx.Graph()
    spans.add_weighted_edges_from((a, b, math.dist(sites[a], sites[b])) for a, b in combinations(range(kmes), 2))
    tree = list(nx.minimum_spanning_edges(spans, data=False))
    rest = sorted((span for span in spans.edges if span not in tree), key=lambda span: spans.edges[span]["weight"])
    name = "site-{:02}-of-{:02}".format
    chosen = tuple((name(a, kmes), name(b, kmes)) for a, b in (*tree, *rest[: links - len(tree)]))
    names = tuple(name(i, kmes) for i in range(kmes))
    trust = {names[2]: "trusted", names[3]: "avoid", names[4]: "never"}
    return Topology(f"backbone-{kmes}-{seed}", names, chosen, trust=trust)


NETWORKS = [
    *(pytest.param(load_topology(file), id=file.stem) for file in FILES),
    pytest.param(backbone(50, 88, 3), id="50 KMEs"),
    pytest.param(Topology("parted", ("a", "b", "c"), (("a", "b"),)), id="parted"),
    pytest.param(Topology("apart", ("a", "b"), ()), id="no link"),
    pytest.param(Topology("whole", ("a", "b", "c"), tuple(combinations("abc", 2))), id="all neighbours"),
]


@cache
def picture(topology, policy="recursive"):
    return ET.fromstring(draw_pairs(topology, all_pairs(topology, policy, Demand()), "title", "summary"))


def circles(root):
    """The number written in each circle, with its centre and radius."""
    group = root.find(f"{SVG}g")
    numbers = [text.text for text in group.findall(f"{SVG}text") if text.text.isdecimal()]
    around = {}
    for circle in group.findall(f"{SVG}circle"):
        x, y, r = (float(circle.get(name)) for name in ("cx", "cy", "r"))
        around.setdefault((x, y), r)
    return {number: (*centre, r) for number, (centre, r) in zip(numbers, around.items(), strict=True)}


def links(root):
    for path in root.find(f"{SVG}g").findall(f"{SVG}path"):
        if path.get("stroke-width") == "1.5":
            x1, y1, x2, y2 = map(float, re.findall(r"[\d.]+", path.get("d")))
            yield (x1, y1), (x2, y2)


def distance(point, a, b):
    along, offset = (b[0] - a[0], b[1] - a[1]), (point[0] - a[0], point[1] - a[1])
    part = (along[0] * offset[0] + along[1] * offset[1]) / (along[0] ** 2 + along[1] ** 2)
    part = min(1, max(0, part))
    return math.dist(offset, (part * along[0], part * along[1]))


@pytest.mark.parametrize("topology", NETWORKS)
def test_everything_can_be_read(topology):
    root = picture(topology)
    labels, squares = texts(root), boxes(root)
    assert page(root)[0] == "#ffffff"
    named = Counter(text for text, *_ in labels if text in topology.kmes)
    assert set(named) == set(topology.kmes)
    assert sum(named.values()) >= 2 * len(topology.kmes) - (len(topology.kmes) > 40) * 5
    for one, other in combinations(labels, 2):
        assert not overlap(one, other), (one, other)
    for label in labels:
        assert within(label, page(root)), label
        assert all(within(label, square) or not overlap(label, square) for square in squares), label


@pytest.mark.parametrize("topology", NETWORKS)
def test_no_kme_lies_on_another_or_on_a_link_of_others(topology):
    root = picture(topology)
    kmes = circles(root)
    assert list(kmes) == [str(number) for number in range(1, len(topology.kmes) + 1)]
    places = {(x, y): number for number, (x, y, _) in kmes.items()}
    for (x1, y1, r1), (x2, y2, r2) in combinations(kmes.values(), 2):
        assert math.dist((x1, y1), (x2, y2)) > r1 + r2
    drawn = list(links(root))
    number = {kme: str(i) for i, kme in enumerate(topology.kmes, 1)}
    assert [{places[a], places[b]} for a, b in drawn] == [{number[a], number[b]} for a, b in topology.links]
    for a, b in drawn:
        assert all(distance((x, y), a, b) > r for x, y, r in kmes.values() if (x, y) not in (a, b))


LEGEND = {
    (0, 0): "one compromised KME learns the keys; one crash blocks them",
    (0, 1): "one compromised KME learns the keys; no single crash blocks them",
    (1, 0): "one crash blocks the keys; no single KME learns them",
    (1, 1): "withstands one compromised KME and one crash",
    (2, 1): "withstands more than one of either",
}


@pytest.mark.parametrize("policy", ["recursive", "best", "disjoint"])
@pytest.mark.parametrize("name", ["geant", "nsfnet", "eight-kmes"])
def test_each_cell_shows_what_its_pair_withstands(run, tmp_path, name, policy):
    topology = load_topology(TOPOLOGIES / f"{name}.toml")
    command = ("analyse", "--all-pairs", "--topology", str(TOPOLOGIES / f"{name}.toml"), "--policy", policy)
    pairs = run(*command, "--json", "--svg", "pairs.svg").data["pairs"]
    root = ET.fromstring((tmp_path / "pairs.svg").read_text())
    labels, squares = texts(root), boxes(root)
    cells = sorted((s for s in squares if s[0] not in (None, "none") and s[3] - s[1] > 15), key=lambda s: (s[2], s[1]))
    says = {}
    for colour, _, top, right, _ in squares:
        for text, left, above, _, bottom in labels:
            if above < top + 7 < bottom and 0 < left - right < 15:
                says[colour] = text
    numbers = Counter()
    for cell, (source, target), pair in zip(cells, permutations(topology.kmes, 2), pairs, strict=True):
        assert (pair["source"], pair["target"]) == (source, target)
        written = [label[0] for label in labels if within(label, cell)]
        if target in topology.neighbours[source]:
            assert (says[cell[0]].split(":")[0], written) == ("neighbours", [])
            continue
        compromised, failed = pair["withstands"]["compromised"], pair["withstands"]["failed"]
        assert written == [f"{compromised}/{failed}"]
        kind = (min(compromised, 1), min(failed, 1))
        said = LEGEND[(2, 1) if kind == (1, 1) != (compromised, failed) else kind]
        assert says[cell[0]].startswith(f"{said}: ")
        numbers[cell[0]] += 1
    between = sum(numbers.values())
    for colour, number in numbers.items():
        assert says[colour].endswith(f": {number} pair{'s' * (number > 1)}, {100 * number / between:.0f} %")


@pytest.mark.parametrize(("name", "learned", "blocked"), [("nsfnet", 77, 96), ("geant", 75, 98)])
def test_the_recursive_rule_is_weak_on_real_backbones(run, tmp_path, name, learned, blocked):
    command = ("analyse", "--all-pairs", "--topology", str(TOPOLOGIES / f"{name}.toml"), "--policy", "recursive")
    line = f"one compromised KME learns the keys of {learned} % of them, one crash blocks {blocked} %"
    assert run(*command, "--svg", "pairs.svg").out.splitlines()[1] == line
    assert line in [text for text, *_ in texts(ET.fromstring((tmp_path / "pairs.svg").read_text()))]
    data = run(*command, "--json").data
    assert round(100 * data["learned_by_one"] / data["between"]) == learned
    assert round(100 * data["blocked_by_one"] / data["between"]) == blocked


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_best_plans_leave_a_pair_as_weak_as_the_network_does(run, file):
    data = run("analyse", "--all-pairs", "--topology", str(file), "--policy", "best", "--json").data
    graph = nx.Graph(load_topology(file).links)
    paths = [nx.node_connectivity(graph, *pair) for pair in permutations(graph, 2) if pair not in graph.edges]
    assert data["between"] == len(paths)
    assert data["learned_by_one"] == sum(k < 2 for k in paths)
    assert data["blocked_by_one"] == sum(k < 3 for k in paths)


def test_notes_on_trust_are_drawn_and_explained():
    root = picture(backbone(8, 12, 1))
    said = [text for text, *_ in texts(root)]
    assert {"trusted, by the topology file", "relays only if there is no other way", "never relays"} <= set(said)
    assert not any("relays" in text or "trusted" in text for text, *_ in texts(picture(load_topology(FILES[0]))))


def test_too_many_kmes_for_a_picture_are_refused_at_once(run, tmp_path):
    kmes = [f"k{i}" for i in range(MATRIX_KMES_MAX + 1)]
    (tmp_path / "star.toml").write_text(
        f'name = "star"\nkmes = {kmes}\nlinks = {[["k0", kme] for kme in kmes[1:]]}\n', encoding="utf-8"
    )
    result = run("analyse", "--all-pairs", "--topology", "star.toml", "--png", "star.png")
    assert (result.code, result.out) == (2, "")
    assert f"star has {MATRIX_KMES_MAX + 1} KMEs; a picture of all pairs has room for {MATRIX_KMES_MAX}" in result.err
    assert not (tmp_path / "star.png").exists()
