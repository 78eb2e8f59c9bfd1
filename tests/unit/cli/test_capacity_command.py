"""`coordinator capacity`: what a network can give, in words and as data; and what is refused, in one line."""

from __future__ import annotations

import pytest

REFERENCE = ("--topology", "eight-kmes")
TREE = """\
name = "tree"
kmes = ["a", "b", "c", "d", "e"]
links = [["a", "b"], ["b", "c"], ["a", "d"], ["d", "c"], ["c", "e"]]
"""


@pytest.fixture
def tree(tmp_path):
    file = tmp_path / "tree.toml"
    file.write_text(TREE, encoding="utf-8")
    return ("--topology", str(file))


def test_one_pair_as_data(run):
    data = run("capacity", "kme-1", "kme-8", *REFERENCE, "--json").data
    assert (data["network"], data["compromised"]) == ("eight-kmes", 1)
    assert data["rate_bps"] == pytest.approx(2e6)
    assert data["certificate_bps"] == pytest.approx(2e6)
    assert (data["threshold_bps"], data["plans_bps"]) == (pytest.approx(1.5e6), pytest.approx(1e6))
    (pair,) = data["pairs"]
    assert (pair["source"], pair["target"]) == ("kme-1", "kme-8")
    assert pair["rate_bps"] == pytest.approx(pair["any_protocol_bps"]) == pytest.approx(2e6)
    assert sum(bundle["share"] for bundle in pair["bundles"]) == pytest.approx(1)
    for bundle in pair["bundles"]:
        assert bundle["worth"] == len(bundle["paths"]) - 1
        assert {(path[0], path[-1]) for path in bundle["paths"]} == {("kme-1", "kme-8")}
    assert len(data["links"]) == 26
    used = {tuple(link["link"]): link["utilisation"] for link in data["links"]}
    assert used["kme-1", "kme-2"] == pytest.approx(1)
    assert used["kme-8", "kme-7"] == 0


def test_all_pairs_as_people_see_them(run):
    result = run("capacity", *REFERENCE)
    assert result.code == 0
    lines = [line.rstrip() for line in result.out.splitlines()]
    assert lines[0] == "eight-kmes: key for each of 30 pairs at once, with 1 compromised KME between"
    words = {line.split("  ")[0]: line.split() for line in lines[2:6]}
    assert words["possible"][1:3] == ["230.8", "kbit/s"]
    assert words["certificate"][1:3] == ["230.8", "kbit/s"]
    assert words["threshold plans"][2:5] == ["197", "kbit/s", "85"]
    assert words["plans today"][2:5] == ["90.91", "kbit/s", "39"]
    assert max(map(len, lines)) <= 100


def test_what_is_demanded_is_given_in_proportion(run, tmp_path):
    file = tmp_path / "demand.toml"
    file.write_text('[demand]\n"kme-1 kme-8" = 300_000\n"kme-8 kme-1" = 100_000\n', encoding="utf-8")
    data = run("capacity", *REFERENCE, "--demand", str(file), "--json").data
    there, back = data["pairs"]
    assert there["rate_bps"] >= 300_000 * data["rate_bps"] * (1 - 1e-6)
    assert back["rate_bps"] >= 100_000 * data["rate_bps"] * (1 - 1e-6)
    said = run("capacity", *REFERENCE, "--demand", str(file)).out
    assert "share of the demand of each of 2 pairs at once" in said
    assert "666.7 %" in said


def test_pairs_that_nothing_protects_are_named_and_left_out(run, tree):
    data = run("capacity", *tree, "--json").data
    rates = {(pair["source"], pair["target"]): pair["rate_bps"] for pair in data["pairs"]}
    assert rates["a", "c"] > 0
    assert rates["a", "e"] == rates["e", "b"] == 0
    said = run("capacity", *tree).out
    assert "not protected, and left out (2 disjoint paths are needed): a to e, b to e," in said


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("kme-1",), "name two KMEs, or a file of demands"),
        (("kme-1", "kme-1"), "source and target are both kme-1"),
        (("kme-1", "kme-9"), "there is no KME 'kme-9' in network eight-kmes"),
        (("kme-1", "kme-8", "--compromised", "3"), "kme-1 to kme-8 has not the 4 disjoint paths in eight-kmes"),
        (("kme-1", "kme-8", "--demand", "x"), "name two KMEs, or a file of demands"),
        (("--demand", "nowhere.toml"), "nowhere.toml: there is no such file"),
    ],
)
def test_what_cannot_be_asked_is_one_line(run, arguments, error):
    result = run("capacity", *arguments, *REFERENCE)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {error}")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", ": there is no demand"),
        ("demand = 3", ": there is no demand"),
        ("[demand]\n", ": there is no demand"),
        ("[demands]\n", ":1: unknown entry 'demands'"),
        ("[demand]\n'kme-1' = 3\n", ":2: 'kme-1' is no pair"),
        ("[demand]\n'kme-1 kme-1' = 3\n", ":2: 'kme-1 kme-1' is no pair"),
        ("[demand]\n'kme-1 kme-9' = 3\n", ":2: there is no KME 'kme-9' in network eight-kmes"),
        ("[demand]\n'kme-1 kme-8' = 0\n", ":2: the demand is 0"),
        ("[demand]\n'kme-1 kme-8' = -1\n", ":2: the demand is -1"),
        ("[demand]\n'kme-1 kme-8' = 1e13\n", ":2: the demand is 10000000000000.0"),
        ("[demand]\n'kme-1 kme-8' = nan\n", ":2: the demand is nan"),
        ("[demand]\n'kme-1 kme-8' = true\n", ":2: the demand is True"),
        ("[demand]\n'kme-1 kme-8' = '3'\n", ":2: the demand is '3'"),
        ("[demand]\n'kme-1 kme-8' = 3\n'kme-1  kme-8' = 3\n", ":3: the pair 'kme-1  kme-8' is named twice"),
        ("[demand", ": not valid TOML"),
    ],
)
def test_a_mistake_in_a_file_of_demands_is_told_with_its_line(run, tmp_path, text, error):
    file = tmp_path / "demand.toml"
    file.write_text(text, encoding="utf-8")
    result = run("capacity", *REFERENCE, "--demand", str(file))
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {file}{error}")
