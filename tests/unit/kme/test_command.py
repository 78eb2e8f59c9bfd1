"""The command `kme`: what the person at a KME sees, and deletes, of its keys."""

import base64
import json
import sys
from threading import Event

import pytest
from rich.console import Console

from kme import __main__ as command
from kme import forgetting
from kme.__main__ import main
from kme.applications import Caller
from kme.store import open_kme_store
from qkdrelay.messages.keys import key_id
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import OpenDemand
from qkdrelay.network.directory import Sae
from qkdrelay.network.topology_file import reference_topology
from qkdrelay_demo.network import EmbeddedNetwork
from support.device import Pair, serving
from support.saes import Authority
from support.slaves import Slaves
from support.supply import Draws


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """A network that goes on running, and a relay of two keys over it."""
    folder = tmp_path_factory.mktemp("stores")
    network = EmbeddedNetwork(reference_topology(), folder=folder)
    relay_id = network.relay("kme-1", "kme-8", key_count=2).relay_id
    return network, folder / "kme-8" / "kme.sqlite", relay_id


def kme(monkeypatch, capsys, store, *arguments, name="kme-8"):
    monkeypatch.setenv("QKDRELAY_KME", name)
    monkeypatch.setenv("QKDRELAY_STORE", str(store))
    monkeypatch.setattr(sys, "argv", ["kme", *arguments])
    capsys.readouterr()  # what the network logged
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def of(relay_id, out):
    return [key for key in json.loads(out)["keys"] if key["relay_id"] == str(relay_id)]


def test_the_bytes_are_shown_only_to_who_asks_for_them(delivered, monkeypatch, capsys):
    network, store, relay_id = delivered
    code, out, _ = kme(monkeypatch, capsys, store, "keys", "--json")
    keys = of(relay_id, out)
    assert code == 0
    assert [key["key_id"] for key in keys] == [str(key_id(relay_id, i)) for i in range(2)]
    assert {key["state"] for key in keys} == {"delivered"}
    assert not any("key" in key for key in keys)
    revealed = of(relay_id, kme(monkeypatch, capsys, store, "keys", "--json", "--reveal")[1])
    assert b"".join(base64.b64decode(key["key"]) for key in revealed) == network.keys("kme-8", relay_id)


@pytest.mark.parametrize(
    ("wish", "here", "shown"),
    [
        (None, {"compromised": 1, "failed": 1, "tampering": 0}, "compromised=1,failed=1"),
        ((2, 0, 0), {"compromised": 2, "failed": 0, "tampering": 0}, "compromised=2"),
        ((0, 0, 1), {"compromised": 1, "failed": 0, "tampering": 1}, "compromised=1,tampering=1"),
    ],
    ids=str,
)
def test_keys_are_shown_with_what_their_plan_was_checked_to_withstand(
    delivered, monkeypatch, capsys, wish, here, shown
):
    """What was demanded and, at the least, what this KME itself demands: one compromised KME."""
    network, store, _ = delivered
    asked = OpenDemand(*wish) if wish else None
    relay_id = network.relay("kme-1", "kme-8", withstand=asked).relay_id
    (key,) = of(relay_id, kme(monkeypatch, capsys, store, "keys", "--json")[1])
    assert key["withstands"] == here
    (row,) = [line for line in kme(monkeypatch, capsys, store, "keys")[1].splitlines() if str(relay_id)[:8] in line]
    assert row.split()[-1] == shown


def test_keys_are_deleted_beside_the_running_kme_and_only_these(delivered, monkeypatch, capsys):
    network, store, relay_id = delivered
    other = network.relay("kme-1", "kme-8").relay_id
    before = network.keys("kme-8", other)
    monkeypatch.setattr(forgetting.time, "sleep", lambda _: network.settle())
    code, out, err = kme(monkeypatch, capsys, store, "forget", other.hex[:8])
    assert (code, out.splitlines()[-1], err) == (0, f"the keys of relay {other} are deleted", "")
    assert [path.name for path in store.parent.iterdir() if "forget" in path.name] == []
    assert not any(before in path.read_bytes() for path in store.parent.iterdir())
    assert network.keys("kme-8", relay_id) is not None
    assert network.relay("kme-1", "kme-8").state == "confirmed"
    code, out, err = kme(monkeypatch, capsys, store, "forget", str(other))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: no keys of relay {other} are delivered here\nhint: ")


def test_keys_for_applications_are_listed_by_state_and_shown_only_to_who_asks(tmp_path, monkeypatch, capsys):
    path = tmp_path / "kme.sqlite"
    slaves = Slaves(Draws(), path)
    source = slaves.supply()
    first, second = source.assign(), source.assign(offset=64, number=1, key_count=3)
    slaves.assign(first)
    slaves.assign(second)
    slaves.fetch(Caller("s1", "aa" * 32), "m1", [key_id(first.assignment.assign_id, 0)])
    slaves.store.journal.close()
    code, out, _ = kme(monkeypatch, capsys, path, "keys", "--json", name="there")
    found = json.loads(out)
    assert code == 0
    assert found["keys"] == []
    there = found["applications"]
    assert there["supply"] == [{"source": "here", "withstands": {"compromised": 1}, "bytes": 4096 - 160}]
    assert there["pairs"] == [{"master": "m1", "slave": "s1", "assigned": 5, "fetched": 1}]
    assert {key["key_id"] for key in there["keys"]} == {
        str(key_id(first.assignment.assign_id, 1)),
        *(str(key_id(second.assignment.assign_id, n)) for n in range(3)),
    }
    assert all("key" not in key for key in there["keys"])
    _, shown, _ = kme(monkeypatch, capsys, path, "keys", name="there")
    assert "5 assigned, 1 fetched" in shown
    key = base64.b64encode(source.payload.keys[32:64]).decode()
    assert key not in out + shown
    assert key in kme(monkeypatch, capsys, path, "keys", "--json", "--reveal", name="there")[1]


def test_ids_of_keys_are_whole_in_a_narrow_window(delivered, monkeypatch, capsys):
    _, store, relay_id = delivered
    monkeypatch.setattr(command, "console", lambda: Console(width=80, color_system=None))
    shown = kme(monkeypatch, capsys, store, "keys")[1]
    assert all(str(key_id(relay_id, index)) in shown for index in range(2))
    assert max(map(len, shown.splitlines())) <= 80


def test_where_masters_are_it_is_said_who_counts_their_keys(tmp_path, monkeypatch, capsys):
    """They are in the KME's memory only; a command beside it has its store."""
    path = tmp_path / "kme.sqlite"
    Slaves(Draws(), path).store.journal.close()
    for name, said in (("there", True), ("elsewhere", False)):
        store = open_kme_store(path, "there")
        with store.journal.transaction():
            store.applications.set_saes({"s1": Sae("s1", name)})
        store.journal.close()
        assert ("coordinator supplies" in kme(monkeypatch, capsys, path, "keys", name="there")[2]) == said


def test_no_store_is_one_line(tmp_path, monkeypatch, capsys):
    code, out, err = kme(monkeypatch, capsys, tmp_path / "none.sqlite", "keys")
    assert (code, out) == (2, "")
    assert err == f"error: there is no store at {tmp_path / 'none.sqlite'}\nhint: has the service been started here?\n"


def test_a_second_process_on_one_store_says_so_and_ends(delivered, monkeypatch, capsys):
    network, store, _ = delivered
    settings = {
        "BROKER": "127.0.0.1:1",
        "BROKER_PASSWORD": "secret",
        "CONTROL_KEY": "0" * 64,
        "LINKS": json.dumps({"kme-5": {"secret": "0" * 64}}),
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"QKDRELAY_{name}", value)
    # It would go on writing to what this test reads.
    monkeypatch.setattr("kme.bootstrap.set_up_logging", lambda *_, **__: None)
    # Nor are this process's signals its own.
    monkeypatch.setattr("kme.bootstrap.prepare_process", Event)
    code, out, err = kme(monkeypatch, capsys, store, "run")
    assert (code, out) == (2, "")
    hint = "one service holds a store; stop the other one"
    assert err == f"error: the store {store} is in use by another process\nhint: {hint}\n"
    assert network.relay("kme-1", "kme-8").state == "confirmed"


def test_a_request_that_cannot_be_granted_yet_is_remembered_once_however_often_it_is_seen(tmp_path, monkeypatch):
    requests, removed = forgetting.ForgetRequests(tmp_path / "kme.sqlite"), []
    relay_id = new_relay_id(1.0)
    requests.add(relay_id)
    assert [requests.due(now) for now in (1.0, 2.0, 3.0)] == [[relay_id]] * 3
    monkeypatch.setattr(type(tmp_path), "unlink", lambda path: removed.append(path.name))
    requests.remove_granted()
    assert len(removed) == 1


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A pair of QKD devices, and what asks one of them."""
    folder = tmp_path_factory.mktemp("device")
    authority, pair = Authority(folder), Pair()
    authority.server(folder / "server")
    (folder / "ours").mkdir()
    authority.issue("kme-8", names=["kme-8"])
    authority.files("kme-8", folder / "ours")
    with serving(pair, folder / "server", authority.path) as port:
        yield pair, (f"https://127.0.0.1:{port}", "sae-b", "--tls", str(folder / "ours"))


def test_a_device_is_tried_from_both_ends_and_no_key_is_shown(delivered, device, monkeypatch, capsys):
    (_, store, _), (pair, words) = delivered, device
    code, out, err = kme(monkeypatch, capsys, store, "try-device", *words, "--number", "2", "--json")
    drawn = json.loads(out)
    assert (code, err, drawn["status"]["stored_keys"]) == (0, "", pair.stored + 2)
    keys = dict(pair.uncollected)
    for told in (out, out.replace("\\", "")):
        assert not any(form in told for key in keys.values() for form in (key.hex(), base64.b64encode(key).decode()))
    ids = ",".join(key["key_id"] for key in drawn["keys"])
    code, out, _ = kme(monkeypatch, capsys, store, "try-device", *words, "--fetch", ids)
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[1:] == [[key["key_id"], "256", key["check"]] for key in drawn["keys"]]
    assert "keys stored: " in kme(monkeypatch, capsys, store, "try-device", *words)[1]


def test_a_device_is_tried_as_the_settings_say_of_its_link(delivered, device, monkeypatch, capsys):
    (_, store, _), (pair, (url, sae, _, tls)) = delivered, device
    link = {"source": "etsi014", "url": url.replace("127.0.0.1", "localhost"), "peer_sae": sae, "tls": tls}
    links = {"kme-7": link, "kme-6": {"secret": "00" * 32}, "kme-5": {**link, "server_name": "another"}}
    monkeypatch.setenv("QKDRELAY_LINKS", json.dumps(links))
    pair.asked.clear()
    code, out, err = kme(monkeypatch, capsys, store, "try-device", "kme-7", "--number", "2", "--json")
    assert (code, err, len(json.loads(out)["keys"])) == (0, "", 2)
    assert [asked[:3] for asked in pair.asked] == [("GET", sae, "status"), ("POST", sae, "enc_keys")]
    ids = ",".join(key["key_id"] for key in json.loads(out)["keys"])
    fetched = kme(monkeypatch, capsys, store, "try-device", "kme-7", "--fetch", ids, "--json")[1]
    assert json.loads(fetched)["keys"] == json.loads(out)["keys"]
    assert "not to be trusted" in kme(monkeypatch, capsys, store, "try-device", "kme-5")[2]
    for words, said in (
        (("kme-6",), "QKDRELAY_LINKS has a simulated link with kme-6"),
        (("kme-1",), "QKDRELAY_LINKS has no link with kme-1"),
        (("kme-7", "sae-b"), "the rest is as the settings say of the link with kme-7"),
        (("kme-7", "--server-name", "another"), "the rest is as the settings say of the link with kme-7"),
        ((url,), "with a URL, SAE and --tls must be given"),
        ((url, sae), "with a URL, SAE and --tls must be given"),
    ):
        code, out, err = kme(monkeypatch, capsys, store, "try-device", *words)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {said}\n"), err
    monkeypatch.delenv("QKDRELAY_LINKS")
    assert "QKDRELAY_LINKS: must be set" in kme(monkeypatch, capsys, store, "try-device", "kme-7")[2]


def test_what_a_device_does_instead_is_a_line(delivered, device, monkeypatch, capsys):
    (_, store, _), (pair, words) = delivered, device
    monkeypatch.setattr(pair, "mood", lambda handler, _what, _asked: handler.answer({"message": "no keys"}, 503))
    code, out, err = kme(monkeypatch, capsys, store, "try-device", *words)
    assert (code, out) == (3, "")
    assert err == "error: status: it gives none now (503: no keys)\n"
    code, _, err = kme(monkeypatch, capsys, store, "try-device", "http://qkd", *words[1:])
    assert code != 0
    assert "the device's URL cannot be used" in err
    assert "https://HOST[:PORT][/PATH]" in err
