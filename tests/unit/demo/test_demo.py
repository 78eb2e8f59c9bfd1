"""The demo shows the reference scenario as it really went, fails when it did not, and tells no key."""

import base64
import errno
import json
import subprocess
import sys
import threading
import uuid
from dataclasses import replace
from functools import partial

import pytest
import structlog
from typer.testing import CliRunner

from kme.keys import listed
from kme.supply.model import SupplyLimits
from qkdrelay.network.topology_file import reference_topology
from qkdrelay.terminal import app_with
from qkdrelay_cli.commands import demo
from qkdrelay_demo import applications, scenario
from qkdrelay_demo.network import EmbeddedNetwork
from qkdrelay_demo.picture import picture
from qkdrelay_demo.scenario import Scenario, play

APP = app_with("only the demo")
APP.command()(demo.demo)


@pytest.fixture(autouse=True)
def _logging_as_before():
    configured = structlog.get_config()
    yield
    structlog.configure(**configured)


@pytest.fixture
def networks(monkeypatch):
    """Every network that a demo makes in this test."""
    made = []

    class Remembered(EmbeddedNetwork):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(scenario, "EmbeddedNetwork", Remembered)
    return made


@pytest.fixture
def impatient(monkeypatch):
    """Applications are told soon that there is no key."""
    monkeypatch.setattr(scenario, "EmbeddedNetwork", partial(EmbeddedNetwork, limits=SupplyLimits(wait_s=0.1)))


@pytest.fixture
def application_keys(monkeypatch):
    """Every key that the demo's applications are given in this test."""
    given, answered = [], applications._answer

    def remembered(*asked):
        answer = answered(*asked)
        given.append(base64.b64decode(answer.key["key"]))
        return answer

    monkeypatch.setattr(applications, "_answer", remembered)
    return given


def demo(*arguments):
    return CliRunner().invoke(APP, arguments)


def failed_claims(seen):
    return {claim.text for claim in seen.claims if not claim.held}


# --- what it shows -----------------------------------------------------------------------------------


def test_the_command_succeeds_and_prints_json_alone():
    run = subprocess.run(
        [sys.executable, "-m", "qkdrelay_cli", "demo", "--json"], check=False, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["ok"] is True


def test_json_tells_the_reference_scenario():
    told = json.loads(demo("--json").stdout)
    expected = {
        "source": "kme-1",
        "target": "kme-8",
        "state": "confirmed",
        "planned_share_messages": 17,
        "share_messages": 15,
        "cut_links": [["kme-7", "kme-8"]],
        "compromised": ["kme-4", "kme-6"],
        "attacks": [
            {"kmes": ["kme-4"], "learned": False, "shares_held": 1},
            {"kmes": ["kme-6"], "learned": False, "shares_held": 3},
            {"kmes": ["kme-4", "kme-6"], "learned": False, "shares_held": 4},
        ],
        "missing": [["kme-1", "kme-3", "kme-7", "kme-8"], ["kme-1", "kme-4", "kme-7", "kme-8"]],
        "keys_equal": True,
    }
    assert {name: told[name] for name in expected} == expected
    assert sum(told["shares"].values()) == 15
    assert "kme-7>kme-8" not in told["shares"]


def test_json_names_the_keys_as_both_ends_do(networks):
    told = json.loads(demo("--json").stdout)
    for end in ("kme-1", "kme-8"):
        listed_there = {key["key_id"] for key in listed(networks[0].stores[end], reveal=False, limit=100)}
        assert len(set(told["key_ids"]) & listed_there) == 3


def test_json_has_the_counter_example_apart():
    told = json.loads(demo("--json").stdout)["counter_example"]
    assert (told["kmes"], told["learned"]) == (["kme-5", "kme-6"], True)


def test_json_has_the_key_of_two_applications_without_its_bytes():
    told = json.loads(demo("--json").stdout)["application"]
    key_id = told.pop("key_id")
    assert str(uuid.UUID(key_id)) == key_id
    assert told == {"master": "sae-1", "slave": "sae-8", "equal": True, "compromised": 1}


def test_nothing_of_the_applications_stays_behind(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    threads = set(threading.enumerate())
    assert demo("--json").exit_code == 0
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= threads


def test_every_claim_of_the_story_is_in_the_table_and_holds():
    run = demo()
    assert run.exit_code == 0
    assert "All 19 claims were observed." in run.stdout
    assert run.stderr == ""


def test_the_story_fits_80_columns():
    assert max(map(len, demo().stdout.splitlines())) <= 80


def test_logs_go_to_stderr_and_only_on_request():
    run = demo("--json", "--logs")
    events = {json.loads(line)["event"] for line in run.stderr.splitlines()}
    assert {"share.split", "share.forwarded", "share.collected", "split.rebuilt", "relay.confirmed"} <= events
    assert json.loads(run.stdout)["ok"] is True


# --- that it can fail --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_compromised_kmes_that_learn_the_keys_fail_the_demo(monkeypatch, arguments):
    monkeypatch.setattr(scenario, "REFERENCE_SCENARIO", Scenario(compromised=("kme-5", "kme-6")))
    run = demo(*arguments)
    assert run.exit_code == 1
    assert "not observed: kme-5 and kme-6 together learned: nothing; but: the keys" in run.stderr


def test_without_the_cut_all_17_share_messages_are_seen_and_the_claims_of_a_cut_fail():
    seen = play(Scenario(cut_links=()))
    assert (len(seen.carried), seen.relay.state) == (17, "confirmed")
    assert failed_claims(seen) == {
        "QKD link down at both its ends",
        "shares that wait for the link",
        "share messages seen on the QKD links",
        "the same, as their receivers report",
        "shares at kme-8",
    }


@pytest.mark.usefixtures("impatient")
def test_a_relay_that_is_not_confirmed_fails_the_demo():
    seen = play(Scenario(cut_links=(("kme-5", "kme-8"), ("kme-6", "kme-8"), ("kme-7", "kme-8"))))
    assert {
        "who rebuilt and released the keys",
        "who found its proof valid, and did, too",
        "state of the relay",
        "keys are equal at both ends",
    } <= failed_claims(seen)


def test_an_attack_without_leaks_proves_nothing(monkeypatch):
    monkeypatch.setattr("coordinator.adversary.Adversary.see", lambda self, leak: None)
    assert {
        "kme-4 alone learned",
        "kme-6 alone learned",
        "kme-4 and kme-6 together learned",
        "counter-example: kme-5 and kme-6 learned",
    } == failed_claims(play())


def test_different_keys_at_the_two_ends_fail_the_demo(networks, monkeypatch):
    kept = EmbeddedNetwork.keys
    wrong = {"kme-8": lambda keys: keys[:-1] + bytes([keys[-1] ^ 1])}
    monkeypatch.setattr(EmbeddedNetwork, "keys", lambda self, kme, relay: wrong.get(kme, bytes)(kept(self, kme, relay)))
    assert failed_claims(play()) == {"keys are equal at both ends"}


def changed(answer):
    return replace(answer, key={**answer.key, "key": base64.b64encode(bytes(32)).decode()})


def of_less(answer):
    return replace(answer, key={**answer.key, "key_extension": {"qkdrelay_compromised": 0}})


@pytest.mark.parametrize(
    ("at", "spoil", "fails"),
    [
        ("sae-8", changed, {"sae-1 and sae-8 were given": "different keys"}),
        ("sae-8", of_less, {"compromised KMEs that it withstands": "None"}),
        (
            "sae-8",
            lambda _: applications._Answer("400: one or more keys specified are not found on KME"),
            {
                "sae-1 and sae-8 were given": "400: one or more keys specified are not found on KME",
                "compromised KMEs that it withstands": "None",
            },
        ),
        (
            "sae-1",
            lambda _: applications._Answer("no answer: TimeoutError"),
            {"sae-1 and sae-8 were given": "no answer: TimeoutError", "compromised KMEs that it withstands": "None"},
        ),
    ],
)
def test_applications_that_are_not_given_one_key_fail_the_demo(monkeypatch, at, spoil, fails):
    answered = applications._answer

    def spoiled(port, certificates, path):
        answer = answered(port, certificates, path)
        return spoil(answer) if certificates.name == at else answer

    monkeypatch.setattr(applications, "_answer", spoiled)
    seen = play()
    assert {claim.text: claim.observed for claim in seen.claims if not claim.held} == fails
    assert seen.to_json()["application"]["equal"] is ("sae-1 and sae-8 were given" not in fails)


@pytest.mark.usefixtures("impatient")
def test_a_network_without_enough_paths_gives_the_applications_no_key():
    seen = play(Scenario(cut_links=(("kme-5", "kme-8"), ("kme-7", "kme-8"))))
    assert seen.application.key_id is None
    assert seen.application.answers[0].startswith("503: ")


def test_what_cannot_be_served_is_one_line_and_exit_code_1(monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(applications, "write_file", full)
    run = demo("--json")
    assert (run.exit_code, run.stdout) == (1, "")
    assert run.stderr.splitlines() == [
        "error: the demo cannot serve applications on 127.0.0.1: No space left on device"
    ]


def test_what_the_coordinator_refuses_is_one_line_and_exit_code_1(monkeypatch):
    monkeypatch.setattr(scenario, "REFERENCE_SCENARIO", Scenario(cut_links=(("kme-1", "kme-8"),)))
    run = demo("--json")
    assert (run.exit_code, run.stdout) == (1, "")
    assert run.stderr.startswith("error: there is no QKD link between kme-1 and kme-8\n")


# --- that it tells no key ----------------------------------------------------------------------------


def secrets_of(network):
    """Every key of every relay, as its two ends keep it."""
    for kme in ("kme-1", "kme-8"):
        for relay in network.stores[kme].relays.latest():
            size = relay.key_size_bits // 8
            yield from (relay.payload.keys[i : i + size] for i in range(0, len(relay.payload.keys), size))


def shows(secret, output):
    """Whether ``output`` has the secret's first 8 bytes in any common notation."""
    start = secret[:8]
    text = output.decode("utf-8", "replace").lower()
    notations = (start.hex(), repr(start)[2:-1], ", ".join(map(str, start)), base64.b64encode(start[:6]).decode())
    return start in output or any(notation.lower() in text for notation in notations)


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--logs",)])
def test_no_key_of_either_end_is_shown(networks, application_keys, arguments):
    run = demo(*arguments)
    found = [*secrets_of(networks[0]), *application_keys]
    assert len(found) == 2 * 2 * 3 + 2
    assert not any(shows(secret, run.stdout_bytes + run.stderr_bytes) for secret in found)


@pytest.mark.parametrize("write", [bytes, lambda key: key.hex().encode(), base64.b64encode, lambda k: repr(k).encode()])
def test_a_key_that_is_shown_would_be_noticed(write):
    secret = bytes(range(200, 232))
    assert shows(secret, b"key: " + write(secret) + b"\n")


# --- the picture -------------------------------------------------------------------------------------


def test_the_picture_marks_any_link_and_any_kme_of_the_reference_network():
    topology = reference_topology()
    plain = str(picture((), ()))
    for link in topology.links:
        assert str(picture((link,), ())).count("x") == plain.count("x") + 1
    for kme in topology.kmes[1:-1]:
        assert f"({kme})" in str(picture((), (kme,)))
