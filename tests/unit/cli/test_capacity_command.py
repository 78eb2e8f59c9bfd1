"""`coordinator capacity`: what a network can give, in words and as data; and what is refused, in one line."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from qkdrelay.network import capacity
from support.plans import TOPOLOGIES

SVG = "{http://www.w3.org/2000/svg}"
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
    assert there["rate_bps"] >= 300_000 * data["share"] * (1 - 1e-6)
    assert back["rate_bps"] >= 100_000 * data["share"] * (1 - 1e-6)
    assert (there["demand_bps"], back["demand_bps"]) == (300_000, 100_000)
    assert not [name for name in data if name.endswith("_bps")]
    said = run("capacity", *REFERENCE, "--demand", str(file)).out
    assert "share of the demand of each of 2 pairs at once" in said
    assert "666.7 %" in said
    svg = tmp_path / "rates.svg"
    said = run("capacity", *REFERENCE, "--demand", str(file), "--next-link", "--svg", str(svg)).out
    assert ["kme-1", "-", "kme-8", "1000", "%", "+50.0", "%"] in [line.split() for line in said.splitlines()]
    assert "a kbit/s more there would add to the share" in said
    picture = svg.read_text()
    assert "2 pairs at once, each 666.7 % of the demand" in picture
    assert "a kbit/s more would add" in picture


def test_one_pair_s_demand_is_told_by_the_pair(run, tmp_path):
    file = tmp_path / "demand.toml"
    file.write_text('[demand]\n"kme-1 kme-8" = 8_000_000\n', encoding="utf-8")
    said = run("capacity", *REFERENCE, "--demand", str(file)).out
    assert "share of the demand of kme-1 to kme-8" in said
    assert "25 %" in said


@pytest.mark.parametrize("compromised", [1, 3])
def test_the_link_of_two_neighbours_withstands_whatever_is_compromised(run, compromised):
    """No KME is on it; over the others' paths comes what there is besides."""
    data = run("capacity", "kme-1", "kme-2", *REFERENCE, "--compromised", str(compromised), "--json").data
    both = 2e6 if compromised == 1 else 1e6
    assert data["rate_bps"] == pytest.approx(both)
    assert data["certificate_bps"] == pytest.approx(both)
    assert data["pairs"][0]["any_protocol_bps"] == pytest.approx(both)
    direct = [bundle for bundle in data["pairs"][0]["bundles"] if bundle["paths"] == [["kme-1", "kme-2"]]]
    assert len(direct) == 1


def test_nothing_is_relayed_through_kmes_that_are_noted_never(run, tmp_path):
    file = tmp_path / "square.toml"
    square = TREE.replace('["c", "e"]', '["c", "e"], ["a", "e"]')
    file.write_text(f'{square}[trust]\nd = "never"\n', encoding="utf-8")
    data = run("capacity", "--topology", str(file), "--json").data
    for pair in data["pairs"]:
        for bundle in pair["bundles"]:
            assert not [path for path in bundle["paths"] if "d" in path[1:-1]]
    rates = {(pair["source"], pair["target"]): pair["rate_bps"] for pair in data["pairs"]}
    assert rates["a", "c"] > 0
    assert data["plans_bps"] > 0


def test_a_network_without_links_is_answered(run, tmp_path):
    file = tmp_path / "none.toml"
    file.write_text('name = "none"\nkmes = ["a", "b", "c"]\nlinks = []\n', encoding="utf-8")
    result = run("capacity", "--topology", str(file), "--next-link")
    assert result.code == 0
    assert "a to b gets nothing" in result.out


def test_pairs_that_nothing_protects_are_named_and_left_out(run, tree):
    data = run("capacity", *tree, "--json").data
    rates = {(pair["source"], pair["target"]): pair["rate_bps"] for pair in data["pairs"]}
    assert rates["a", "c"] > 0
    assert rates["a", "e"] == rates["e", "b"] == 0
    why = {(pair["source"], pair["target"]): pair for pair in data["pairs"] if pair["rate_bps"] == 0}
    assert why["a", "e"]["why"] == "1 disjoint path joins the two, and that takes 2"
    assert why["a", "e"]["mended_by"] == [["a", "e"], ["b", "e"], ["d", "e"]]
    said = run("capacity", *tree).out
    assert (
        "a to e gets nothing: 1 disjoint path joins the two, and that takes 2; a link a - e or b - e or d - e" in said
    )


def test_a_pair_that_gets_nothing_is_answered_with_why_and_what_would_change_it(run, tree):
    result = run("capacity", "a", "e", *tree, "--next-link")
    assert result.code == 0
    assert "possible         0 bit/s" in result.out
    assert "a to e gets nothing" in result.out
    data = run("capacity", "a", "e", *tree, "--json").data
    assert (data["rate_bps"], data["certificate_bps"], data["threshold_bps"], data["plans_bps"]) == (0, 0, 0, 0)
    too_many = run("capacity", "kme-1", "kme-8", "--compromised", "3", *REFERENCE)
    assert too_many.code == 0
    assert "3 disjoint paths join the two, and that takes 4; a link kme-1 - kme-8 would do" in too_many.out


def test_links_that_mend_do_and_the_others_do_not(run, tree, tmp_path):
    """Tried by hand, each absent link in a file of its own."""
    data = run("capacity", "a", "e", *tree, "--json").data
    mended = {tuple(link) for link in data["pairs"][0]["mended_by"]}
    for link in (("a", "c"), ("a", "e"), ("b", "d"), ("b", "e"), ("d", "e")):
        file = tmp_path / "more.toml"
        file.write_text(TREE.replace('["c", "e"]', f'["c", "e"], ["{link[0]}", "{link[1]}"]'), encoding="utf-8")
        more = run("capacity", "a", "e", "--topology", str(file), "--json").data
        assert (more["rate_bps"] > 0) == (link in mended), link


def test_what_an_absent_link_would_add_is_what_it_adds(run, tmp_path):
    text = (TOPOLOGIES / "eight-kmes.toml").read_text(encoding="utf-8")
    data = run("capacity", *REFERENCE, "--next-link", "--json").data
    shares = [each["rate_bps"] for each in data["next_links"]]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 8 * 7 // 2 - 13
    assert min(shares) >= data["rate_bps"] * (1 - 1e-6)
    for each in (data["next_links"][0], data["next_links"][-1]):
        file = tmp_path / "more.toml"
        file.write_text(text.replace("links = [", f"links = [{each['link']},".replace("'", '"')), encoding="utf-8")
        demand = tmp_path / "demand.toml"
        pairs = "\n".join(f'"{pair["source"]} {pair["target"]}" = 1' for pair in data["pairs"])
        demand.write_text(f"[demand]\n{pairs}\n", encoding="utf-8")
        more = run("capacity", "--topology", str(file), "--demand", str(demand), "--json").data
        assert more["share"] == pytest.approx(each["rate_bps"])
        assert each["gain"] == pytest.approx(each["rate_bps"] / data["rate_bps"] - 1)


def test_what_would_take_too_long_is_refused(run):
    result = run("capacity", "--topology", "germany50", "--next-link")
    assert (result.code, result.out) == (2, "")
    assert "would take too long" in result.err
    assert "name a pair" in result.err


def test_what_takes_too_long_after_all_is_given_up_in_one_line(run, monkeypatch):
    monkeypatch.setattr(capacity, "SECONDS_MAX", -1.0)
    result = run("capacity", "--topology", "nsfnet")
    assert (result.code, result.out) == (2, "")
    assert "the key rate of 140 pairs at once was not found" in result.err
    assert "fewer pairs" in result.err


def test_the_picture_has_each_direction_as_wide_as_it_is_used_and_what_is_narrow_with_its_price(run, tmp_path):
    svg, png = tmp_path / "rates.svg", tmp_path / "rates.png"
    data = run("capacity", "kme-1", "kme-8", *REFERENCE, "--svg", str(svg), "--png", str(png), "--json").data
    picture = ET.parse(svg).getroot()
    lines = [line for line in picture.iter(f"{SVG}path") if line.get("d").startswith("M") and "L" in line.get("d")]
    assert len(lines) == len(data["links"]) == 26
    widths = sorted(float(line.get("stroke-width")) for line in lines)
    assert widths[0] == 1.2
    assert widths[-1] == 7.0
    assert sum(width == 7.0 for width in widths) == sum(link["utilisation"] > 0.99 for link in data["links"])
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert texts.count("1") == sum(link["price"] > 0.5 for link in data["links"])
    assert {f"kme-{number}" for number in range(1, 9)} <= set(texts)
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("kme-1",), "name two KMEs, or a file of demands"),
        (("kme-1", "kme-1"), "source and target are both kme-1"),
        (("kme-1", "kme-9"), "there is no KME 'kme-9' in network eight-kmes"),
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
        ("demand = 3", ":1: there is no demand"),
        ("[demand]\n", ":1: there is no demand"),
        ("[[demand]]\n", ":1: there is no demand"),
        (f"[demand]\n'kme-1 kme-8' = {'9' * 4_000}\n", ":2: the demand is a number of very many digits"),
        (f"[demand]\n'kme-1 kme-8' = 0x{'f' * 100_000}\n", ":2: the demand is a number of very many digits"),
        (f"[demand]\n'kme-1 kme-8' = {'9' * 5_000}\n", ": not valid TOML: a number has too many digits"),
        (f"[demand]\n{'a.' * 100_000}a = 1\n", ":2: a key of more than 32 parts"),
        ("[demand]\n" + '"a" . ' * 1_000 + "a = 1\n", ":2: a key of more than 32 parts"),
        (f"[{'a.' * 1_000}a]\n", ":1: a key of more than 32 parts"),
        (f"[demand]\n'{'k' * 10_000}' = 1\n", ":2: 'kkk"),
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
    assert len(result.err) < 600


def test_a_byte_order_mark_is_no_mistake(run, tmp_path):
    file = tmp_path / "demand.toml"
    file.write_bytes(b'\xef\xbb\xbf[demand]\r\n"kme-1 kme-8" = 3\r\n')
    assert run("capacity", *REFERENCE, "--demand", str(file)).code == 0


@pytest.mark.parametrize("option", ["--demand", "--topology"])
def test_what_is_no_file_is_not_waited_for(run, tmp_path, option):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, said in ((pipe, "it is no file"), (Path("/dev/zero"), "it is no file"), (tmp_path, "it is a directory")):
        result = run("capacity", option, str(path), *(REFERENCE if option == "--demand" else ()))
        assert (result.code, result.out) == (2, "")
        assert said in result.err
