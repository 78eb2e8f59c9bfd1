"""Topology files: what may be said of links and KMEs, and how a mistake is told."""

import re
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkdrelay.errors import TopologyError
from qkdrelay.network import toml_file
from qkdrelay.network.devices import url_parts
from qkdrelay.network.topology import NOTHING_NOTED, DeviceNote, LinkNote
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


DEVICES = """\
name = "devices"
kmes = ["kme-1", "kme-2", "kme-3"]
links = [
  ["kme-2", "kme-1", { source = "etsi014", suite = "aes-256-gcm", rate_bps = 4_000, serialise = true, \
keeps_uncollected = false, ahead_bytes = 8192, \
devices = { kme-1 = { url = "https://qkd-a:8443/kme", sae = "Site A/1" }, \
kme-2 = { url = "https://192.0.2.7", sae = "b", server_name = "qkd-b.example" } } }],
  ["kme-2", "kme-3", { source = "simulated", buffer_bytes = 65_536 }],
]
"""
KME_1, KME_2 = 'kme-1 = { url = "https://qkd-a:8443/kme", sae = "Site A/1" }', 'kme-2 = { url = "https://192.0.2.7", '
AT = "devices.toml:4: link 1 (kme-2 to kme-1): "
OF_KME_1 = f"{AT}the device of kme-1"


def test_a_link_may_have_its_key_from_the_devices_at_its_ends():
    network = parse_topology(DEVICES, "devices.toml")
    devices = {
        "kme-1": DeviceNote("https://qkd-a:8443/kme", "Site A/1"),
        "kme-2": DeviceNote("https://192.0.2.7", "b", "qkd-b.example"),
    }
    note = network.note("kme-1", "kme-2")
    assert note == LinkNote("aes-256-gcm", 4_000, None, "etsi014", True, 8_192, devices, False)
    assert network.links_of("etsi014") == (("kme-2", "kme-1"),)
    assert network.links_of("simulated") == (("kme-2", "kme-3"),)
    assert network.note("kme-2", "kme-3") == LinkNote(buffer_bytes=65_536)


def test_each_end_of_a_link_is_told_of_its_own_device_and_the_id_of_the_other_end():
    network = parse_topology(DEVICES, "devices.toml")
    note, both = network.note("kme-1", "kme-2"), {"source": "etsi014", "suite": "aes-256-gcm"}
    both |= {"rate_bps": 4_000, "serialise": True, "keeps_uncollected": False, "ahead_bytes": 8_192}
    assert note.settings("kme-1", "kme-2") == {"url": "https://qkd-a:8443/kme", "peer_sae": "b", **both}
    other = {"url": "https://192.0.2.7", "server_name": "qkd-b.example", "peer_sae": "Site A/1"}
    assert note.settings("kme-2", "kme-1") == {**other, **both}
    for kme, peer in (("kme-2", "kme-3"), ("kme-3", "kme-2")):
        assert network.note(kme, peer).settings(kme, peer) == {"buffer_bytes": 65_536}


@pytest.mark.parametrize(
    ("old", "new", "error", "hint"),
    [
        ('"etsi014"', '"etsi041"', f"{AT}there is no source 'etsi041'", "known: simulated, etsi014"),
        ('"etsi014"', '["etsi014"]', f"{AT}there is no source ['etsi014']", "known: simulated, etsi014"),
        ('source = "etsi014", ', "", f"{AT}'serialise' is for links with source = \"etsi014\"", "leave it out, or say"),
        (
            "serialise = true",
            "buffer_bytes = 1024",
            f"{AT}'buffer_bytes' is for links with source = \"simul",
            "leave it",
        ),
        ("serialise = true", "serialize = true", f"{AT}unknown entry 'serialize'", "did you mean 'serialise'?"),
        ("serialise = true", "verify = false", f"{AT}unknown entry 'verify'", "known: source, suite"),
        ("serialise = true", 'serialise = "yes"', f"{AT}serialise is 'yes'; it must be true or false", None),
        ("uncollected = false", "uncollected = 0", f"{AT}keeps_uncollected is 0; it must be true or false", None),
        ("serialise = true", "serialise = 1", f"{AT}serialise is 1; it must be true or false", None),
        ("8192", "4095", f"{AT}ahead_bytes is 4095; it must be a whole number from 4096 to 4194304", None),
        ("8192", "4194305", f"{AT}ahead_bytes is 4194305; it must be", None),
        ("8192", "8192.0", f"{AT}ahead_bytes is 8192.0; it must be", None),
        ("aes-256-gcm", "aes", f"{AT}there is no suite 'aes'", "known: otp, aes-256-gcm"),
        ("devices = {", "device = {", f"{AT}unknown entry 'device'", "did you mean 'devices'?"),
        ("devices = { kme-1", "devices = 3, x = { kme-1", f"{AT}unknown entry 'x'", "known: source"),
        ("devices = {", "rate_bps = 0, devices = {", "devices.toml: not valid TOML", None),
        (KME_1, "kme-3 = 1", f"{AT}'devices' names 'kme-3', no end of it", "did you mean 'kme-2'?"),
        (KME_1, "paris = 1", f"{AT}'devices' names 'paris', no end of it", "known: kme-2, kme-1"),
        (f"{KME_1}, ", "", f"{AT}'devices' lacks 'kme-1'", "kme-1 = { ... } }"),
        (KME_1, 'kme-1 = "https://qkd-a"', f"{OF_KME_1} must be a table", 'url = "https://HOST", sae = "ID"'),
        ('url = "https://qkd-a:8443/kme", ', "", f"{OF_KME_1} lacks 'url'", "https://HOST[:PORT][/PATH]"),
        (', sae = "Site A/1"', "", f"{OF_KME_1} lacks 'sae'", "1 to 128"),
        (', sae = "Site A/1"', ', id = "1"', f"{OF_KME_1}: unknown entry 'id'", "known: url, sae, server_name"),
        (', sae = "Site A/1"', ', sea = "1"', f"{OF_KME_1}: unknown entry 'sea'", "did you mean 'sae'?"),
        ("Site A/1", "b", f"{AT}both ends have the sae 'b'", "tell the two ends apart"),
        ("Site A/1", "", f"{OF_KME_1}: 'sae' cannot be used", "1 to 128 printable characters"),
        ("Site A/1", " a", f"{OF_KME_1}: 'sae' cannot be used", "no blank first or last"),
        ("Site A/1", "é", f"{OF_KME_1}: 'sae' cannot be used", "of ASCII"),
        ("Site A/1", "a" * 129, f"{OF_KME_1}: 'sae' cannot be used", "1 to 128"),
        ('sae = "Site A/1"', "sae = 1", f"{OF_KME_1}: 'sae' cannot be used", "1 to 128"),
        ("qkd-b.example", "qkd b", f"{AT}the device of kme-2: 'server_name' cannot be used", "name of a host"),
        ("qkd-b.example", "", f"{AT}the device of kme-2: 'server_name' cannot be used", "name of a host"),
        ("qkd-b.example", "*.example", f"{AT}the device of kme-2: 'server_name' cannot be used", "or an address"),
    ],
)
def test_a_mistake_with_devices_is_told_with_line_link_and_entry(old, new, error, hint):
    assert old in DEVICES
    with pytest.raises(TopologyError) as caught:
        parse_topology(DEVICES.replace(old, new), "devices.toml")
    assert str(caught.value).startswith(error)
    assert hint is None or hint in caught.value.hint


def test_a_link_with_devices_names_them():
    for devices in ("", ', devices = "https://qkd-a"'):
        with pytest.raises(TopologyError, match="link 1 \\(a to b\\): 'devices' must be a table") as caught:
            parse_topology(
                f'name = "n"\nkmes = ["a", "b"]\nlinks = [["a", "b", {{ source = "etsi014"{devices} }}]]', "n"
            )
        assert caught.value.hint == 'devices = { a = { url = "https://HOST", sae = "ID" }, b = { ... } }'


@pytest.mark.parametrize(
    "url",
    [
        *("", "qkd-a", "http://qkd-a", "https://", "https:///kme", "https://qkd-a:0", "https://qkd-a:65536"),
        *(
            "https://qkd-a:x",
            "https://qkd a",
            "https://qkd-a/?a=1",
            "https://qkd-a/#a",
            "https://[::1",
            "HTTPS://qkd-a",
        ),
        *("https://me:S3cret@qkd-a", "https://:S3cret@qkd-a", "https://qkd-a/api/v1/keys", "https://qkd-a/\\n"),
        *("https://qkd-a/api/v1/keys/sae-b/enc_keys", "https://qkd-é", "https://qkd-a/" + "x" * 600),
    ],
)
def test_a_url_that_no_device_can_have_is_refused_and_not_repeated(url):
    with pytest.raises(TopologyError) as caught:
        parse_topology(DEVICES.replace("https://qkd-a:8443/kme", url), "devices.toml")
    assert str(caught.value) == f"{OF_KME_1}: 'url' cannot be used"
    assert caught.value.hint == "https://HOST[:PORT][/PATH], without /api/v1/keys"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://qkd-a", ("qkd-a", 443, "")),
        ("https://qkd-a/", ("qkd-a", 443, "")),
        ("https://qkd-a:1/a/b/", ("qkd-a", 1, "/a/b")),
        ("https://[2001:db8::1]:8443/$a", ("2001:db8::1", 8443, "/$a")),
    ],
)
def test_a_url_is_taken_apart(url, parts):
    assert url_parts(url) == parts


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


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_wrong_with_a_file_it_is_told(data):
    text = data.draw(st.sampled_from([NOTED, DEVICES]))
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
