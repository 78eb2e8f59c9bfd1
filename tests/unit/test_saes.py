"""The SAEs of a deployment: what is written for them, what a change touches, what is left when it is interrupted."""

import json
import os
import shutil
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from qkdrelay.errors import QkdRelayError, RequestRefusedError, SettingsError, TopologyError
from qkdrelay.network.directory import PairSettings, Sae, load_directory
from qkdrelay_deployment import saes
from qkdrelay_deployment.provision import write_deployment
from qkdrelay_deployment.sae_changes import add_sae, provision_sae_certificates, remove_sae, renew_sae, saes_of
from qkdrelay_deployment.variables import APPLICATIONS_ADDRESS
from support.network import DIAMOND, DIAMOND_WITH_SAES


def files(root):
    """Every file with what it is: its bytes, and which file it is and when it was written."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            seen = path.stat()
            found[str(path.relative_to(root))] = path.read_bytes(), seen.st_ino, seen.st_mtime_ns
    return found


def changed(before, after):
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def directories(root):
    """What each service goes by."""
    kmes = {kme: root / "deploy" / "kmes" / kme / "saes" for kme in DIAMOND_WITH_SAES.kmes}
    folders = {**kmes, "coordinator": root / "deploy" / "coordinator" / "saes"}
    return {name: load_directory(folder / "saes.toml") for name, folder in folders.items()}


def only_directory(root):
    """The one directory that all services go by."""
    found = list(directories(root).values())
    assert all(each == found[0] for each in found)
    return found[0]


DIRECTORIES = {f"deploy/kmes/{kme}/saes/saes.toml" for kme in DIAMOND_WITH_SAES.kmes} | {
    "deploy/coordinator/saes/saes.toml"
}
REVOCATION = {f"deploy/kmes/{kme}/saes/crl.pem" for kme in DIAMOND_WITH_SAES.kmes} | {"deploy/sae-authority/crl.pem"}


def certificate_files(sae):
    return {f"deploy/saes/{sae}/{name}.pem" for name in ("ca", "cert", "key")}


def again(root, network=DIAMOND_WITH_SAES):
    return write_deployment(network, root, environment={})


def test_all_services_are_told_the_saes_of_the_topology_and_a_file_says_how_each_is_reached(root):
    assert only_directory(root).saes == {"sae-1": Sae("sae-1", "kme-1"), "sae-4": Sae("sae-4", "kme-4")}
    said = json.loads((root / "deploy/saes.json").read_text())
    folder = "deploy/saes/sae-4"
    files = {"ca": f"{folder}/ca.pem", "cert": f"{folder}/cert.pem", "key": f"{folder}/key.pem"}
    assert said["sae-4"] == {"kme": "kme-4", "url": "https://127.0.0.1:8446", **files}
    assert said["sae-1"]["url"] == "https://127.0.0.1:8443"
    assert all((root / name).is_file() for name in files.values())


def test_doing_it_again_touches_nothing_of_it(root):
    before = files(root)
    again(root)
    assert changed(before, files(root)) <= {"deploy/definitions.json"}, "whose passwords are salted anew"


def test_to_add_an_sae_touches_the_directories_and_nothing_of_anybody_else(root):
    before = files(root)
    shown = add_sae(root, "sae-2", "kme-2", ["sae-4"], level=2)
    issued = {"deploy/saes.json", "deploy/sae-authority/issued.json"}
    assert changed(before, files(root)) == DIRECTORIES | issued | certificate_files("sae-2")
    directory = only_directory(root)
    assert directory.kme_of("sae-2") == "kme-2"
    assert directory.pairs == dict.fromkeys([("sae-2", "sae-4"), ("sae-4", "sae-2")], PairSettings(level=2))
    assert json.loads((root / "deploy/saes.json").read_text())["sae-2"]["url"] == shown.url == "https://127.0.0.1:8444"


def test_to_strike_one_off_does_neither_and_takes_its_pairs_and_its_key_away(root):
    add_sae(root, "sae-2", "kme-2", ["sae-4", "sae-1"])
    before = files(root)
    assert remove_sae(root, "sae-2").struck_off == ("sae-2",)
    issued = {"deploy/saes.json", "deploy/sae-authority/issued.json"}
    assert changed(before, files(root)) == DIRECTORIES | REVOCATION | issued | certificate_files("sae-2")
    assert only_directory(root).pairs == {}
    assert (
        [sae.sae_id for sae in saes_of(root)[0]]
        == ["sae-1", "sae-4"]
        == [*json.loads((root / "deploy/saes.json").read_text())]
    )


def test_to_renew_one_leaves_the_directories_as_they_are(root):
    before = files(root)
    renew_sae(root, "sae-4")
    pair = certificate_files("sae-4") - {"deploy/saes/sae-4/ca.pem"}
    assert changed(before, files(root)) == REVOCATION | pair | {"deploy/sae-authority/issued.json"}


def test_what_was_added_and_struck_off_stays_so_when_the_deployment_is_written_again(root):
    add_sae(root, "sae-2", "kme-2")
    remove_sae(root, "sae-1")
    before = files(root)
    assert again(root).struck_off == ()
    assert changed(before, files(root)) <= {"deploy/definitions.json"}
    assert only_directory(root).saes.keys() == {"sae-2", "sae-4"}


def test_what_changes_in_the_topology_is_carried_over(root):
    add_sae(root, "sae-2", "kme-2")
    remove_sae(root, "sae-1")
    moved = replace(DIAMOND_WITH_SAES, saes={"sae-1": "kme-1", "sae-4": "kme-3", "sae-9": "kme-1"})
    assert again(root, moved).struck_off == ()
    assert {sae: each.kme for sae, each in only_directory(root).saes.items()} == {
        "sae-2": "kme-2",
        "sae-4": "kme-3",
        "sae-9": "kme-1",
    }
    assert again(root, replace(DIAMOND_WITH_SAES, saes={"sae-9": "kme-1"})).struck_off == ("sae-4",)
    assert not (root / "deploy/saes/sae-4").exists()
    assert again(root).struck_off == ("sae-9",)
    assert only_directory(root).saes.keys() == {"sae-1", "sae-2", "sae-4"}


def test_who_is_at_a_kme_that_has_left_is_struck_off_and_said_to_be(root):
    add_sae(root, "sae-2", "kme-2", ["sae-4"])
    kmes = tuple(kme for kme in DIAMOND_WITH_SAES.kmes if kme != "kme-2")
    links = tuple(link for link in DIAMOND_WITH_SAES.links if "kme-2" not in link)
    assert again(root, replace(DIAMOND_WITH_SAES, kmes=kmes, links=links)).struck_off == ("sae-2",)
    assert only_directory_of(root, kmes).pairs == {}


def only_directory_of(root, kmes):
    found = [each for name, each in directories(root).items() if name in (*kmes, "coordinator")]
    assert all(each == found[0] for each in found)
    return found[0]


def test_a_kme_that_comes_back_is_told_what_has_changed_meanwhile(root):
    kmes = tuple(kme for kme in DIAMOND_WITH_SAES.kmes if kme != "kme-2")
    links = tuple(link for link in DIAMOND_WITH_SAES.links if "kme-2" not in link)
    add_sae(root, "sae-3", "kme-3")
    again(root, replace(DIAMOND_WITH_SAES, kmes=kmes, links=links))
    remove_sae(root, "sae-3")
    again(root)
    assert only_directory(root).saes.keys() == {"sae-1", "sae-4"}


def test_a_network_without_saes_in_between_brings_nobody_back_who_was_struck_off(root):
    remove_sae(root, "sae-1")
    add_sae(root, "sae-2", "kme-2")
    assert again(root, DIAMOND).struck_off == ()
    assert not (root / "deploy/saes.json").exists()
    with pytest.raises(SettingsError, match="the KMEs of the network diamond serve no applications") as refused:
        saes_of(root)
    assert "[saes]" in refused.value.hint
    again(root)
    assert only_directory(root).saes.keys() == {"sae-2", "sae-4"}


def test_what_is_edited_in_the_coordinators_copy_is_what_all_are_told(root):
    path = root / "deploy/coordinator/saes/saes.toml"
    text = (
        "# mine\n" + path.read_text().replace("[saes]", "only_pairs = true\n[saes]") + '[pairs]\n"sae-1 sae-4" = {}\n'
    )
    path.write_text(text)
    again(root)
    assert path.read_text() == text
    assert only_directory(root).only_pairs
    add_sae(root, "sae-2", "kme-2")
    assert only_directory(root).only_pairs
    assert only_directory(root).pairs == {("sae-1", "sae-4"): PairSettings()}


class CutShortError(Exception):
    pass


def interrupt(monkeypatch, after):
    """Let so many files be written, and the next one fail."""
    left = [after]
    write = saes.write_file

    def counted(path, text, *, mode):
        if path.is_file() and path.read_text() == text:
            return write(path, text, mode=mode)
        if left[0] == 0:
            raise CutShortError
        left[0] -= 1
        return write(path, text, mode=mode)

    monkeypatch.setattr(saes, "write_file", counted)


CHANGES = {
    "add": lambda root: add_sae(root, "sae-2", "kme-2", ["sae-1"]),
    "remove": lambda root: remove_sae(root, "sae-4"),
    "provision": lambda root: again(root, replace(DIAMOND_WITH_SAES, saes={"sae-1": "kme-2", "sae-9": "kme-3"})),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_interrupted_anywhere_can_be_done_again_and_is_whole_then(root, tmp_path_factory, change):
    do, interrupted, step = CHANGES[change], 0, 0
    while True:
        here = tmp_path_factory.mktemp("here")
        shutil.copytree(root, here, dirs_exist_ok=True)
        with pytest.MonkeyPatch.context() as patched:
            interrupt(patched, step)
            try:
                do(here)
            except CutShortError:
                interrupted += 1
            else:
                break
        for directory in directories(here).values():  # no file is half written, no service without one
            assert directory.saes
        do(here)
        assert only_directory(here) == wanted(do, root, tmp_path_factory)
        said = json.loads((here / "deploy/saes.json").read_text())
        for sae in said.values():
            assert all((here / sae[name]).is_file() for name in ("ca", "cert", "key"))
        assert said.keys() == only_directory(here).saes.keys()
        before = files(here)
        again(here, CARRIED if change == "provision" else DIAMOND_WITH_SAES)
        assert changed(before, files(here)) <= {"deploy/definitions.json"}
        step += 1
        shutil.rmtree(here)
    assert interrupted > len(DIAMOND_WITH_SAES.kmes)


CARRIED = replace(DIAMOND_WITH_SAES, saes={"sae-1": "kme-2", "sae-9": "kme-3"})


def wanted(do, root, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    shutil.copytree(root, whole, dirs_exist_ok=True)
    do(whole)
    return only_directory(whole)


def test_whoever_adds_at_the_same_time_waits_and_nobody_is_lost(root):
    names = [f"sae-{number}" for number in range(10, 22)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: add_sae(root, name, "kme-2"), names))
    assert only_directory(root).saes.keys() == {"sae-1", "sae-4", *names}
    assert json.loads((root / "deploy/saes.json").read_text()).keys() == {"sae-1", "sae-4", *names}
    issued = json.loads((root / "deploy/sae-authority/issued.json").read_text())
    assert sorted(entry["sae"] for entry in issued.values()) == sorted(["sae-1", "sae-4", *names])


REFUSED = [
    (add_sae, ("../x", "kme-1"), "'../x' is no SAE ID", "1 to 64 of"),
    (add_sae, ("..", "kme-1"), "'..' is no SAE ID", "not '.'"),
    (add_sae, ("sae-2", "kme-22"), "there is no KME 'kme-22'", "did you mean 'kme-2'"),
    (add_sae, ("sae-4", "kme-1"), "there is an SAE 'sae-4' already, at kme-4", "`coordinator saes remove sae-4`"),
    (add_sae, ("sae-2", "kme-1", ["sae-44"]), "there is no SAE 'sae-44'", "did you mean 'sae-4'"),
    (add_sae, ("sae-2", "kme-1", ["sae-4", "sae-2"]), "'sae-2' and 'sae-2' are no pair", "another SAE"),
    (partial(add_sae, stock=2), ("sae-2", "kme-1"), "--stock says what pairs", "--pair SAE"),
    (partial(add_sae, level=9), ("sae-2", "kme-1", ["sae-1"]), "level is 9; it must be a whole number", None),
    (remove_sae, ("sae-44",), "there is no SAE 'sae-44'", "did you mean 'sae-4'?"),
    (renew_sae, ("berlin",), "there is no SAE 'berlin'", "known: sae-1, sae-4"),
]


@pytest.mark.parametrize(("change", "arguments", "said", "hint"), REFUSED)
def test_what_cannot_be_is_refused_and_touches_nothing(root, change, arguments, said, hint):
    before = files(root)
    with pytest.raises((RequestRefusedError, TopologyError), match=said) as refused:
        change(root, *arguments)
    assert (hint or "") in (refused.value.hint or "")
    assert files(root) == before


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("deploy/coordinator/saes/saes.toml", "[saes]\nsae-1 = 1\n", r"saes\.toml:2: SAE 'sae-1' is at 1"),
        ("deploy/coordinator/saes/of-topology.json", "[]", r"of-topology\.json is not what was written there"),
        ("deploy/coordinator/saes/of-topology.json", "{", r"of-topology\.json is not what was written there"),
        ("deploy/sae-authority/ca.pem", "", "are not the certificate and the key of one authority"),
    ],
)
def test_what_is_damaged_is_named_and_nobody_is_told_anything(root, path, text, said):
    (root / path).write_text(text)
    before = files(root)
    with pytest.raises(QkdRelayError, match=said):
        again(root)
    assert files(root) == before


@pytest.mark.parametrize(("address", "found_at"), [("192.0.2.7", "192.0.2.7"), ("0.0.0.0", "127.0.0.1")])
def test_saes_elsewhere_find_their_kme_at_the_address_that_it_is_published_at(root, address, found_at):
    write_deployment(DIAMOND_WITH_SAES, root, environment={APPLICATIONS_ADDRESS: address})
    added = add_sae(root, "sae-2", "kme-2")
    said = json.loads((root / "deploy/saes.json").read_text())
    assert [said["sae-1"]["url"], added.url] == [f"https://{found_at}:8443", f"https://{found_at}:8444"]
    before = files(root)
    again(root)  # as remembered
    provision_sae_certificates(DIAMOND_WITH_SAES, root)
    after = files(root)
    assert [
        name for name in before if name.endswith((".pem", ".json", ".env")) and before[name][0] != after[name][0]
    ] == [
        "deploy/definitions.json"  # salted anew each time
    ]


def test_an_environment_file_of_before_gets_the_ports(root):
    lines = (root / ".env").read_text().splitlines()
    (root / ".env").write_text("\n".join(line for line in lines if "ETSI014" not in line) + "\n")
    with pytest.raises(SettingsError, match=r"ETSI014_PORT_KME_1 is not in \.env") as refused:
        saes_of(root)
    assert "make up" in refused.value.hint
    again(root)
    assert (root / ".env").read_text().splitlines() == lines


def test_the_directory_is_one_that_other_readers_of_toml_read(root):
    add_sae(root, "gateway.north", "kme-2", ["sae-1"])
    said = tomllib.loads((root / "deploy/kmes/kme-1/saes/saes.toml").read_text())
    assert said["saes"]["gateway.north"] == "kme-2"
    assert said["pairs"]["sae-1 gateway.north"] == {"level": 1, "stock": 128, "weight": 1}


def test_where_nothing_is_deployed_there_is_nothing_to_change(tmp_path):
    with pytest.raises(SettingsError, match="no network is deployed in") as refused:
        add_sae(tmp_path, "sae-2", "kme-2")
    assert "make up" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told(root, monkeypatch):
    def full(path, *_args, **_options):
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(saes, "write_file", full)
    with pytest.raises(SettingsError, match="No space left on device"):
        add_sae(root, "sae-2", "kme-2")
    assert only_directory(root).saes.keys() == {"sae-1", "sae-4"}
    assert Path(root / "deploy/saes").is_dir()
