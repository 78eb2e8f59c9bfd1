"""Topology files: what may be said of links and KMEs, and how a mistake is told."""

import pytest

from qkdrelay.errors import TopologyError
from qkdrelay.network.topology import NOTHING_NOTED, LinkNote, parse_topology, reference_topology

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
"""


def test_a_link_and_a_kme_may_have_a_note():
    topology = parse_topology(NOTED, "noted.toml")
    assert topology.links == (("kme-1", "kme-2"), ("kme-2", "kme-3"))
    assert topology.note("kme-3", "kme-2") == LinkNote("aes-256-gcm", 4_000, 65_536)
    assert topology.note("kme-1", "kme-2") == NOTHING_NOTED
    assert topology.trust == {"kme-2": "avoid", "kme-3": "trusted"}
    assert topology.noted("trusted") == {"kme-3"}


def test_a_file_without_notes_means_what_it_did():
    topology = reference_topology()
    assert (topology.link_notes, topology.trust) == ({}, {})
    assert hash(topology) == hash(reference_topology())


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
        ("[trust]", "[turst]", "noted.toml:8: unknown entry 'turst'", "did you mean 'trust'?"),
        ("[trust]", "[trust", "noted.toml: not valid TOML", None),
        ('{ rate_bps = 4_000, buffer_bytes = 65_536, suite = "aes-256-gcm" }', "4", "must be a table", "rate_bps ="),
    ],
)
def test_a_mistake_is_told_with_line_and_name(old, new, error, hint):
    assert old in NOTED
    with pytest.raises(TopologyError) as caught:
        parse_topology(NOTED.replace(old, new), "noted.toml")
    assert error in str(caught.value)
    assert hint is None or hint in caught.value.hint


def test_trust_must_be_a_table():
    with pytest.raises(TopologyError, match="'trust' must be a table"):
        parse_topology('name = "n"\ntrust = 3\nkmes = ["a", "b"]\nlinks = []\n', "n.toml")
