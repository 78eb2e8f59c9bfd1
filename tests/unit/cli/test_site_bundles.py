"""Bundles: each has its site's own, of others what two share, and nothing more; doing it again keeps what is good."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from kme.settings import KmeSettings
from qkdrelay.broker.names import control_queue, link_queue
from qkdrelay.broker.rabbitmq.tls import client_context
from qkdrelay.errors import RequestRefusedError, SettingsError, TopologyError
from qkdrelay.network.sites import Site
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import parse_topology
from qkdrelay.service.dotenv_file import read
from qkdrelay.service.settings import load
from qkdrelay_deployment.certificates import Authority, stored_authority
from qkdrelay_deployment.provision import write_deployment
from qkdrelay_deployment.sae_changes import add_sae
from qkdrelay_deployment.site_certificates import common_name
from qkdrelay_deployment.sites import write_sites
from support.fuzzing import fuzzed
from support.network import REFERENCE

_DEVICES = (
    '{ kme-2 = { url = "https://device-of-bonn", sae = "b" }, kme-3 = { url = "https://device-of-ulm", sae = "u" } }'
)
NETWORK = parse_topology(
    f"""
name = "four"
kmes = ["kme-1", "kme-10", "kme-2", "kme-3"]
coordinator = "berlin"
links = [
  ["kme-1", "kme-10"], ["kme-1", "kme-2"], ["kme-10", "kme-3"],
  ["kme-2", "kme-3", {{ source = "etsi014", devices = {_DEVICES} }}],
]
[saes]
sae-1 = "kme-1"
sae-3 = "kme-3"
[sites]
berlin = {{ kmes = ["kme-1", "kme-10"], broker = "berlin.example" }}
bonn = {{ kmes = ["kme-2"], broker = "192.0.2.7:7000" }}
ulm = {{ kmes = ["kme-3"], broker = "ulm.example:5671" }}
""",
    "four",
)
SECRET = re.compile(r"[0-9a-f]{64}")


def written(folder: Path, topology: Topology = NETWORK, **options: bool) -> Path:
    write_sites(topology, folder, environment={}, **options)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path)


def secrets_of(folder: Path, site: str) -> dict[str, str]:
    return {name: value for name, value in read(folder / site / ".env").items() if SECRET.fullmatch(value)}


def text_of(bundle: Path) -> str:
    return "".join(path.read_text() for path in bundle.rglob("*") if path.is_file())


def without_salts(bundle: Path) -> dict[Path, str]:
    return {
        path: re.sub(r'"password_hash": "[^"]+"', "", path.read_text()) for path in bundle.rglob("*") if path.is_file()
    }


def test_a_bundle_has_of_others_what_two_share_and_nothing_more(folder: Path) -> None:
    held = {site: secrets_of(folder, site) for site in NETWORK.sites}
    shared = {
        frozenset(("berlin", "bonn")): {"LINK_SECRET_KME_1__KME_2", "CONTROL_KEY_KME_2", "SITE_KEY_BONN"},
        frozenset(("berlin", "ulm")): {"LINK_SECRET_KME_10__KME_3", "CONTROL_KEY_KME_3", "SITE_KEY_ULM"},
        frozenset(("bonn", "ulm")): set(),
    }
    for site in NETWORK.sites:
        text = text_of(folder / site)
        for other in set(NETWORK.sites) - {site}:
            common = {name for name, value in held[other].items() if value in text}
            assert common == shared[frozenset((site, other))]
            assert all(held[site][name] == held[other][name] for name in common)
            for key in (folder / other).rglob("*key.pem"):
                assert key.read_text() not in text
        assert (folder / "authority" / "ca-key.pem").read_text() not in text


def test_what_is_about_anothers_devices_is_in_no_bundle(folder: Path) -> None:
    assert {site: "device-of-bonn" in text_of(folder / site) for site in NETWORK.sites} == {
        "berlin": False,
        "bonn": True,
        "ulm": False,
    }
    assert (folder / "bonn" / "deploy" / "devices" / "kme-2" / "kme-3").is_dir()
    assert not (folder / "bonn" / "deploy" / "devices" / "kme-3").exists()


def test_doing_it_twice_changes_nothing_but_salts(folder: Path) -> None:
    before = without_salts(folder)
    written(folder)
    assert without_salts(folder) == before


def test_a_bundle_that_was_lost_gets_what_it_shares_from_the_others(folder: Path) -> None:
    before = secrets_of(folder, "ulm")
    (folder / "ulm" / ".env").unlink()
    written(folder)
    after = secrets_of(folder, "ulm")
    assert {name for name in after if after[name] == before[name]} == {
        "LINK_SECRET_KME_10__KME_3",
        "CONTROL_KEY_KME_3",
        "SITE_KEY_ULM",
    }


def test_two_sites_that_have_another_secret_each_are_told_which(folder: Path) -> None:
    dotenv = folder / "ulm" / ".env"
    dotenv.write_text(re.sub("(CONTROL_KEY_KME_3=).*", rf"\g<1>{'ab' * 32}", dotenv.read_text()))
    with pytest.raises(SettingsError) as told:
        written(folder)
    assert str(told.value) == "CONTROL_KEY_KME_3 is not the same in berlin/.env and ulm/.env"
    assert "abab" not in str(told.value) + str(told.value.hint)


def test_a_kme_that_moves_takes_along_what_it_shares_and_leaves_nothing(folder: Path) -> None:
    before = secrets_of(folder, "berlin")
    sites = {
        "berlin": Site(("kme-1",), "berlin.example"),
        "bonn": Site(("kme-2", "kme-10"), "192.0.2.7", 7000),
        "ulm": NETWORK.sites["ulm"],
    }
    written(folder, replace(NETWORK, sites=sites))
    there, here = secrets_of(folder, "bonn"), secrets_of(folder, "berlin")
    assert there["CONTROL_KEY_KME_10"] == here["CONTROL_KEY_KME_10"] == before["CONTROL_KEY_KME_10"]
    assert there["LINK_SECRET_KME_10__KME_3"] == before["LINK_SECRET_KME_10__KME_3"]
    assert not {"PASSWORD_KME_10", "LINK_SECRET_KME_10__KME_3"} & read(folder / "berlin" / ".env").keys()
    assert "KME_10" not in "".join(
        name for name in read(folder / "berlin" / ".env") if "CONTROL" not in name and "LINK" not in name
    )
    assert not (folder / "berlin" / "deploy" / "kmes" / "kme-10").exists()


def test_a_coordinator_that_moves_leaves_no_key_of_others(folder: Path) -> None:
    written(folder, replace(NETWORK, coordinator="ulm"))
    left = secrets_of(folder, "berlin")
    assert (
        not {"QKDRELAY_CLI_KEY", "QKDRELAY_COORDINATOR_PASSWORD", "CONTROL_KEY_KME_2", "CONTROL_KEY_KME_3"}
        & left.keys()
    )
    assert {"QKDRELAY_CLI_KEY", "CONTROL_KEY_KME_1"} <= secrets_of(folder, "ulm").keys()


def test_secrets_are_their_owners_and_what_containers_mount_is_for_them_to_read(folder: Path) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert (mode(folder / "authority"), mode(folder / "authority" / "ca-key.pem")) == (0o700, 0o600)
    for site in NETWORK.sites:
        bundle = folder / site
        assert mode(bundle / ".env") == 0o600
        assert mode(bundle / "deploy" / "tls") == 0o700
        for name in (
            "rabbitmq.conf",
            "definitions.json",
            "enabled_plugins",
            "tls/site/key.pem",
            "tls/rabbitmq/key.pem",
        ):
            assert mode(bundle / "deploy" / name) == 0o644


def services(folder: Path, site: str) -> dict[str, str]:
    text = (folder / site / "docker-compose.yml").read_text()
    parts = re.split(r"(?m)^  ([a-z0-9-]+):\n", text.partition("\nservices:\n")[2].partition("\nvolumes:\n")[0])
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_site_has_its_own_services_and_the_coordinators_site_that(folder: Path) -> None:
    assert {site: set(services(folder, site)) for site in NETWORK.sites} == {
        "berlin": {"rabbitmq", "coordinator", "page", "kme-1", "kme-10", "cli"},
        "bonn": {"rabbitmq", "kme-2", "cli"},
        "ulm": {"rabbitmq", "kme-3", "cli"},
    }


def test_for_other_machines_there_is_the_port_for_sites_alone(folder: Path) -> None:
    for site, at in NETWORK.sites.items():
        published = re.findall(r'- "([^"]+:\d+)"', "".join(services(folder, site).values()))
        beyond = [
            port for port in published if not port.startswith(("127.0.0.1:", "${QKDRELAY_ETSI014_ADDRESS:-127.0.0.1}:"))
        ]
        assert beyond == [f"${{QKDRELAY_AMQPS_PORT:-{at.port}}}:5671"]


def test_a_bundle_needs_no_source_tree_and_says_what_to_do_there(folder: Path) -> None:
    text = (folder / "bonn" / "docker-compose.yml").read_text()
    assert "build:" not in text
    assert "make up" not in text
    assert "CLUSTER_COOKIE" not in (folder / "bonn" / ".env").read_text()
    readme = (folder / "bonn" / "README.md").read_text()
    assert "TCP port 7000 of 192.0.2.7" in readme
    assert "berlin.example:5671, ulm.example:5671" in readme


def test_kmes_are_told_where_they_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}
    for site, at in NETWORK.sites.items():
        values = read(folder / site / ".env")
        for kme in at.kmes:
            text = services(folder, site)[kme]
            folded = {
                name: "".join(re.search(rf"(?s){name}: >-\n(.*?)\n(?:    v|      Q)", text)[1].split())
                for name in ("QKDRELAY_SITES", "QKDRELAY_LINKS")
            }
            own = {
                name: re.sub(r"\$\{(\w+):[^}]*\}", lambda found, values=values: values[found[1]], value)
                for name, value in folded.items()
            }
            own |= {
                "QKDRELAY_KME": kme,
                "QKDRELAY_SITE": site,
                "QKDRELAY_SITE_TLS": str(folder / site / "deploy" / "tls" / "site"),
                "QKDRELAY_BROKER": "rabbitmq:5672",
                "QKDRELAY_BROKER_PASSWORD": "x",
                "QKDRELAY_STORE": "/x",
                "QKDRELAY_CONTROL_KEY": values[f"CONTROL_KEY_{kme.upper().replace('-', '_')}"],
            }
            with monkeypatch.context() as variables:
                for name, value in own.items():
                    variables.setenv(name, value)
                told[kme] = load(KmeSettings).reads()
    assert told["kme-1"] == {
        "": (control_queue("kme-1"), link_queue("kme-10", "kme-1")),
        "bonn": (link_queue("kme-2", "kme-1"),),
    }
    assert told["kme-3"] == {
        "": (),
        "berlin": (control_queue("kme-3"), link_queue("kme-10", "kme-3")),
        "bonn": (link_queue("kme-2", "kme-3"),),
    }


def test_saes_have_certificates_at_their_own_site_and_are_known_at_all(folder: Path) -> None:
    assert set(json.loads((folder / "berlin" / "deploy" / "saes.json").read_text())) == {"sae-1"}
    assert [path.name for path in (folder / "ulm" / "deploy" / "saes").glob("*")] == ["sae-3"]
    known = {
        (folder / site / "deploy" / "kmes" / kme / "saes" / "saes.toml").read_text()
        for kme, site in NETWORK.site_of.items()
    }
    assert len(known) == 1
    assert add_sae(folder / "berlin", "sae-7", "kme-10").kme == "kme-10"
    with pytest.raises(RequestRefusedError, match="kme-2 is at site bonn"):
        add_sae(folder / "berlin", "sae-8", "kme-2")


def test_without_sites_each_kme_is_one(tmp_path: Path) -> None:
    written(tmp_path, REFERENCE)
    assert {path.name for path in tmp_path.iterdir()} == {*REFERENCE.kmes, "authority"}
    assert "coordinator" in services(tmp_path, "kme-1")


def test_what_does_not_go_with_sites_is_refused(tmp_path: Path, run) -> None:
    for switch in ("--tls", "--cluster"):
        refused = run("provision", "diamond", "--sites", switch, "--out", str(tmp_path))
        assert (refused.code, list(tmp_path.iterdir())) == (2, [])
        assert f"{switch} does not go with --sites" in refused.err
    with pytest.raises(SettingsError, match="'authority' is the authority's folder"):
        written(tmp_path, replace(NETWORK, sites={"authority": Site(NETWORK.kmes, "a")}, coordinator="authority"))


def test_on_one_host_sites_make_no_difference(tmp_path: Path) -> None:
    for name, topology in (("with", NETWORK), ("without", replace(NETWORK, sites={}, coordinator=""))):
        (tmp_path / name).mkdir()
        write_deployment(topology, tmp_path / name, environment={})
    for file in ("docker-compose.yml", "deploy/topology.toml", "deploy/rabbitmq.conf"):
        assert (tmp_path / "with" / file).read_text() == (tmp_path / "without" / file).read_text()


def test_a_port_is_the_topologys_until_the_operator_says_another(folder: Path) -> None:
    moved = {**NETWORK.sites, "ulm": Site(("kme-3",), "ulm.example", 7001)}
    with (folder / "bonn" / ".env").open("a") as dotenv:
        dotenv.write("QKDRELAY_AMQPS_PORT=7777\n")
    written(folder, replace(NETWORK, sites=moved))
    assert "${QKDRELAY_AMQPS_PORT:-7001}:5671" in services(folder, "ulm")["rabbitmq"]
    assert "ulm.example:7001" in services(folder, "berlin")["kme-10"]
    said = {site: read(folder / site / ".env").get("QKDRELAY_AMQPS_PORT") for site in NETWORK.sites}
    assert said == {"berlin": None, "bonn": "7777", "ulm": None}


# --- certificates ----------------------------------------------------------------------------------


def certificate(folder: Path, site: str, what: str) -> str:
    return (folder / site / "deploy" / "tls" / what / "cert.pem").read_text()


def test_the_authority_names_sites_and_brokers_and_nobody_else(folder: Path) -> None:
    named = {common_name(path.read_text()) for path in folder.glob("*/deploy/tls/*/cert.pem")}
    assert named == {f"{kind}.{site}" for site in NETWORK.sites for kind in ("site", "broker")}
    hosts = x509.load_pem_x509_certificate(certificate(folder, "bonn", "rabbitmq").encode()).extensions
    names = hosts.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.0.2.7" in {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    client_context(folder / "bonn" / "deploy" / "tls" / "site")


def test_what_does_not_fit_any_more_is_issued_anew(folder: Path) -> None:
    authority = stored_authority(folder / "authority", "")[1]
    assert isinstance(authority, Authority)
    ends_soon, others = authority.issue("site.ulm", valid=timedelta(days=29)), certificate(folder, "berlin", "site")
    tls = folder / "ulm" / "deploy" / "tls"
    for pair in (ends_soon, (others, (folder / "berlin" / "deploy" / "tls" / "site" / "key.pem").read_text())):
        for name, text in zip(("cert.pem", "key.pem"), pair, strict=True):
            (tls / "site" / name).write_text(text)
        written(folder)
        assert certificate(folder, "ulm", "site") != pair[0]
        assert common_name(certificate(folder, "ulm", "site")) == "site.ulm"
    before = {what: certificate(folder, "ulm", what) for what in ("site", "rabbitmq")}
    written(folder, replace(NETWORK, sites={**NETWORK.sites, "ulm": Site(("kme-3",), "elsewhere.example")}))
    assert [certificate(folder, "ulm", what) == text for what, text in before.items()] == [True, False]


def test_the_authoritys_key_may_be_away_until_something_is_to_be_issued(folder: Path) -> None:
    (folder / "authority" / "ca-key.pem").unlink()
    written(folder)
    (folder / "ulm" / "deploy" / "tls" / "site" / "cert.pem").unlink()
    with pytest.raises(SettingsError, match=r"ca-key\.pem is not there, and site\.ulm needs a new certificate"):
        written(folder)


@fuzzed(8)
@given(st.data())
def test_any_network_divided_in_any_way_shares_what_it_must_and_no_more(tmp_path_factory, data) -> None:
    where = data.draw(st.lists(st.integers(0, 3), min_size=8, max_size=8))
    names = sorted({f"s{number}" for number in where})
    sites = {
        name: Site(tuple(kme for kme, at in zip(REFERENCE.kmes, where, strict=True) if f"s{at}" == name), name)
        for name in names
    }
    topology = replace(REFERENCE, sites=sites, coordinator=data.draw(st.sampled_from(names)))
    folder = written(tmp_path_factory.mktemp("sites"), topology)
    held = {site: secrets_of(folder, site) for site in names}
    for site in names:
        for name, value in held[site].items():
            holders = {other for other in names if value in held[other].values()}
            if name.startswith("LINK_SECRET_"):
                ends = {
                    kme
                    for kme in REFERENCE.kmes
                    if kme.upper().replace("-", "_") in name.split("SECRET_")[1].split("__")
                }
                assert holders == {topology.site_of[kme] for kme in ends}
            elif name.startswith("CONTROL_KEY_"):
                kme = name.removeprefix("CONTROL_KEY_").lower().replace("_", "-")
                assert holders == {topology.site_of[kme], topology.coordinator}
            elif name.startswith("SITE_KEY_"):
                assert holders == {name.removeprefix("SITE_KEY_").lower(), topology.coordinator}
            else:
                assert holders == {site}


# --- what is taken from a broker -------------------------------------------------------------------


def tidied(folder: Path, definitions: str | None) -> tuple[int, list[str]]:
    """Run a bundle's script with an engine that lists users and queues, and notes what it is told to delete."""
    bundle = folder / "ulm"
    engine, told = folder / "bin", folder / "told"
    engine.mkdir()
    told.touch()
    (engine / "docker").write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '*list_users*) printf "operator\\t[x]\\nkme-3\\t[]\\nkme-9\\t[]\\nsite.gone\\t[]\\nresults.kme-3\\t[]\\n" ;;\n'
        '*list_queues*) printf "dead-letters\\nresults.kme-3\\nlink.kme-3.kme-9\\ncli.q.1\\nkme-3\\n" ;;\n'
        f'*delete*) shift 6; echo "$*" >>{told} ;;\n'
        "esac\n"
    )
    (engine / "docker").chmod(0o755)
    if definitions is not None:
        (bundle / "deploy" / "definitions.json").write_text(definitions)
    ran = subprocess.run(
        ["sh", str(bundle / "deploy" / "tidy.sh")],
        env={"PATH": f"{engine}:/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    return ran.returncode, told.read_text().splitlines()


def test_who_is_no_longer_of_the_network_is_taken_from_the_broker(folder: Path) -> None:
    status, told = tidied(folder, None)
    assert status == 0
    assert {line.removeprefix("--vhost qkdrelay ") for line in told} == {
        "delete_user kme-9",
        "delete_user site.gone",
        "delete_user results.kme-3",
        "delete_queue link.kme-3.kme-9",
        "delete_queue kme-3",
    }


@pytest.mark.parametrize("definitions", ["", "{}", '{\n "users": [\n'])
def test_nothing_is_taken_by_definitions_that_cannot_be(folder: Path, definitions: str) -> None:
    assert tidied(folder, definitions) == (1, [])


def test_a_kme_that_no_host_can_be_called_like_needs_sites_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="no host can be called '-'"):
        written(tmp_path, Topology("odd", ("-", "b"), (("-", "b"),)))
