"""A deployment: who gets which secret, what is kept, what is refused."""

import base64
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kme.settings import SimulatedLinkSettings
from qkdrelay.broker import names
from qkdrelay.errors import SettingsError, TopologyError
from qkdrelay.network.names import SERVICE_USERS
from qkdrelay.network.topology import Topology
from qkdrelay.network.topology_file import parse_topology, reference_topology
from qkdrelay.service import dotenv_file
from qkdrelay_deployment.compose import CLUSTER_NODES, CLUSTER_OVERLAY, CLUSTER_SERVICES, compose_file
from qkdrelay_deployment.provision import write_deployment
from qkdrelay_deployment.variables import (
    AMQP_PORTS,
    APPLICATIONS_ADDRESS,
    CLI_KEY,
    PAGE_KEY,
    applications_port_variable,
    control_key_variable,
    link_secret_variable,
    password_variable,
    withstand_variable,
)

ROOT = Path(__file__).parents[2]
NO_ENVIRONMENT: dict[str, str] = {}


@pytest.fixture
def topology() -> Topology:
    return reference_topology()


def deployed(topology: Topology, directory: Path, *, lab: bool = False, **environment: str) -> dict[str, str]:
    write_deployment(topology, directory, lab=lab, environment=environment)
    return dotenv(directory)


def dotenv(directory: Path) -> dict[str, str]:
    lines = (directory / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def service(text: str, name: str) -> str:
    found = re.search(rf"^  {name}:\n((?:    .*\n)+)", text, re.MULTILINE)
    assert found, f"no service {name}"
    return found[1]


def variables(text: str) -> set[str]:
    return set(re.findall(r"\$\{([A-Z0-9_]+)", text))


def secret_variables(topology: Topology) -> set[str]:
    users = (*topology.kmes, *SERVICE_USERS)
    return (
        {password_variable(user) for user in users}
        | {control_key_variable(kme) for kme in topology.kmes}
        | {link_secret_variable(*link) for link in topology.links}
        | {CLI_KEY, PAGE_KEY}
    )


def test_the_committed_compose_file_is_the_reference_networks(topology: Topology) -> None:
    assert (ROOT / "docker-compose.yml").read_text() == compose_file(topology)


def test_a_kme_gets_its_own_secrets_and_no_others(topology: Topology) -> None:
    text = compose_file(topology)
    for kme in topology.kmes:
        own = {password_variable(kme), control_key_variable(kme), withstand_variable(kme)}
        own |= {link_secret_variable(*link) for link in topology.links if kme in link}
        own |= {applications_port_variable(kme), APPLICATIONS_ADDRESS}
        assert variables(service(text, kme)) == own


def test_the_coordinator_gets_control_keys_but_no_link_secret(topology: Topology) -> None:
    got = variables(service(compose_file(topology), "coordinator"))
    keys = {control_key_variable(kme) for kme in topology.kmes}
    passwords = {"QKDRELAY_COORDINATOR_PASSWORD", "QKDRELAY_CLI_PASSWORD", "QKDRELAY_CLI_KEY", "QKDRELAY_PAGE_KEY"}
    assert got == keys | passwords | {"QKDRELAY_DEPLOYMENT"}


def test_the_broker_gets_no_secret(topology: Topology) -> None:
    got = variables(service(compose_file(topology), "rabbitmq"))
    assert not got & secret_variables(topology)


def links_of(text: str, kme: str) -> dict[str, dict[str, Any]]:
    folded = re.search(r"QKDRELAY_LINKS: >-\n((?:        .*\n)+)", service(text, kme))
    assert folded
    links: dict[str, dict[str, Any]] = json.loads(" ".join(line.strip() for line in folded[1].splitlines()))
    return links


def test_a_kmes_links_are_the_json_that_the_kme_reads(topology: Topology) -> None:
    links = links_of(compose_file(topology), "kme-2")
    assert {near: list(setting) for near, setting in links.items()} == {
        near: ["secret"] for near in ("kme-1", "kme-5", "kme-6")
    }


NOTED = """
name = "noted"
kmes = ["kme-1", "kme-2", "kme-3"]
links = [["kme-2", "kme-1", { suite = "aes-256-gcm", rate_bps = 4000, buffer_bytes = 65536 }], ["kme-2", "kme-3"]]
[trust]
kme-3 = "never"
kme-1 = "trusted"
"""


def test_both_kmes_of_a_link_are_told_what_the_topology_notes_of_it() -> None:
    text = compose_file(parse_topology(NOTED, "noted"))
    for kme, near in (("kme-1", "kme-2"), ("kme-2", "kme-1")):
        setting = links_of(text, kme)[near]
        settings = SimulatedLinkSettings(**{**setting, "secret": "00" * 32})
        assert (settings.suite, settings.rate_bps, settings.buffer_bytes) == ("aes-256-gcm", 4000, 65536)
    assert set(links_of(text, "kme-2")["kme-3"]) == {"secret"}


def test_the_topology_file_keeps_all_notes(tmp_path: Path) -> None:
    noted = parse_topology(NOTED, "noted")
    write_deployment(noted, tmp_path, lab=False, environment=NO_ENVIRONMENT)
    kept = parse_topology((tmp_path / "deploy/topology.toml").read_text(encoding="utf-8"), "it")
    assert kept == noted
    assert kept.trust == {"kme-3": "never", "kme-1": "trusted"}
    assert kept.note("kme-1", "kme-2").rate_bps == 4000


def test_every_variable_without_a_default_is_in_dotenv(topology: Topology, tmp_path: Path) -> None:
    values = deployed(topology, tmp_path)
    required = set(re.findall(r"\$\{([A-Z0-9_]+):\?", compose_file(topology)))
    assert required == secret_variables(topology) - {"QKDRELAY_OPERATOR_PASSWORD"} | {"QKDRELAY_DEPLOYMENT"}
    assert required <= values.keys()


def test_secrets_are_distinct_and_of_32_bytes(topology: Topology, tmp_path: Path) -> None:
    values = deployed(topology, tmp_path)
    made = [values[name] for name in secret_variables(topology)]
    assert len(set(made)) == len(made)
    assert all(len(bytes.fromhex(secret)) == 32 for secret in made)


def test_dotenv_is_readable_by_its_owner_alone_even_if_it_was_not(topology: Topology, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("")
    (tmp_path / ".env").chmod(0o644)
    deployed(topology, tmp_path)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


def test_what_is_mounted_is_readable_by_the_services_whatever_the_umask(topology: Topology, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_deployment(topology, tmp_path, lab=False, environment=NO_ENVIRONMENT)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "deploy").stat().st_mode) == 0o755
    files = [path for path in (tmp_path / "deploy").iterdir() if path.is_file()]
    assert {path.name for path in files} == {"topology.toml", "rabbitmq.conf", "definitions.json", "saes.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}


def test_no_secret_is_in_any_file_but_dotenv(topology: Topology, tmp_path: Path) -> None:
    written = write_deployment(topology, tmp_path, lab=True, environment=NO_ENVIRONMENT)
    values = dotenv(tmp_path)
    assert written.files[0] == tmp_path / ".env"
    for path in written.files[1:]:
        text = path.read_text()
        assert not [name for name in secret_variables(topology) if values[name] in text], path


def test_provisioning_again_changes_no_secret(topology: Topology, tmp_path: Path) -> None:
    assert deployed(topology, tmp_path) == deployed(topology, tmp_path)


def test_the_lab_and_only_the_lab_follows_the_argument(topology: Topology, tmp_path: Path) -> None:
    without = deployed(topology, tmp_path)
    queues = json.loads((tmp_path / "deploy/definitions.json").read_text())["queues"]
    with_lab = deployed(topology, tmp_path, lab=True)
    lab_queues = json.loads((tmp_path / "deploy/definitions.json").read_text())["queues"]
    changed = {name for name in without if without[name] != with_lab[name]}
    assert changed == {"QKDRELAY_LAB", "QKDRELAY_DEPLOYMENT"}
    assert {queue["name"] for queue in lab_queues} - {queue["name"] for queue in queues} == {names.LEAKS_QUEUE}


def test_a_network_that_grows_keeps_the_secrets_it_had(topology: Topology, tmp_path: Path) -> None:
    before = deployed(topology, tmp_path)
    grown = replace(topology, kmes=(*topology.kmes, "kme-9"), links=(*topology.links, ("kme-8", "kme-9")))
    after = deployed(grown, tmp_path)
    assert after.keys() - before.keys() == {
        "PASSWORD_KME_9",
        "CONTROL_KEY_KME_9",
        "WITHSTAND_COMPROMISED_KME_9",
        "LINK_SECRET_KME_8__KME_9",
        "ETSI014_PORT_KME_9",
    }
    assert {name for name in before if before[name] != after[name]} == {"QKDRELAY_DEPLOYMENT"}


def test_a_dotenv_from_before_the_command_line_had_a_key_gets_one_and_keeps_its_secrets(
    topology: Topology, tmp_path: Path
) -> None:
    before = deployed(topology, tmp_path)
    lines = (tmp_path / ".env").read_text().splitlines()
    older = [line for line in lines if not line.startswith((CLI_KEY, "WITHSTAND_COMPROMISED_"))]
    (tmp_path / ".env").write_text("\n".join(older) + "\n")
    after = deployed(topology, tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {CLI_KEY}
    assert re.fullmatch("[0-9a-f]{64}", after[CLI_KEY])
    assert after[CLI_KEY] != after["QKDRELAY_CLI_PASSWORD"]


def test_the_key_of_the_command_line_is_the_coordinators_and_nobody_elses(topology: Topology) -> None:
    text = compose_file(topology)
    assert CLI_KEY in variables(service(text, "coordinator"))
    for other in ("rabbitmq", "page", *topology.kmes):
        assert CLI_KEY not in variables(service(text, other))


def test_the_page_gets_its_own_key_and_password_and_nothing_else(topology: Topology) -> None:
    text = compose_file(topology)
    assert variables(service(text, "page")) - {"QKDRELAY_PAGE_PORT", "QKDRELAY_PAGE_HOSTS"} == {
        PAGE_KEY,
        "QKDRELAY_PAGE_PASSWORD",
    }
    for other in ("rabbitmq", *topology.kmes):
        assert PAGE_KEY not in variables(service(text, other))


def test_what_a_kme_demands_is_said_in_dotenv_for_each_and_reaches_that_kme_alone(
    topology: Topology, tmp_path: Path
) -> None:
    assert {deployed(topology, tmp_path)[withstand_variable(kme)] for kme in topology.kmes} == {"1"}
    file = tmp_path / ".env"
    file.write_text(file.read_text().replace("WITHSTAND_COMPROMISED_KME_3=1", "WITHSTAND_COMPROMISED_KME_3=0"))
    again = deployed(topology, tmp_path, WITHSTAND_COMPROMISED_KME_4="2")
    assert (again["WITHSTAND_COMPROMISED_KME_3"], again["WITHSTAND_COMPROMISED_KME_4"]) == ("0", "2")
    text = compose_file(topology)
    for kme in topology.kmes:
        line = f"QKDRELAY_WITHSTAND_COMPROMISED: ${{{withstand_variable(kme)}:-1}}\n"
        assert line in service(text, kme)
        assert text.count(line) == 1


@pytest.mark.parametrize("value", ["4", "-1", "none", "1 ", "01"])
def test_a_demand_that_no_kme_can_have_is_refused_by_its_name(topology: Topology, tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="WITHSTAND_COMPROMISED_KME_2") as refused:
        deployed(topology, tmp_path, WITHSTAND_COMPROMISED_KME_2=value)
    assert "0, 1, 2 or 3" in (refused.value.hint or "")
    assert not (tmp_path / ".env").exists()


def test_what_a_user_added_to_dotenv_stays(topology: Topology, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('# mine\nSITE="north wing"\nQKDRELAY_CLI_PASSWORD="chosen"\n')
    values = deployed(topology, tmp_path)
    assert values["SITE"] == '"north wing"'
    assert values["QKDRELAY_CLI_PASSWORD"] == "chosen"


@pytest.mark.parametrize("written", ["'pa$ss'", '"a b"', "plain", '"it\'s"'])
def test_the_broker_is_given_the_password_that_compose_gives_the_kme(
    topology: Topology, tmp_path: Path, written: str
) -> None:
    (tmp_path / ".env").write_text(f"PASSWORD_KME_1={written}\n")
    for _ in range(2):
        assert dotenv(tmp_path)["PASSWORD_KME_1"] == written
        write_deployment(topology, tmp_path, environment=NO_ENVIRONMENT)
    (user,) = (
        u for u in json.loads((tmp_path / "deploy/definitions.json").read_text())["users"] if u["name"] == "kme-1"
    )
    salted = base64.b64decode(user["password_hash"])
    assert hashlib.sha256(salted[:4] + written.strip("'\"").encode()).digest() == salted[4:]


def test_what_compose_versions_read_differently_is_refused_and_nothing_is_written(
    topology: Topology, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("# mine\nPASSWORD_KME_1=a #b\n")
    with pytest.raises(SettingsError, match=r"\.env line 2: PASSWORD_KME_1: a # without quotes"):
        write_deployment(topology, tmp_path, environment=NO_ENVIRONMENT)
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("PASSWORD_KME_1", "x"),
            ("CONTROL_KEY_KME_2", "0f"),
            ("QKDRELAY_CLI_PASSWORD", ""),
            ("QKDRELAY_LAB", "true"),
        ),
        *(("BROKER_PORT", "1"), ("COMPOSE_FILE", "other.yml"), ("QKDRELAY_IMAGE", "")),
    ],
)
def test_a_variable_that_compose_would_take_from_the_environment_instead_is_named(
    topology: Topology, tmp_path: Path, name: str, value: str
) -> None:
    deployed(topology, tmp_path, QKDRELAY_IMAGE="mine:1")
    before = (tmp_path / ".env").read_text()
    with pytest.raises(SettingsError, match=f"{name} in the environment is not what .env has"):
        deployed(topology, tmp_path, **{name: value})
    assert (tmp_path / ".env").read_text() == before
    deployed(
        topology, tmp_path, QKDRELAY_LOG_LEVEL="debug", QKDRELAY_BROKER="elsewhere:1", COMPOSE_FILE="docker-compose.yml"
    )


@pytest.mark.parametrize(("name", "value"), [("RABBITMQ_IMAGE", "a\nb"), ("COMPOSE_PROJECT_NAME", "My Project")])
def test_a_setting_from_the_environment_that_cannot_be_kept_is_refused(
    topology: Topology, tmp_path: Path, name: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=name):
        deployed(topology, tmp_path, **{name: value})
    assert not (tmp_path / ".env").exists()


LINES = [
    *("", "A=1", "RABBITMQ_IMAGE=", "RABBITMQ_IMAGE=m/r:4", 'RABBITMQ_IMAGE="m/r:4"', "RABBITMQ_IMAGE='m@sha256:0f'"),
    *("# RABBITMQ_IMAGE=a", "RABBITMQ_IMAGE=a #b", "RABBITMQ_IMAGE= a", " RABBITMQ_IMAGE=a", "export RABBITMQ_IMAGE=a"),
    *(
        "RABBITMQ_IMAGE=a\nRABBITMQ_IMAGE=a",
        "RABBITMQ_IMAGE=$A",
        "RABBITMQ_IMAGE=a\r",
        "RABBITMQ_IMAGE: a",
        "RABBITMQ_IMAGE",
    ),
]


@pytest.mark.parametrize("text", LINES)
def test_the_scripts_find_the_image_in_dotenv_that_provisioning_finds(tmp_path: Path, text: str) -> None:
    shutil.copytree(ROOT / "infra/docker", tmp_path / "infra/docker")
    (tmp_path / ".env").write_text(text, newline="")
    done = subprocess.run(
        [tmp_path / "infra/docker/setting.sh", "RABBITMQ_IMAGE", "default"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = dotenv_file.read(tmp_path / ".env")
    except SettingsError:
        assert (done.returncode, done.stdout) == (1, "")
        return
    assert (done.returncode, done.stdout) == (0, f"{found.get('RABBITMQ_IMAGE') or 'default'}\n")


def test_images_and_ports_are_taken_from_the_environment_and_remembered(topology: Topology, tmp_path: Path) -> None:
    deployed(topology, tmp_path, QKDRELAY_AMQP_PORT="25672", RABBITMQ_IMAGE="mirror/rabbitmq:4")
    values = deployed(topology, tmp_path)
    assert values["RABBITMQ_IMAGE"] == "mirror/rabbitmq:4"
    assert values["QKDRELAY_BROKER"] == "127.0.0.1:25672"


def test_each_kme_serves_applications_at_a_port_of_its_own_if_saes_are_named(
    topology: Topology, tmp_path: Path
) -> None:
    values = deployed(topology, tmp_path, QKDRELAY_ETSI014_PORT="28443")
    ports = [values[applications_port_variable(kme)] for kme in topology.kmes]
    assert ports == [str(28443 + number) for number in range(8)]
    for number, kme in enumerate(topology.kmes):
        text = service(compose_file(topology), kme)
        address, port = (
            f"${{{APPLICATIONS_ADDRESS}:-127.0.0.1}}",
            f"${{{applications_port_variable(kme)}:-{8443 + number}}}",
        )
        assert f'"{address}:{port}:8443"' in text
        assert f"./deploy/kmes/{kme}/saes:/etc/qkdrelay/saes:ro" in text
    with pytest.raises(SettingsError, match="leaves too few ports for 8 KMEs") as refused:
        deployed(topology, tmp_path, QKDRELAY_ETSI014_PORT="65529")
    assert refused.value.hint == "a number up to 65528"


def test_a_network_without_saes_has_no_interface_for_applications(topology: Topology, tmp_path: Path) -> None:
    values = deployed(replace(topology, saes={}), tmp_path)
    text = (tmp_path / "docker-compose.yml").read_text()
    assert not re.search("ETSI014|SAES|saes|8443", text)
    assert not [name for name in values if name.startswith("ETSI014")]
    assert not list((tmp_path / "deploy").rglob("*.pem"))


def test_no_service_may_dump_its_memory(topology: Topology) -> None:
    head = compose_file(topology).partition("\nservices:")[0]
    assert "  ulimits: {core: 0}\n" in head[head.index("&hardened") : head.index("x-service")]
    nodes = (ROOT / CLUSTER_OVERLAY).read_text().partition("\nservices:")[0]
    assert "  ulimits: {core: 0}\n" in nodes[nodes.index("&node") : nodes.index("x-command")]
    for name in ("rabbitmq", "coordinator", *topology.kmes):
        assert re.search(r"<<: \*(hardened|service)\n", service(compose_file(topology), name))


@pytest.mark.parametrize("name", [*AMQP_PORTS, "QKDRELAY_MANAGEMENT_PORT", "QKDRELAY_ETSI014_PORT"])
@pytest.mark.parametrize("port", ["five", "0", "65536", "99999", "-1", "5672 ", "127.0.0.1:5672", "5672-5674"])
def test_what_is_no_port_is_refused_by_name(topology: Topology, tmp_path: Path, name: str, port: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is no port"):
        write_deployment(topology, tmp_path, environment={**NO_ENVIRONMENT, name: port})
    assert not (tmp_path / ".env").exists()


@pytest.mark.parametrize(
    "address", ["here", "localhost", "::1", "192.0.2.7:8443", "192.0.2", "192.0.2.07", "0", "300.0.0.1"]
)
def test_what_is_no_address_to_publish_at_is_refused(topology: Topology, tmp_path: Path, address: str) -> None:
    with pytest.raises(SettingsError, match=f"{APPLICATIONS_ADDRESS} is no IPv4 address"):
        write_deployment(topology, tmp_path, environment={APPLICATIONS_ADDRESS: address})
    assert not (tmp_path / ".env").exists()


def test_a_damaged_secret_is_refused_and_nothing_is_overwritten(topology: Topology, tmp_path: Path) -> None:
    damaged = "LINK_SECRET_KME_1__KME_2=00ff\n"
    (tmp_path / ".env").write_text(damaged)
    with pytest.raises(SettingsError, match="LINK_SECRET_KME_1__KME_2") as refused:
        write_deployment(topology, tmp_path, lab=False, environment=NO_ENVIRONMENT)
    assert "00ff" not in str(refused.value)
    assert (tmp_path / ".env").read_text() == damaged


def test_the_topology_file_reads_back_as_the_same_network(tmp_path: Path) -> None:
    odd = Topology('réseau "A"\n', ("a-1", "b-1"), (("a-1", "b-1"),))
    write_deployment(odd, tmp_path, lab=False, environment=NO_ENVIRONMENT)
    assert parse_topology((tmp_path / "deploy/topology.toml").read_text(encoding="utf-8"), "it") == odd


@pytest.mark.parametrize("name", ["no", "on", "yes", "null", "true", "7", "2026-01-01", "-"])
def test_a_name_that_yaml_would_misread_is_quoted(name: str) -> None:
    text = compose_file(Topology("odd", (name, "kme-2"), ((name, "kme-2"),)))
    assert service(text, f'"{name}"')
    assert f'\nvolumes:\n  rabbitmq:\n  coordinator:\n  "{name}":\n' in text


def test_a_kme_named_as_the_brokers_service_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="rabbitmq"):
        write_deployment(Topology("odd", ("rabbitmq", "b"), (("rabbitmq", "b"),)), tmp_path, lab=False)


def test_links_whose_secrets_would_share_a_name_are_refused(tmp_path: Path) -> None:
    kmes, links = ("a--b", "c", "a", "b--c"), (("a--b", "c"), ("a", "b--c"))
    with pytest.raises(TopologyError, match="share one secret"):
        write_deployment(Topology("odd", kmes, links), tmp_path, lab=False)


def test_a_directory_that_cannot_be_written_is_a_settings_error(topology: Topology, tmp_path: Path) -> None:
    (tmp_path / "deploy").write_text("in the way")
    with pytest.raises(SettingsError, match="deploy"):
        write_deployment(topology, tmp_path, lab=False, environment=NO_ENVIRONMENT)


def test_tls_and_the_cluster_are_switched_on_and_off_by_the_arguments(topology: Topology, tmp_path: Path) -> None:
    plain = deployed(topology, tmp_path)
    write_deployment(topology, tmp_path, tls=True, cluster=True, environment=NO_ENVIRONMENT)
    both = dotenv(tmp_path)
    assert both["QKDRELAY_BROKER_TLS"] == "deploy/tls/cli"
    assert both["BROKER_ADDRESSES"] == "rabbitmq:5671,rabbitmq-2:5671,rabbitmq-3:5671"
    assert both["QKDRELAY_BROKER"] == "127.0.0.1:5672,127.0.0.1:5673,127.0.0.1:5674"
    assert both["COMPOSE_FILE"] == "docker-compose.yml:deploy/tls.yml:infra/cluster/docker-compose.yml"
    configuration = (tmp_path / "deploy/rabbitmq.conf").read_text()
    for wanted in (
        "listeners.tcp = none",
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = true",
        "cluster_formation.classic_config.nodes.3 = rabbit@node-3",
        "cluster_partition_handling = pause_minority",
        "cluster_formation.target_cluster_size_hint = 3",
    ):
        assert wanted in configuration.splitlines()
    assert deployed(topology, tmp_path) == plain
    assert "ssl" not in (tmp_path / "deploy/rabbitmq.conf").read_text()


def test_the_broker_is_started_anew_when_and_only_when_its_certificate_changes(
    topology: Topology, tmp_path: Path
) -> None:
    def digest() -> str:
        write_deployment(topology, tmp_path, tls=True, environment=NO_ENVIRONMENT)
        return dotenv(tmp_path)["QKDRELAY_DEPLOYMENT"]

    first = digest()
    (tmp_path / "deploy/tls/kme-1/cert.pem").unlink()
    assert digest() == first
    (tmp_path / "deploy/tls/rabbitmq/cert.pem").unlink()
    assert digest() != first


def test_neither_broker_nor_coordinator_is_started_anew_for_an_sae(topology: Topology, tmp_path: Path) -> None:
    before = deployed(topology, tmp_path)
    more = replace(topology, saes={**topology.saes, "sae-5": "kme-5"})
    assert deployed(more, tmp_path) == before


def test_the_cluster_is_made_of_the_services_and_nodes_that_its_overlay_has() -> None:
    overlay = (ROOT / CLUSTER_OVERLAY).read_text()
    assert all(service(overlay, name) for name in CLUSTER_SERVICES)
    assert re.findall(r"RABBITMQ_NODENAME: (.*)", overlay) == list(CLUSTER_NODES)
    assert re.findall(r"QKDRELAY_AMQP_PORT\w*", overlay) == list(AMQP_PORTS[1:])


def test_a_kme_named_as_a_node_of_the_cluster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="rabbitmq-2"):
        write_deployment(Topology("odd", ("rabbitmq-2", "b"), (("rabbitmq-2", "b"),)), tmp_path, cluster=True)
