"""A deployment where links have QKD devices: what their KMEs are told and given, and what stays the operator's."""

import json
import os
import re
import stat
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from kme.settings import DeviceLinkSettings, LinkSettings, SimulatedLinkSettings
from qkdrelay.errors import SettingsError
from qkdrelay.network.topology import DeviceNote, LinkNote, Topology
from qkdrelay.network.topology_file import parse_topology
from qkdrelay.service import dotenv_file
from qkdrelay_deployment.compose import compose_file
from qkdrelay_deployment.environment import DEPLOYMENT
from qkdrelay_deployment.provision import write_deployment
from support.stack import ROOT, command_here

LINK, OTHER = ("kme-2", "kme-1"), ("kme-2", "kme-3")
FILES = ["ca.pem", "cert.pem", "key.pem"]
SECRET = "LINK_SECRET_KME_1__KME_2"


def devices(link, host="qkd"):
    return LinkNote(source="etsi014", devices={kme: DeviceNote(f"https://{host}", f"sae-{kme}") for kme in link})


NETWORK = Topology("devices", ("kme-1", "kme-2", "kme-3"), (LINK, OTHER), {LINK: devices(LINK)})
SIMULATED = replace(NETWORK, link_notes={})


def deployed(network, root):
    written = write_deployment(network, root, environment={})
    return [str(path.relative_to(root / "deploy/devices")) for path in written.missing]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def put(folder, bits=0o600):
    for name in FILES:
        (folder / name).write_text(f"{folder} {name}")
        (folder / name).chmod(bits)


@pytest.fixture
def folder(tmp_path):
    deployed(NETWORK, tmp_path)
    return tmp_path / "deploy/devices/kme-1/kme-2"


def test_a_link_with_devices_has_no_secret_and_one_that_it_had_is_kept(tmp_path):
    deployed(NETWORK, tmp_path)
    assert [name for name in dotenv_file.read(tmp_path / ".env") if "LINK_SECRET" in name] == [
        "LINK_SECRET_KME_2__KME_3"
    ]
    assert SECRET not in compose_file(NETWORK)
    deployed(SIMULATED, tmp_path)
    first = dotenv_file.read(tmp_path / ".env")[SECRET]
    for network in (NETWORK, SIMULATED):
        deployed(network, tmp_path)
        assert dotenv_file.read(tmp_path / ".env")[SECRET] == first


def test_a_network_of_links_with_devices_alone_has_no_secret_of_a_link(tmp_path):
    deployed(replace(NETWORK, kmes=NETWORK.kmes[:2], links=(LINK,)), tmp_path)
    assert "simulated" not in (tmp_path / ".env").read_text()


def test_each_end_has_a_folder_for_its_services_to_read_behind_one_that_is_its_owners_alone(tmp_path):
    before = os.umask(0o077)
    try:
        missing = deployed(NETWORK, tmp_path)
    finally:
        os.umask(before)
    assert missing == [f"{kme}/{peer}/{name}" for kme, peer in (LINK, LINK[::-1]) for name in FILES]
    top = tmp_path / "deploy/devices"
    assert mode(top) == 0o700
    assert {path.relative_to(top).as_posix(): mode(path) for path in top.rglob("*")} == dict.fromkeys(
        ("kme-1", "kme-2", "kme-1/kme-2", "kme-2/kme-1"), 0o755
    )


def test_a_kme_is_given_the_folders_of_its_own_devices_and_cannot_write_there():
    services = compose_file(NETWORK).split("\n\n  ")
    mounted = {name: next(text for text in services if text.startswith(f"{name}:")) for name in NETWORK.kmes}
    assert "- ./deploy/devices/kme-1/kme-2:/etc/qkdrelay/devices/kme-2:ro" in mounted["kme-1"]
    assert "- ./deploy/devices/kme-2/kme-1:/etc/qkdrelay/devices/kme-1:ro" in mounted["kme-2"]
    for kme, peer in (LINK, LINK[::-1]):
        assert f'"tls": "/etc/qkdrelay/devices/{peer}"' in mounted[kme]
        assert f"/devices/{kme}" not in mounted[kme].replace(f"./deploy/devices/{kme}/{peer}:", "")
    assert "devices" not in mounted["kme-3"]
    assert compose_file(SIMULATED).count("/devices/") == 0


def test_kmes_reach_what_is_outside_their_network():
    assert not [word for word in ("networks", "internal", "network_mode") if word in compose_file(NETWORK)]


def test_what_was_put_there_is_kept_and_made_readable_for_the_service(folder, tmp_path):
    put(folder)
    was = {name: (folder / name).read_bytes() for name in FILES}
    for _ in range(2):
        assert deployed(NETWORK, tmp_path) == [f"kme-2/kme-1/{name}" for name in FILES]
        assert {name: (folder / name).read_bytes() for name in FILES} == was
        assert {mode(folder / name) for name in FILES} == {0o644}
    (folder / "cert.pem").unlink()
    put(tmp_path / "deploy/devices/kme-2/kme-1")
    assert deployed(NETWORK, tmp_path) == ["kme-1/kme-2/cert.pem"]


def test_what_is_elsewhere_too_keeps_its_mode_and_a_link_is_no_file(folder, tmp_path):
    theirs = tmp_path / "theirs.pem"
    theirs.write_text("a key")
    theirs.chmod(0o600)
    put(folder)
    for name in ("ca.pem", "key.pem"):
        (folder / name).unlink()
    (folder / "ca.pem").hardlink_to(theirs)
    (folder / "key.pem").symlink_to(theirs)
    assert "kme-1/kme-2/key.pem" in (missing := deployed(NETWORK, tmp_path))
    assert "kme-1/kme-2/ca.pem" not in missing
    assert mode(theirs) == 0o600


def test_the_folder_of_a_link_that_is_no_more_stays_but_nobody_is_given_it(folder, tmp_path):
    put(folder)
    without = replace(NETWORK, links=(OTHER,), link_notes={})
    assert deployed(without, tmp_path) == []
    assert "devices/" not in (tmp_path / "docker-compose.yml").read_text()
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert [name for name in deployed(NETWORK, tmp_path) if name.startswith("kme-1")] == []


def test_neither_broker_nor_coordinator_is_started_anew_for_where_a_device_is(tmp_path):
    def digest(note):
        deployed(replace(NETWORK, link_notes={LINK: note}), tmp_path)
        return dotenv_file.read(tmp_path / ".env")[DEPLOYMENT]

    first = digest(devices(LINK))
    assert digest(devices(LINK, "other")) == first
    assert digest(replace(devices(LINK), rate_bps=5)) != first
    assert digest(LinkNote()) != first


def test_links_with_devices_share_no_secrets_name(tmp_path):
    clashing = (("a--b", "c"), ("a", "b--c"))
    notes = {clashing[0]: devices(clashing[0])}
    assert len(deployed(Topology("odd", ("a--b", "c", "a", "b--c"), clashing, notes), tmp_path)) == 6


def test_what_is_in_the_way_of_the_folders_is_named(tmp_path):
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/devices").write_text("in the way")
    with pytest.raises(SettingsError, match="deploy/devices"):
        deployed(NETWORK, tmp_path)


def test_provisioning_says_what_is_to_be_put_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(
        'name = "n"\nkmes = ["kme-1", "kme-2"]\nlinks = [["kme-1", "kme-2", { source = "etsi014", devices = { '
        'kme-1 = { url = "https://a", sae = "1" }, kme-2 = { url = "https://b", sae = "2" } } }]]\n'
    )
    done = command_here("provision", "mine.toml")
    assert done.code == 0, done.err
    assert done.err.splitlines() == [
        "to be put into deploy/devices/kme-1/kme-2, for the QKD device of kme-1 on its link with kme-2: "
        "ca.pem, cert.pem, key.pem",
        "to be put into deploy/devices/kme-2/kme-1, for the QKD device of kme-2 on its link with kme-1: "
        "ca.pem, cert.pem, key.pem",
        "ca.pem is the authority of the device's certificate; cert.pem and key.pem are what it knows the KME by",
    ]
    for kme, peer in (("kme-1", "kme-2"), ("kme-2", "kme-1")):
        put(tmp_path / f"deploy/devices/{kme}/{peer}")
    assert command_here("provision", "mine.toml").err == ""


def code(page):
    return re.findall(r"^```\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)


def test_what_the_documents_show_of_a_link_with_devices_is_read_and_says_the_same():
    texts = [text for text in code("devices.md") if text.startswith("name = ")]
    network, upper = (parse_topology(text, "devices.md") for text in texts)
    assert network.note("kme-1", "kme-2").source == "etsi014"
    added = next(text for text in code("devices.md") if "saes add north" in text)
    for kme, device in upper.note("north", "south").devices.items():
        assert re.search(rf"saes add {device.sae} kme-\d\n{device.sae} is at kme-\d: {device.url}\n", added)
        assert device.sae == kme
    tried = next(line for text in code("devices.md") for line in text.splitlines() if "run --rm" in line)
    assert tried.endswith("kme-1 kme try-device kme-2")
    shown = [json.loads(text) for text in code("deploying.md") if text.startswith('{"kme-2"')]
    simulated, device = (json.loads(json.dumps(each).replace("64 hex digits", "0f" * 32))["kme-2"] for each in shown)
    assert TypeAdapter(LinkSettings).validate_python(simulated) == SimulatedLinkSettings(secret=simulated["secret"])
    least = {name: device[name] for name in ("source", "url", "peer_sae", "tls", "server_name")}
    assert TypeAdapter(LinkSettings).validate_python(device) == DeviceLinkSettings(**least)
    assert device["tls"] == "/etc/qkdrelay/devices/kme-2"
