"""What is wrong is said in one line, with a hint, and by the exit status."""

from __future__ import annotations

import socket
from uuid import uuid4

import pytest

from qkdrelay.errors import BrokerUnreachableError
from qkdrelay.messages.keys import KeyAmountError, check_key_amount
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.topology import Topology
from qkdrelay_cli import session
from support import wire_slow as slow
from support.plans import REFERENCE_RELAY

KEY = "0f" * 32
ANSWER = {
    "sender": "coordinator",
    "recipient": "cli",
    "epoch": slow.EPOCH,
    "number": 0,
    "body": slow.message(slow.MESSAGES["Reply"][0]),
}


def refused(result, code=2):
    """The (error, hint) of a command that printed nothing else."""
    assert (result.code, result.out) == (code, "")
    error, hint = result.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return error.removeprefix("error: "), hint.removeprefix("hint: ")


def wrong_amount(count, bits):
    with pytest.raises(KeyAmountError) as error:
        check_key_amount(count, bits)
    return str(error.value)


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["kme-1", "kme-9"], "there is no KME 'kme-9' in network eight-kmes", "did you mean 'kme-8'?"),
        (["kme-0", "kme-8"], "there is no KME 'kme-0' in network eight-kmes", "did you mean"),
        (["kme-1", "kme-1"], "source and target are both kme-1", "name two different KMEs"),
        (["kme-1", "kme-8", "--timeout", "0.5"], "timeout 0.5 s; it must be from 1 to 3600 s", "--timeout"),
        (["kme-1", "kme-8", "--timeout", "nan"], "timeout nan s; it must be from 1 to 3600 s", "--timeout"),
        (["kme-1", "kme-8", "--keys", "0"], wrong_amount(0, 256), "--keys"),
        (["kme-1", "kme-8", "--keys", "-3"], wrong_amount(-3, 256), "--keys"),
        (["kme-1", "kme-8", "--keys", "1" + "0" * 30], wrong_amount(10**30, 256), "--keys"),
        (["kme-1", "kme-8", "--key-size", "255"], wrong_amount(1, 255), "--key-size"),
        (["kme-1", "kme-8", "--key-size", "65544"], wrong_amount(1, 65544), "--key-size"),
        (["kme-1", "kme-8", "--keys", "16384", "--key-size", "512"], wrong_amount(16384, 512), "--key-size"),
        (["kme-1", ""], "'' is no name", "kme-1"),
        (["kme-1", "\udcff"], r"'\udcff' is no name", "kme-1"),
        (["kme-1", "k" * 600], "is no name", "kme-1"),
    ],
)
def test_a_relay_that_cannot_be(here, arguments, error, hint):
    said, hinted = refused(here.run("relay", *arguments))
    assert error in said
    assert hint in hinted
    assert here.run("relays", "--json").data["total"] == 0


def test_a_relay_that_one_kme_could_learn(place):
    chain = Topology("chain", ("a", "b", "c"), (("a", "b"), ("b", "c")))
    here = place(topology=chain)
    error, hint = refused(here.run("relay", "a", "c"))
    assert error == "no plan withstands compromised=1: 1 path joins a and c, and that takes 2"
    assert "--allow-unprotected" in hint


def test_a_network_without_a_path(place):
    here = place(topology=Topology("islands", ("a", "b", "c", "d"), (("a", "b"), ("c", "d"))))
    result = here.run("relay", "a", "d")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: there is no path from a to d in network islands\n")


def test_what_can_be_checked_here_is_not_asked_for(here):
    here.stop(COORDINATOR)
    refused(here.run(*REFERENCE_RELAY, "--key-size", "12"))
    assert here.sent == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["show", "zz"], "'zz' is no relay id"),
        (["show", "abcd"], "there is no relay 'abcd'"),
        (["trace", str(uuid4())], "there is no relay"),
        (["link", "down", "kme-1", "kme-8"], "there is no QKD link between kme-1 and kme-8"),
        (["link", "up", "kme-1", "kme-11"], "there is no KME 'kme-11'"),
        (["lab", "compromise", "kme-4", "--mode", "leak"], "the lab is off"),
        (["lab", "restore", "kme-4"], "the lab is off"),
        (["lab", "attack", "abcd"], "the lab is off"),
    ],
)
def test_a_request_the_coordinator_refuses(here, arguments, error):
    assert error in refused(here.run(*arguments))[0]


def test_where_the_lab_is_off_the_hint_says_how_to_switch_it_on(here):
    assert "make up LAB=1" in refused(here.run("lab", "restore", "kme-4"))[1]


def test_an_attack_names_only_kmes_there_are(lab):
    lab.run(*REFERENCE_RELAY)
    relay_id = lab.run("relays", "--json").data["relays"][0]["relay_id"]
    error, _ = refused(lab.run("lab", "attack", relay_id[:8], "--kme", "kme-44"))
    assert "there is no KME 'kme-44'" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["relay", "kme-1"],
        [*REFERENCE_RELAY, "--keys", "many"],
        [*REFERENCE_RELAY, "--id", "17"],
        [*REFERENCE_RELAY, "--linger", "-1"],
        ["relays", "--limit", "0"],
        ["lab", "compromise", "kme-4"],
        ["lab", "compromise", "kme-4", "--mode", "confuse"],
        ["link", "sideways", "kme-1", "kme-2"],
        ["rely", "kme-1", "kme-8"],
    ],
)
def test_wrong_arguments_exit_2_without_a_connection(here, arguments):
    result = here.run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Error: " in result.err
    assert here.sent == 0


@pytest.mark.parametrize(
    "arguments",
    [
        REFERENCE_RELAY,
        ["relays"],
        ["show", "abcd"],
        ["trace", "abcd"],
        ["watch"],
        ["network"],
        ["link", "up", "kme-1", "kme-2"],
        ["lab", "restore", "kme-1"],
        ["lab", "attack", "abcd"],
    ],
)
def test_a_broker_that_is_down_exits_3(run, monkeypatch, closed_port, arguments):
    monkeypatch.setenv("QKDRELAY_BROKER", f"127.0.0.1:{closed_port}")
    monkeypatch.setenv("QKDRELAY_CLI_PASSWORD", "not-the-password")
    monkeypatch.setenv("QKDRELAY_CLI_KEY", KEY)
    error, hint = refused(run(*arguments), code=3)
    assert error == f"nothing answers at 127.0.0.1:{closed_port}"
    assert "look whether the broker is running" in hint


def test_settings_are_read_from_dotenv(run, tmp_path, closed_port):
    (tmp_path / ".env").write_text(
        f"QKDRELAY_BROKER=127.0.0.1:{closed_port}\nQKDRELAY_CLI_PASSWORD=secret\nQKDRELAY_CLI_KEY={KEY}\nOTHER=1\n",
        encoding="utf-8",
    )
    result = run("network")
    assert f"nothing answers at 127.0.0.1:{closed_port}" in refused(result, code=3)[0]
    assert "secret" not in result.err
    assert KEY not in result.err


def test_without_secrets_the_variables_are_named(run):
    error, hint = refused(run("network"))
    assert error == "QKDRELAY_CLI_PASSWORD: must be set; QKDRELAY_CLI_KEY: must be set"
    assert ".env" in hint


def test_a_dotenv_from_before_there_was_a_key_says_how_to_get_one(run, tmp_path):
    (tmp_path / ".env").write_text("QKDRELAY_CLI_PASSWORD=secret\n", encoding="utf-8")
    error, hint = refused(run("network"))
    assert error == "QKDRELAY_CLI_KEY: must be set"
    assert "`make up`" in hint


@pytest.mark.parametrize("arguments", [["network"], REFERENCE_RELAY, ["link", "down", "kme-7", "kme-8"]])
def test_with_another_key_than_the_coordinators_nothing_is_done_and_the_setting_is_named(here, arguments):
    here.cli_key = bytes(32)
    error, hint = refused(here.run(*arguments), code=3)
    assert error.startswith("the broker took the request, but the coordinator did not answer within ")
    assert "with this QKDRELAY_CLI_KEY" in hint
    letters = here.network.coordinator_store.dead_letters.latest()
    assert {letter.reason for letter in letters} == {
        "the signature does not verify: QKDRELAY_CLI_KEY is another there, or somebody forges"
    }
    assert here.network.coordinator_store.links.down() == ()
    assert here.network.coordinator_store.relays.count(supply=True) == 0


def test_a_wrong_address_is_named(run, monkeypatch):
    monkeypatch.setenv("QKDRELAY_BROKER", "127.0.0.1:http")
    monkeypatch.setenv("QKDRELAY_CLI_PASSWORD", "secret")
    monkeypatch.setenv("QKDRELAY_CLI_KEY", KEY)
    error, _ = refused(run("network"))
    assert error.startswith("QKDRELAY_BROKER: ")
    assert "secret" not in error


def test_a_dotenv_that_is_no_text_is_named(run, tmp_path):
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00")
    result = run("network")
    assert (result.code, result.err) == (2, "error: .env: cannot be read: it is not UTF-8 text\n")


@pytest.mark.parametrize("arguments", [["link", "down", "kme-7", "kme-8"], ["lab", "restore", "kme-7"]])
def test_a_kme_that_does_not_answer_exits_3(lab, arguments):
    lab.stop("kme-7")
    error, hint = refused(lab.run(*arguments), code=3)
    assert error == "kme-7 did not answer within 5 s"
    assert hint == "it will carry the command out when it is back"


@pytest.mark.parametrize("arguments", [["relays"], ["network"], ["show", "abcd"]])
def test_a_coordinator_that_does_not_answer_exits_3(here, arguments):
    here.stop(COORDINATOR)
    error, hint = refused(here.run(*arguments), code=3)
    assert error == "the broker took the request, but the coordinator did not answer within 5 s"
    assert "look whether the coordinator is running" in hint


def test_a_connection_lost_during_a_relay_exits_3_and_says_how_to_go_on(here, monkeypatch):
    relay_id = str(uuid4())
    client = session.connected_client()

    def lost(timeout_s):
        raise BrokerUnreachableError("the connection to the broker was lost", hint="try again")

    monkeypatch.setattr(client, "receive", lost)
    monkeypatch.setattr(session, "connected_client", lambda watch=(): client)
    error, hint = refused(here.run(*REFERENCE_RELAY, "--id", relay_id), code=3)
    assert error == "the connection to the broker was lost"
    assert hint == f"try again; then `coordinator show {relay_id}` tells whether the relay went on"


def answered_by(here, monkeypatch, *bodies):
    """Have the command line get these answers, and no others."""
    client, left = session.connected_client(), list(bodies)

    def receive(timeout_s):
        if left:
            return "replies", client.address, left.pop(0)
        here.clock.now += timeout_s
        return None

    monkeypatch.setattr(client, "receive", receive)
    monkeypatch.setattr(session, "connected_client", lambda watch=(): client)


def test_an_answer_of_another_version_exits_3(here, monkeypatch):
    body = slow.signed(here.cli_key, {**ANSWER, "body": slow.message({"request_id": slow.OTHER, "body": 7})})
    answered_by(here, monkeypatch, body)
    error, hint = refused(here.run("network"), code=3)
    assert error.startswith("the coordinator's answer cannot be understood: ")
    assert "of the same version" in hint


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\x81\xa1v\x09", "it is not signed"),
        (slow.message(slow.MESSAGES["Reply"][0]), "it is not signed"),
        (slow.signed(bytes(32), ANSWER), "the signature does not verify"),
    ],
    ids=["noise", "unsigned", "another key"],
)
def test_answers_that_the_coordinator_did_not_sign_are_none_and_the_setting_is_named(here, monkeypatch, body, why):
    answered_by(here, monkeypatch, body)
    error, hint = refused(here.run("network"), code=3)
    assert error.startswith("an answer came that is not signed by the coordinator")
    assert why in error
    assert "QKDRELAY_CLI_KEY must be the coordinator's" in hint


def test_whoever_floods_the_command_line_with_forged_answers_does_not_hold_it_up(here, monkeypatch):
    client = session.connected_client()

    def receive(timeout_s):
        here.clock.now += 0.01
        return "replies", client.address, b"noise"

    monkeypatch.setattr(client, "receive", receive)
    monkeypatch.setattr(session, "connected_client", lambda watch=(): client)
    assert "not signed" in refused(here.run("network"), code=3)[0]


def test_ctrl_c_is_quiet(here, monkeypatch):
    def interrupted(watch=()):
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "connected_client", interrupted)
    result = here.run(*REFERENCE_RELAY)
    assert (result.code, result.out, result.err) == (130, "", "")


def test_ctrl_c_ends_watching_well(here, monkeypatch):
    def interrupted(exchange, body):
        raise KeyboardInterrupt

    monkeypatch.setattr("qkdrelay.client.reported", interrupted)
    here.after(0, lambda: here.network.relay("kme-1", "kme-8"))
    assert here.run("watch").code == 0


def test_a_topology_file_that_is_not_there(run):
    result = run("provision", "nowhere.toml")
    assert (result.code, result.out) == (2, "")
    error, hint = result.err.splitlines()
    assert error == "error: nowhere.toml: there is no such file"
    assert "nsfnet" in hint


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('links = [["a", "c"]]', "link 1 ends in 'c', which is not in 'kmes'"),
        ('links = [["a", "b"], ["b", "a"]]', "the link between 'b' and 'a' is named twice"),
        ('linsk = [["a", "b"]]', "unknown entry 'linsk'"),
    ],
)
def test_a_topology_file_with_a_mistake(run, tmp_path, text, error):
    (tmp_path / "wrong.toml").write_text(f'name = "wrong"\nkmes = ["a", "b"]\n{text}\n', encoding="utf-8")
    result = run("provision", "wrong.toml", "--out", "made")
    assert (result.code, result.out) == (2, "")
    assert error in result.err
    assert not (tmp_path / "made").exists()


def test_provision_prints_the_files_it_wrote(run, tmp_path):
    (tmp_path / "two.toml").write_text('name = "two"\nkmes = ["a", "b"]\nlinks = [["a", "b"]]\n', encoding="utf-8")
    result = run("provision", "two.toml", "--out", "made")
    assert result.code == 0
    written = [tmp_path / line for line in result.out.splitlines()]
    assert tmp_path / "made" / "docker-compose.yml" in written
    assert all(path.is_file() for path in written)


@pytest.fixture
def closed_port():
    """A port nobody listens on while the test runs: it is bound, and refuses."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]
