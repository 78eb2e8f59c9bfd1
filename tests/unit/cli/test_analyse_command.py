"""`coordinator analyse`: who could learn the keys, what could block them, and what becomes of a case."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path

import pytest

from qkdrelay.network import probability

TOPOLOGIES = Path(__file__).parents[3] / "infra" / "topologies"
REFERENCE = ("--topology", str(TOPOLOGIES / "eight-kmes.toml"))
RECURSIVE = ("--policy", "recursive")
NSFNET = ("--topology", str(TOPOLOGIES / "nsfnet.toml"))


@pytest.fixture
def analyse(run):
    def analyse(*arguments, policy="recursive"):
        result = run("analyse", "kme-1", "kme-8", *REFERENCE, "--policy", policy, "--json", *arguments)
        assert (result.code, result.err) == (0, "")
        return result.data

    return analyse


def kmes(*sets):
    return [[f"kme-{digit}" for digit in digits] for digits in sets]


def test_json_has_the_reference_values(analyse):
    data = analyse()
    assert (data["source"], data["target"], data["policy"], data["messages"]) == ("kme-1", "kme-8", "recursive", 17)
    assert (data["delivered"], data["learned"]) == (True, False)
    assert data["minimal_learning_coalitions"] == kmes("23", "24", "34", "56", "67", "257", "457")
    assert data["minimal_blocking_kmes"] == kmes("6", "23", "24", "27", "34", "35", "37", "45", "57")
    assert data["minimal_blocking_links"][0] == [["kme-6", "kme-8"]]
    assert data["counts"]["minimal_blocking_links"] == {"1": 1, "2": 28, "3": 18}
    assert len(data["minimal_blocking_links"]) == 47
    assert list(data["smallest"].values()) == [2, 1, 1]
    assert list(data["complete"].values()) == [True, True, True]
    assert (data["leak_probability"], data["loss_probability"]) == (None, None)


def test_a_case_is_decided_and_explained(analyse):
    data = analyse("--compromised", "kme-4,kme-6", "--cut", "kme-8:kme-7")
    assert (data["delivered"], data["learned"]) == (True, False)
    assert data["cut"] == [["kme-7", "kme-8"]]
    assert [h["kme"] for h in data["held"]] == ["kme-4", "kme-6"]
    assert {s["kme"] for s in data["short"]} == {"kme-4", "kme-7"}


def test_the_case_of_the_single_point_of_failure(analyse):
    data = analyse("--failed", "kme-6")
    assert (data["delivered"], data["learned"]) == (False, False)
    assert data["short"][0] == {"kme": "kme-1", "present": ["kme-3"], "missing": ["kme-2", "kme-4"], "needed": 2}


def test_the_best_plan_has_no_single_point_of_failure(analyse):
    data = analyse("--failed", "kme-6", policy="best")
    assert data["delivered"]
    assert min(map(len, data["minimal_blocking_kmes"])) == data["smallest"]["minimal_blocking_kmes"] == 2


def test_what_is_to_be_withstood_changes_the_plan_that_is_analysed(analyse):
    data = analyse("--withstand", "compromised=2", policy="best")
    assert data["smallest"]["minimal_learning_coalitions"] == 3


def test_lists_are_limited_and_say_so(analyse):
    data = analyse("--limit", "3")
    assert [len(chosen) for chosen in data["minimal_blocking_links"]] == [1, 2, 2]
    assert data["complete"]["minimal_blocking_links"] is False
    assert data["counts"]["minimal_blocking_links"] == {"1": 1, "2": 28, "3": 18}


@pytest.mark.parametrize(("layers", "leak"), [(1, 0.0280), (2, 0.0552), (3, 0.0817)])
def test_layers_leak_as_the_formula_says(run, tmp_path, layers, leak):
    rows = [["s"], *([f"m{layer}-{i}" for i in range(3)] for layer in range(layers)), ["t"]]
    links = [list(link) for near, far in pairwise(rows) for link in product(near, far)]
    file = tmp_path / "layers.toml"
    file.write_text(
        f'name = "layers"\nkmes = {json.dumps([kme for row in rows for kme in row])}\nlinks = {json.dumps(links)}\n'
    )
    data = run("analyse", "s", "t", "--topology", str(file), *RECURSIVE, "--kme-leak", "0.1", "--json").data
    assert data["leak_probability"]["exact"] is True
    assert data["leak_probability"]["low"] == pytest.approx(leak, abs=5e-5)
    assert data["loss_probability"] is None


def test_loss_counts_kmes_and_links(analyse):
    kme, link, both = (
        analyse(*chances)["loss_probability"]["low"]
        for chances in (
            ("--kme-loss", "0.1"),
            ("--link-loss", "0.1"),
            ("--kme-loss", "0.1", "--link-loss", "0.1"),
        )
    )
    assert 0.1 < kme < both
    assert 0.1 < link < both < 1


def test_people_are_told_in_80_columns(run):
    result = run("analyse", "kme-1", "kme-8", *REFERENCE, *RECURSIVE, "--failed", "kme-6", "--kme-leak", "0.1")
    assert result.code == 0
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[:5] == [
        "kme-1 to kme-8 in eight-kmes, policy recursive: 17 share messages",
        "case        failed: kme-6",
        "delivered   no",
        "            kme-1: 1 of the 2 it takes arrive; lost: kme-2, kme-4",
        "            kme-4: 1 of the 2 it takes arrive; lost: kme-6",
    ]
    assert "learned     no" in lines
    assert "learn it    at least 2 KMEs needed; minimal sets: 5 of 2 KMEs, 2 of 3 KMEs" in lines
    assert "            ... and 35 more (--limit, --json)" in lines
    assert lines[-1] == "leak        probability 0.04793"


def test_an_interval_is_told_as_one(run, monkeypatch):
    interval = probability.Probability(0.04, 0.05, exact=False, confidence=0.999)
    monkeypatch.setattr(probability, "leak", lambda *_: interval)
    result = run("analyse", "kme-1", "kme-8", *REFERENCE, *RECURSIVE, "--kme-leak", "0.1")
    assert result.out.endswith("leak        probability between 0.04 and 0.05, with confidence 0.999\n")


def test_nobody_is_between_neighbours(run):
    out = run("analyse", "kme-1", "kme-2", *REFERENCE).out
    assert "learn it    no KMEs on the way, even all together, learn the keys" in out
    assert "{kme-1:kme-2}" in out


def test_all_pairs_in_json(run):
    data = run("analyse", "--all-pairs", *REFERENCE, *RECURSIVE, "--json").data
    pairs = {(p["source"], p["target"]): p for p in data["pairs"]}
    assert len(pairs) == 8 * 7
    assert pairs["kme-1", "kme-8"]["withstands"] == {
        "compromised": 1,
        "failed": 0,
        "failed_links": 0,
        "tampering": 0,
    }
    assert pairs["kme-1", "kme-8"]["messages"] == 17


def test_all_pairs_of_nsfnet_on_one_screen(run):
    result = run("analyse", "--all-pairs", *NSFNET, *RECURSIVE)
    lines = result.out.splitlines()
    assert lines[0] == "nsfnet, policy recursive: 140 pairs (source, target) that are not neighbours"
    assert lines[4].split() == ["0", "0", "0", "0", "108", "77", "%", "2", "to", "9"]
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith("pa")] == ["palo-alto"]


def test_all_pairs_of_a_large_network_are_summed_up(run):
    result = run("analyse", "--all-pairs", "--topology", str(TOPOLOGIES / "geant.toml"), "--policy", "best")
    assert result.out.splitlines()[-1] == "--json has each of the 462 pairs"


def test_a_pair_without_a_path_is_no_reason_to_stop(run, tmp_path):
    file = tmp_path / "parted.toml"
    file.write_text('name = "parted"\nkmes = ["a", "b", "c"]\nlinks = [["a", "b"]]\n')
    data = run("analyse", "--all-pairs", "--topology", str(file), "--json").data
    assert [p["error"] for p in data["pairs"] if p["source"] == "a" and p["target"] == "c"] == [
        "there is no path from a to c in network parted"
    ]
    assert "no plan" in run("analyse", "--all-pairs", "--topology", str(file)).out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("kme-1",), "source and target are missing"),
        (("kme-1", "kme-8", "--all-pairs"), "--all-pairs takes no pair and no case"),
        (("--all-pairs", "--link-loss", "0.1"), "--all-pairs takes no pair and no case"),
        (("kme-1", "kme-9"), "there is no KME 'kme-9'"),
        (("kme-1", "kme-8", "--failed", "kme-0"), "there is no KME 'kme-0'"),
        (("kme-1", "kme-8", "--cut", "kme-1"), "'kme-1' is no link"),
        (("kme-1", "kme-8", "--cut", "kme-1:kme-8"), "there is no QKD link between kme-1 and kme-8"),
        (
            ("kme-1", "kme-8", "--policy", "trusted"),
            "there is no trusted plan from kme-1 to kme-8: no KME of eight-kmes is noted as trusted",
        ),
    ],
)
def test_wrong_use(run, arguments, error):
    result = run("analyse", *arguments, *REFERENCE)
    assert (result.code, result.out) == (2, "")
    said, hint = result.err.splitlines()
    assert said.startswith(f"error: {error}")
    assert hint.startswith("hint: ")


def test_a_probability_beyond_1_is_wrong_use(run):
    result = run("analyse", "kme-1", "kme-8", *REFERENCE, "--kme-leak", "1.5")
    assert (result.code, result.out) == (2, "")


def test_what_is_analysed_by_default_is_what_a_relay_takes(run):
    data = run("analyse", "kme-1", "kme-8", *REFERENCE, "--json").data
    assert (data["policy"], data["messages"]) == ("best", 9)
    assert data["smallest"]["minimal_learning_coalitions"] == data["smallest"]["minimal_blocking_kmes"] == 2
    data = run("analyse", "kme-1", "kme-8", *REFERENCE, "--withstand", "compromised=2", "--json").data
    assert data["smallest"]["minimal_learning_coalitions"] == 3


def test_what_nothing_withstands_is_analysed_all_the_same(run):
    data = run("analyse", "kme-1", "kme-8", *REFERENCE, "--withstand", "compromised=5", "--json").data
    assert data["smallest"]["minimal_learning_coalitions"] == 3
