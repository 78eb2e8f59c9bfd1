"""`coordinator plan --svg`: a picture in which everything can be read."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from qkdrelay.network.selection import plans
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import load_topology
from qkdrelay_pictures.layered import layered
from qkdrelay_pictures.plan import BOX_HEIGHT, PLAN_KMES_MAX, draw_plan
from support.svg import SVG, boxes, overlap, page, texts, within

TOPOLOGIES = sorted((Path(__file__).parents[3] / "infra" / "topologies").glob("*.toml"))
REFERENCE = ("--topology", str(next(file for file in TOPOLOGIES if file.stem == "eight-kmes")))


NAMED_ALL = 25
"""KMEs of a network for all of whose names a plan's picture has room; of more, at least those on the plan are named."""


def pictures():
    for file in TOPOLOGIES:
        topology = load_topology(file)
        for target in topology.kmes[1::3]:
            for candidate in plans(topology, topology.kmes[0], target):
                yield pytest.param(topology, candidate, id=f"{file.stem}-{target}-{candidate.policy}")


@pytest.mark.parametrize(("topology", "candidate"), list(pictures()))
def test_no_label_lies_on_another_or_beside_its_box_or_page(topology, candidate):
    compromised = topology.kmes[2:4]
    root = ET.fromstring(draw_plan(topology, candidate, compromised, cut=topology.links[:2]))
    labels = texts(root)
    named = topology.kmes if len(topology.kmes) <= NAMED_ALL else candidate.plan.order
    assert {kme for kme, *_ in labels} >= set(named)
    for one, other in combinations(labels, 2):
        assert not overlap(one, other), (one, other)
    for label in labels:
        assert within(label, page(root))
        for box in boxes(root):
            assert within(label, box) or not overlap(box, label), label


def test_it_says_who_splits_who_is_compromised_and_what_becomes_of_it(run, tmp_path):
    case = ("--compromised", "kme-4,kme-6", "--cut", "kme-7:kme-8")
    result = run("plan", "kme-1", "kme-8", *REFERENCE, "--policy", "recursive", *case, "--svg", "plan.svg")
    assert (result.code, result.err) == (0, "")
    root = ET.fromstring((tmp_path / "plan.svg").read_text())
    said = [text for text, *_ in texts(root)]
    assert sorted(text for text in said if "splits" in text) == 2 * ["splits, 2 of 2"] + 2 * ["splits, 2 of 3"]
    assert said.count("compromised") == 2
    assert "cut" in said
    assert said[:3] == [
        "kme-1 to kme-8 in eight-kmes, policy recursive: 17 share messages",
        "withstands 1 compromised KME and 0 failed KMEs, in the worst case",
        "here kme-4 and kme-6 together learn nothing; kme-8 rebuilds the keys with 1 link cut",
    ]


def test_the_keys_that_are_learned_or_lost_are_said_to_be(run, tmp_path):
    case = ("--compromised", "kme-2,kme-3", "--cut", "kme-6:kme-8")
    run("plan", "kme-1", "kme-8", *REFERENCE, "--policy", "recursive", *case, "--svg", "plan.svg")
    assert (
        "here kme-2 and kme-3 together learn the keys; kme-8 cannot rebuild the keys with 1 link cut"
        in (tmp_path / "plan.svg").read_text()
    )


def test_analyse_draws_the_same_and_kmes_that_are_down(run, tmp_path):
    pair = ("kme-1", "kme-8", *REFERENCE, "--policy", "recursive", "--compromised", "kme-4", "--cut", "kme-7:kme-8")
    run("plan", *pair, "--svg", "plan.svg")
    run("analyse", *pair, "--svg", "analyse.svg")
    assert (tmp_path / "plan.svg").read_text() == (tmp_path / "analyse.svg").read_text()
    assert run("analyse", *pair, "--failed", "kme-6,kme-2", "--svg", "down.svg").code == 0
    said = [text for text, *_ in texts(ET.fromstring((tmp_path / "down.svg").read_text()))]
    assert said.count("down") == 2
    assert "here kme-4 learns nothing; kme-8 cannot rebuild the keys with kme-2 and kme-6 down and 1 link cut" in said


def test_a_name_is_no_markup():
    topology = Topology('<b> & "c"', ("a", "b", "c"), (("a", "b"), ("b", "c")))
    picture = draw_plan(topology, plans(topology, "a", "c")[0])
    assert 'a to c in <b> & "c"' in ET.fromstring(picture).find(f"{SVG}title").text


def test_of_a_large_network_only_the_plan_is_drawn():
    kmes = tuple(f"k{i}" for i in range(PLAN_KMES_MAX + 1))
    ring = Topology("ring", kmes, tuple(zip(kmes, (*kmes[1:], kmes[0]), strict=True)))
    chord = Topology("chord", kmes, (*ring.links, ("k0", "k3")))
    [candidate] = plans(chord, "k0", "k4", policy="recursive")
    assert len(boxes(ET.fromstring(draw_plan(chord, candidate)))) == 3


def test_columns_go_from_source_to_target():
    sizes = dict.fromkeys("sabt", (50.0, BOX_HEIGHT))
    edges = dict.fromkeys((("s", "a"), ("s", "b"), ("a", "t"), ("b", "t")), 1)
    layout = layered({"s": 0, "a": 1, "b": 1, "t": 2}, edges, sizes)
    assert layout.boxes["s"][0] < layout.boxes["a"][0] == layout.boxes["b"][0] < layout.boxes["t"][0]
    assert layout.boxes["b"][1] - layout.boxes["a"][1] >= BOX_HEIGHT
    assert layout.boxes["s"][1] == pytest.approx(layout.boxes["t"][1])


def test_lines_are_not_crossed_without_need():
    sizes = dict.fromkeys("abcd", (50.0, BOX_HEIGHT))
    layout = layered({"a": 0, "b": 0, "c": 1, "d": 1}, {("a", "d"): 1, ("b", "c"): 1}, sizes)
    above = layout.boxes["a"][1] < layout.boxes["b"][1]
    assert (layout.boxes["d"][1] < layout.boxes["c"][1]) == above


def test_a_case_without_a_drawing_is_refused(run):
    result = run("plan", "kme-1", "kme-8", *REFERENCE, "--compromised", "kme-2")
    assert (result.code, result.out) == (2, "")
    assert "--svg" in result.err
