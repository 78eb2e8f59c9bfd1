"""Topology files: what may be said of links and KMEs, and how a mistake is told."""

import re
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdrelay.errors import TopologyError
from qkdrelay.network import toml_file
from qkdrelay.network.topology import NOTHING_NOTED, LinkNote
from qkdrelay.network.topology_file import load_topology, parse_topology, reference_topology

FILES = sorted((Path(__file__).parents[3] / "infra" / "topologies").glob("*.toml"))

NOTED = """\
name = "noted"
kmes = ["kme-1", "kme-2", "kme-3"]
links = [
  ["kme-1", "kme-2"],
  ["kme-2", "kme-3", { rate_bps = 4_000, buffer_bytes = 65_536, suite = "aes-256-gcm" }],  # a long span
]

[trust]
kme-2 = "avoid"
kme-3 = "trusted"

[saes]
sae-1 = "kme-1"
"""


def test_a_link_and_a_kme_may_have_a_note():
    network = parse_topology(NOTED, "noted.toml")
    assert network.links == (("kme-1", "kme-2"), ("kme-2", "kme-3"))
    assert network.note("kme-3", "kme-2") == LinkNote("aes-256-gcm", 4_000, 65_536)
    assert network.note("kme-1", "kme-2") == NOTHING_NOTED
    assert network.trust == {"kme-2": "avoid", "kme-3": "trusted"}
    assert network.noted("trusted") == {"kme-3"}
    assert network.saes == {"sae-1": "kme-1"}


def test_a_file_without_notes_means_what_it_did():
    network = reference_topology()
    assert (network.link_notes, network.trust) == ({}, {})
    assert hash(network) == hash(reference_topology())


@pytest.mark.parametrize(
    ("old", "new", "error", "hint"),
    [
        ("rate_bps", "rate", "noted.toml:5: link 2 (kme-2 to kme-3): unknown entry 'rate'", "rate_bps"),
        ("4_000", "0", "noted.toml:5: link 2 (kme-2 to kme-3): rate_bps is 0", None),
        ("4_000", "true", "rate_bps is True; it must be a whole number", None),
        ("65_536", "1.5", "buffer_bytes is 1.5", None),
        ("aes-256-gcm", "des", "noted.toml:5: link 2 (kme-2 to kme-3): there is no suite 'des'", "otp, aes-256-gcm"),
        ('"trusted"', '"maybe"', "noted.toml:10: the trust note of 'kme-3' is 'maybe'", "never, avoid, trusted"),
        ("kme-3 =", "kme-33 =", "noted.toml:10: 'trust' names 'kme-33', which is not in 'kmes'", "kme-3"),
        ('  ["kme-1", "kme-2"],', '  ["kme-1", "kme-9"],', "noted.toml:4: link 1 ends in 'kme-9'", "did you mean"),
        ('  ["kme-1", "kme-2"],', '  ["kme-3", "kme-2"],', "noted.toml:5: the link between 'kme-2'", None),
        ('  ["kme-1", "kme-2"],', '  ["kme-1"],', "noted.toml:4: link 1 (['kme-1']) is not a pair", "links = [["),
        ('  ["kme-1", "kme-2"],', '  # [ "a", \n 3,', "noted.toml:5: link 1 (3) is not a pair", "links = [["),
        ('  ["kme-1", "kme-2"],', '  ["kme-2", "kme-2"],', "noted.toml:4: link 1 joins 'kme-2' to itself", None),
        ('"kme-2", "kme-3"]\nl', '"kme-2",\n "kme-2"]\nl', "noted.toml:3: KME 'kme-2' is named twice", None),
        ('"kme-2", "kme-3"]\nl', '"kme-2", "KME"]\nl', "noted.toml:2: 'KME' is no KME name", "a-z, 0-9 and '-'"),
        ('"kme-2", "kme-3"]\nl', '"kme-2", "cli"]\nl', "noted.toml:2: 'cli' is reserved", "another name"),
        ('name = "noted"', "name = 3", "noted.toml:1: 'name' must be a text", "my-network"),
        ('kmes = ["kme-1", "kme-2", "kme-3"]', 'kmes = ["a"]', "noted.toml:2: 'kmes' must be a list of 2", "kmes = ["),
        ("kme-3 =", "k.kme-3 =", "noted.toml:10: 'trust' names 'k', which is not in 'kmes'", None),
        ("links = [", 'links = "none"\nx = [', "noted.toml:4: unknown entry 'x'", "known: name"),
        ("sae-1 =", '"sae 1" =', "noted.toml:13: 'sae 1' is no SAE ID", "1 to 64 of"),
        ('sae-1 = "kme-1"', 'sae-1 = "kme-7"', "noted.toml:13: SAE 'sae-1' is at 'kme-7'", "did you mean"),
        ('sae-1 = "kme-1"', "sae-1 = 1", "noted.toml:13: SAE 'sae-1' is at 1", 'sae-1 = "kme-1"'),
        ("[saes]", "[[saes]]", "noted.toml:12: 'saes' must be a table", 'sae-1 = "kme-1"'),
        ("[trust]", "[turst]", "noted.toml:8: unknown entry 'turst'", "did you mean 'trust'?"),
        (
            "[trust]",
            "[trust",
            "noted.toml: not valid TOML: Expected ']' at the end of a table declaration (at line 8",
            None,
        ),
        ('{ rate_bps = 4_000, buffer_bytes = 65_536, suite = "aes-256-gcm" }', "4", "must be a table", "rate_bps ="),
    ],
)
def test_a_mistake_is_told_with_line_and_name(old, new, error, hint):
    assert old in NOTED
    with pytest.raises(TopologyError) as caught:
        parse_topology(NOTED.replace(old, new), "noted.toml")
    assert error in str(caught.value)
    assert hint is None or hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('name = "n"\ntrust = 3\nkmes = ["a", "b"]\nlinks = []\n', "n.toml:2: 'trust' must be a table"),
        ('name = "n"\nkmes = ["a", "b"]\nlinks = "ab"\n', "n.toml:3: 'links' must be a list"),
        ('name = "n"\nkmes = ["a", "b"]\n', "n.toml: 'links' must be a list"),
        ('name = "n" # ["\n"kmes" = [ # "a"\n \'a\', # ] ,\n "x\\"]"\n]\nlinks=[]', "n.toml:4: 'x\"]' is no KME name"),
        ('name = "n"\nkmes = ["""\na""", "b"]\nlinks = [["a", "b"], ["b",\n"a"]]', "n.toml:4: the link between"),
    ],
)
def test_lines_are_counted_in_whatever_way_the_file_is_written(text, error):
    with pytest.raises(TopologyError) as caught:
        parse_topology(text, "n.toml")
    assert str(caught.value).startswith(error)


def test_a_large_file_is_read_quickly_enough_to_be_refused_for_its_last_line(monkeypatch):
    """Lines are counted once for all links, not anew for each."""
    scans = []
    elements = toml_file.TomlFile.elements
    monkeypatch.setattr(toml_file.TomlFile, "elements", lambda *these: scans.append(these) or elements(*these))
    names = [f"k{i}" for i in range(200)]
    links = [[a, b] for a, b in combinations(names, 2)]
    text = f'name = "n"\nkmes = {names}\nlinks = [\n' + "".join(f"{link},\n" for link in [*links, ["k1", "k1"]]) + "]"
    with pytest.raises(TopologyError, match=r"n\.toml:19904: link 19901 joins 'k1' to itself"):
        parse_topology(text, "n.toml")
    assert len(scans) == 2


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_wrong_with_a_file_it_is_told(data):
    text = NOTED
    for _ in range(data.draw(st.integers(1, 4))):
        place, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 6))
        written = data.draw(st.text(st.sampled_from("[]{}\"'#=,. \n\\ak-3é"), max_size=6))
        text = text[:place] + written + text[place + length :]
    told = "noted.toml: "
    try:
        parse_topology(text, "noted.toml")
    except TopologyError as error:
        told = str(error)
    assert re.match(r"noted\.toml(:[0-9]+)?: ", told)


# --- by name ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_bare_name_means_the_topology_that_comes_with_the_package(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_topology(Path(file.stem)) == load_topology(file)


def test_a_file_is_meant_where_no_topology_has_the_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text(NOTED)
    (tmp_path / "nsfnet.toml").write_text(NOTED)
    assert load_topology(Path("mine")).name == load_topology(Path("nsfnet.toml")).name == "noted"


@pytest.mark.parametrize("name", ["nsfnett", "nowhere.toml", "some/where"])
def test_a_name_that_is_not_there_is_refused_with_those_that_are(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TopologyError, match=f"there is no.*{name}|{name}.*there is no") as caught:
        load_topology(Path(name))
    assert all(file.stem in caught.value.hint for file in FILES)
