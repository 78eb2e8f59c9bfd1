"""`coordinator saes` and what `provision` and `certs` say of SAEs."""

from dataclasses import replace

import pytest

from qkdrelay.network.topology_file import format_topology
from support.network import DIAMOND_WITH_SAES
from support.stack import command_here


@pytest.fixture
def saes(root):
    return lambda *arguments: command_here("saes", *arguments, "--out", str(root))


def test_saes_are_listed_with_what_one_needs_to_reach_them(saes):
    listed = saes("list")
    assert listed.code == 0
    assert [line.split()[:3] for line in listed.out.splitlines()] == [
        ["sae", "kme", "url"],
        ["sae-1", "kme-1", "https://127.0.0.1:8443"],
        ["sae-4", "kme-4", "https://127.0.0.1:8446"],
    ]
    first, _ = saes("list", "--json").json()["saes"]
    assert first.pop("certificate_until").startswith("20")
    assert first == {
        "sae": "sae-1",
        "kme": "kme-1",
        "url": "https://127.0.0.1:8443",
        "folder": "deploy/saes/sae-1",
        "pairs": [],
    }


def test_one_is_added_with_settings_for_pairs_renewed_and_struck_off(saes, root):
    added = saes("add", "sae-2", "kme-2", "--pair", "sae-1,sae-4", "--level", "0", "--stock", "7", "--weight", "3")
    assert added.out == "sae-2 is at kme-2: https://127.0.0.1:8444\nits certificate and key are in deploy/saes/sae-2\n"
    rows = [line.split() for line in saes("list").out.splitlines()]
    assert ["master", "slave", "level", "stock", "weight"] in rows
    for pair in (["sae-2", "sae-1"], ["sae-1", "sae-2"], ["sae-2", "sae-4"], ["sae-4", "sae-2"]):
        assert [*pair, "0", "7", "3"] in rows
    renewed = saes("renew", "sae-2")
    assert renewed.out == "sae-2 has a new certificate and key, in deploy/saes/sae-2; those it had are revoked\n"
    assert saes("remove", "sae-2", "--json").json() == {"struck_off": "sae-2", "revoked": True}
    assert "sae-2" not in saes("list").out
    (root / "deploy/sae-authority/ca-key.pem").rename(root / "elsewhere")
    removed = saes("remove", "sae-4")
    assert (removed.code, removed.out) == (0, "sae-4 is struck off\n")
    assert "not revoked yet, for want of the authority's key: sae-4" in removed.err
    assert saes("remove", "sae-1").code == 0
    assert saes("list").err == "no SAEs; `coordinator saes add` adds one\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "sae-4", "kme-1"), "error: there is an SAE 'sae-4' already, at kme-4\nhint: `coordinator saes remove"),
        (
            ("add", "sae-2", "kme-2", "--level", "4", "--pair", "sae-1"),
            "Invalid value for '--level': Input should be less than or equal to 3",
        ),
        (("add", "sae-2", "kme-2", "--weight", "2"), "error: --weight says what pairs are to have\nhint: name the"),
        (("add", "sae-2", "kme-2", "--pair", "sae-1,"), "error: --pair 'sae-1,': an item is empty"),
        (("remove", "sae-5"), "error: there is no SAE 'sae-5'\nhint: did you mean 'sae-"),
        (("renew", "\x1b[31m"), "error: there is no SAE '\\x1b[31m'"),
    ],
)
def test_what_cannot_be_is_one_line_with_a_hint(saes, arguments, said):
    refused = saes(*arguments)
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err


def test_provisioning_says_who_is_struck_off_with_their_kme(root, tmp_path, saes):
    saes("add", "sae-2", "kme-2")
    smaller = replace(
        DIAMOND_WITH_SAES, kmes=("kme-1", "kme-3", "kme-4"), links=(("kme-1", "kme-3"), ("kme-3", "kme-4"))
    )
    file = tmp_path / "smaller.toml"
    file.write_text(format_topology(smaller))
    done = command_here("provision", str(file), "--out", str(root))
    assert done.code == 0
    assert done.err == "struck off, as the topology no longer has them or their KMEs: SAEs sae-2\n"


def test_certs_renews_those_of_saes_that_were_added_too(root, saes, tmp_path):
    saes("add", "sae-2", "kme-2")
    (root / "deploy/saes/sae-2/cert.pem").unlink()
    file = tmp_path / "network.toml"
    file.write_text(format_topology(DIAMOND_WITH_SAES))
    done = command_here("certs", str(file), "--out", str(root))
    assert done.code == 0
    assert str(root / "deploy/saes/sae-2/cert.pem") in done.out.splitlines()
    assert str(root / "deploy/tls/rabbitmq/cert.pem") in done.out.splitlines()
    assert (root / "deploy/saes/sae-2/cert.pem").exists()
