"""Output that cannot be written: what became of what was asked for decides the exit status, without a traceback."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

import kme.__main__
import qkdrelay_cli.__main__
from qkdrelay.broker.names import kme_exchange, link_queue
from qkdrelay.broker.port import Publication
from qkdrelay.network.topology_file import reference_topology
from qkdrelay.terminal.streams import standard_streams
from qkdrelay_demo.network import EmbeddedNetwork
from qkdrelay_deployment.provision import write_deployment
from support.commands import leaves
from support.device import Pair, serving
from support.operators import TOPOLOGY as CITIES_FILE
from support.operators import Operators
from support.saes import Authority

FULL, CLOSED, UNREAD = "No space left on device", "it is closed", "Broken pipe"
REFERENCE = ("kme-1", "kme-8", "--topology", "eight-kmes")
SHOWING = {
    "coordinator plan": REFERENCE,
    "coordinator analyse": (*REFERENCE, "--failed", "kme-6"),
    "coordinator capacity": REFERENCE,
    "kme keys": (),
    "coordinator saes list": ("--out", "DEPLOYED"),
}
ACTING = {
    "coordinator provision": ("eight-kmes", "--out", "made"),
    "coordinator certs": ("eight-kmes", "--out", "made"),
    "coordinator demo": (),
    "kme forget": ("RELAY",),
    "kme try-device": ("DEVICE", "sae-b", "--tls", "TLS"),
    "coordinator saes add": ("sae-5", "kme-5", "--out", "DEPLOYED"),
    "coordinator saes remove": ("sae-8", "--out", "DEPLOYED"),
    "coordinator saes renew": ("sae-8", "--out", "DEPLOYED"),
    "coordinator site init": ("berlin", "--topology", "CITIES", "--out", "BERLIN"),
    "coordinator site sign": ("REQUEST", "--topology", "CITIES", "--out", "HQ"),
    "coordinator site accept": ("SIGNED", "--out", "BERLIN"),
    "coordinator site offer": ("munich", "--out", "BERLIN"),
    "coordinator site take": ("OFFER", "--out", "MUNICH"),
}
SHOWING_WITH_A_NETWORK = {
    "coordinator relays": (),
    "coordinator show": ("RELAY",),
    "coordinator trace": ("RELAY",),
    "coordinator network": (),
    "coordinator supplies": (),
    "coordinator dead-letters list": (),
    "coordinator dead-letters show": ("LETTER",),
    "coordinator lab attack": ("RELAY",),
}
ACTING_WITH_A_NETWORK = {
    "coordinator relay": ("kme-1", "kme-8"),
    "coordinator link down": ("kme-7", "kme-8"),
    "coordinator link up": ("kme-7", "kme-8"),
    "coordinator lab compromise": ("kme-4", "--mode", "leak"),
    "coordinator lab restore": ("kme-4",),
    "coordinator dead-letters requeue": ("LETTER",),
    "coordinator dead-letters drop": ("--all", "--yes"),
}
MAINS = {"coordinator": qkdrelay_cli.__main__.main, "kme": kme.__main__.main}
OTHERS = {"coordinator watch", "coordinator serve", "coordinator page", "kme run"}
"""Tried below, and where what services log is looked at."""


def test_every_command_is_tried():
    tried = [*SHOWING, *ACTING, *SHOWING_WITH_A_NETWORK, *ACTING_WITH_A_NETWORK, *OTHERS]
    assert sorted(tried) == sorted(leaves())


def lost(why):
    return f"error: stdout: cannot be written: {why}\n"


def lost_all_the_same(why):
    return f"warning: stdout: cannot be written: {why}; what was asked for is done all the same\n"


@contextmanager
def sink(why):
    """A stdout to which nothing can be written; None, as Python has it, where it is closed."""
    if why == CLOSED:
        yield None
        return
    if why == FULL:
        number = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, number = os.pipe()
        os.close(reader)
    with os.fdopen(number, "w") as stream:
        yield stream


# --- in a process of its own --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """The store of a KME, and a relay whose keys are in it."""
    folder = tmp_path_factory.mktemp("stores")
    network = EmbeddedNetwork(reference_topology(), folder=folder)
    relay_id = network.relay("kme-1", "kme-8").relay_id
    return network, folder / "kme-8" / "kme.sqlite", str(relay_id)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """The files of a deployment of the reference network, which has SAEs."""
    folder = tmp_path_factory.mktemp("deployed")
    write_deployment(reference_topology(), folder, environment={})
    return folder


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """The URL of a QKD device, and a folder of what it knows us by."""
    folder = tmp_path_factory.mktemp("device")
    authority = Authority(folder)
    authority.server(folder / "server")
    (folder / "ours").mkdir()
    authority.issue("kme", names=["kme"])
    authority.files("kme", folder / "ours")
    with serving(Pair(), folder / "server", authority.path) as port:
        yield {"DEVICE": f"https://127.0.0.1:{port}", "TLS": str(folder / "ours")}


@pytest.fixture(scope="module")
def cities(tmp_path_factory):
    """Folders of operators of sites, and what they have sent each other."""
    operators = Operators(tmp_path_factory.mktemp("cities")).certified()
    (operators.root / "cities.toml").write_text(CITIES_FILE)
    places = {"CITIES": "cities.toml", "HQ": "hq", "BERLIN": "berlin", "MUNICH": "munich"}
    places |= {"REQUEST": "berlin/berlin.request", "SIGNED": "hq/berlin.signed"}
    offer = operators.offer("berlin", "munich")
    return {"OFFER": str(offer), **{name: str(operators.root / path) for name, path in places.items()}}


@pytest.fixture
def asked(tmp_path, delivered, deployed, device, cities):
    """What a command is called with, where what it needs is there: its words, and settings in the environment."""

    def asked(words, *arguments):
        network, store, relay_id = delivered
        if words == "kme forget":
            relay_id = str(network.relay("kme-1", "kme-8").relay_id)
            # Of a KME that was killed: it runs in this process, and would not carry out what another one wishes.
            # Copied by another process, or SQLite's locks on the files would be gone here.
            subprocess.run(["cp", "-r", store.parent, tmp_path / relay_id], check=True)
            store = tmp_path / relay_id / store.name
        if "DEPLOYED" in arguments and not (tmp_path / "deployed").exists():
            shutil.copytree(deployed, tmp_path / "deployed")
        names = {"RELAY": relay_id, "DEPLOYED": str(tmp_path / "deployed"), **device, **cities}
        called = [*words.split(), *(names.get(argument, argument) for argument in arguments)]
        return called, {"QKDRELAY_KME": "kme-8", "QKDRELAY_STORE": str(store)}

    return asked


@pytest.fixture
def start(tmp_path, asked):
    """Run a command as the shell does, with redirections."""

    def start(words, *arguments, redirected):
        (name, *rest), environment = asked(words, *arguments)
        with sink(UNREAD) if redirected == UNREAD else nullcontext(subprocess.PIPE) as stdout:
            done = subprocess.run(
                [
                    *("bash", "-c", f'"$@" {"" if redirected == UNREAD else redirected}', "bash"),
                    *(str(Path(sys.executable).parent / name), *rest),
                ],
                cwd=tmp_path,
                env={**os.environ, **environment},
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        assert not done.stdout
        return done.returncode, done.stderr

    return start


@pytest.fixture
def call(tmp_path, asked, monkeypatch, capsys, no_logs):
    """Run a command in this process: the commands differ in what they do, not in how a process of them begins."""
    monkeypatch.chdir(tmp_path)

    def call(words, *arguments, why):
        called, environment = asked(words, *arguments)
        capsys.readouterr()
        with sink(why) as stream, monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            patched.setattr(sys, "argv", called)
            patched.setattr(sys, "stdout", stream)
            patched.setattr(sys, "__stdout__", stream)
            with pytest.raises(SystemExit) as ended:
                MAINS[called[0]]()
        return ended.value.code, capsys.readouterr().err

    return call


@pytest.mark.parametrize("words", [*leaves(), "coordinator", "kme", "coordinator lab"])
def test_help_that_cannot_be_written(call, words):
    assert call(words, "--help", why=FULL) == (1, lost(FULL))


SINKS = [(">/dev/full", FULL), (">&-", CLOSED), (UNREAD, UNREAD)]


@pytest.mark.parametrize(("redirected", "why"), SINKS)
def test_a_process_whose_output_cannot_be_written_ends_with_one_line(start, redirected, why):
    assert start("coordinator", "--help", redirected=redirected) == (1, lost(why))
    assert start("kme keys", redirected=redirected) == (1, lost(why))
    assert start("coordinator provision", *ACTING["coordinator provision"], redirected=redirected) == (
        0,
        lost_all_the_same(why),
    )


@pytest.mark.parametrize("why", [FULL, CLOSED, UNREAD])
@pytest.mark.parametrize("words", SHOWING)
def test_what_only_shows_has_failed(call, words, why):
    assert call(words, *SHOWING[words], why=why) == (1, lost(why))


@pytest.mark.parametrize("why", [FULL, CLOSED, UNREAD])
@pytest.mark.parametrize("words", ACTING)
def test_what_was_done_is_done(call, words, why):
    code, said = call(words, *ACTING[words], why=why)
    assert code == 0
    assert said.endswith(lost_all_the_same(why))
    assert "Traceback" not in said


def test_json_is_no_exception(start):
    assert start("coordinator plan", *REFERENCE, "--json", redirected=">/dev/full") == (1, lost(FULL))
    assert start("kme keys", "--json", redirected=">&-") == (1, lost(CLOSED))
    assert start("coordinator demo", "--json", redirected=">/dev/full") == (0, lost_all_the_same(FULL))


@pytest.mark.parametrize(
    ("words", "redirected", "code"),
    [
        ("coordinator plan", ">/dev/full 2>/dev/full", 1),
        ("coordinator plan", "<&- >&- 2>&-", 1),
        ("kme keys", "<&- >&- 2>&-", 1),
        ("coordinator provision", ">&- 2>&-", 0),
        ("coordinator provision", "<&- >/dev/full 2>&-", 0),
    ],
)
def test_with_nowhere_to_write_at_all_the_status_tells(start, words, redirected, code):
    assert start(words, *{**SHOWING, **ACTING}[words], redirected=redirected) == (code, "")


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&- <&-"])
def test_errors_that_cannot_be_written_do_not_go_elsewhere(start, redirected):
    assert start("coordinator plan", "kme-1", "kme-9", "--topology", "eight-kmes", redirected=redirected) == (2, "")
    assert start("coordinator plan", "--nonsense", redirected=redirected) == (2, "")


def test_a_refusal_stays_a_refusal(start):
    wish = ("--withstand", "compromised=5")
    code, said = start("coordinator plan", *REFERENCE, *wish, redirected=">/dev/full")
    assert code == 2
    assert said.startswith("error: no plan withstands compromised=5")
    assert said.endswith(lost(FULL))


@pytest.mark.parametrize("answer", ["", "\udcff\n", "n\n"])
def test_an_answer_that_is_none_drops_nothing(tmp_path, answer):
    command = [sys.executable, "-m", "qkdrelay_cli", "dead-letters", "drop", "--all"]
    done = subprocess.run(
        command, input=answer.encode("utf-8", "surrogateescape"), cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


def test_pictures_that_cannot_be_written(start, tmp_path):
    for name in ("full.svg", "full.png"):
        (tmp_path / name).symlink_to("/dev/full")
    (tmp_path / "folder.svg").mkdir()
    for option, file, why in (
        ("--svg", "full.svg", FULL),
        ("--png", "full.png", FULL),
        ("--svg", "folder.svg", "it is a directory"),
        ("--png", "nowhere/plan.png", "there is no directory nowhere"),
    ):
        said = start("coordinator plan", *REFERENCE, option, file, redirected="")
        assert said == (2, f"error: {file}: cannot be written: {why}\nhint: name another file\n")


def test_a_folder_that_is_none_is_one_line(start):
    for words in ("coordinator provision", "coordinator certs"):
        code, said = start(words, "eight-kmes", "--out", "/dev/full", redirected="")
        assert (code, said.count("\n")) == (2, 1)
        assert said.startswith("error: /dev/full")


def test_what_the_terminal_cannot_show_is_written_all_the_same(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "qkdrelay_cli", "demo"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")


# --- with a network in this process -------------------------------------------------------------------


@pytest.fixture
def run_into(monkeypatch):
    """Run `coordinator` on a network with such a stdout."""

    def run_into(here, why, *arguments):
        with sink(why) as stream, monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stream)
            patched.setattr(sys, "__stdout__", stream)
            return here.run(*arguments)

    return run_into


@pytest.fixture
def used(lab, run_into):
    """Runs a command on a network with a relay and a dead letter, which it is given in the place of their names."""
    relay_id = lab.run("relay", "kme-1", "kme-8", "--json").data["relay_id"]
    exchange, queue = kme_exchange("kme-3"), link_queue("kme-3", "kme-5")
    with lab.network.hub.lock:
        lab.network.hub.publish("kme-3", Publication(None, exchange, queue, b"no share"))
    lab.network.settle()
    (letter,) = lab.run("dead-letters", "list", "--json").data["dead_letters"]
    names = {"RELAY": relay_id, "LETTER": str(letter["letter"])}
    return lambda why, *arguments: run_into(lab, why, *(names.get(a, a) for a in arguments))


@pytest.mark.parametrize("words", SHOWING_WITH_A_NETWORK)
@pytest.mark.parametrize("json", [[], ["--json"]])
def test_what_only_shows_has_failed_with_a_network_too(used, words, json):
    for why in (FULL, CLOSED, UNREAD):
        result = used(why, *words.split()[1:], *SHOWING_WITH_A_NETWORK[words], *json)
        assert (result.code, result.out, result.err) == (1, "", lost(why))


@pytest.mark.parametrize("words", ACTING_WITH_A_NETWORK)
@pytest.mark.parametrize("why", [FULL, CLOSED, UNREAD])
def test_what_was_done_with_a_network_is_done(used, words, why):
    result = used(why, *words.split()[1:], *ACTING_WITH_A_NETWORK[words])
    assert (result.code, result.out, result.err) == (0, "", lost_all_the_same(why))


@pytest.mark.parametrize("json", [[], ["--json"]])
@pytest.mark.parametrize(
    ("why", "code", "said"), [(FULL, 1, lost(FULL)), (CLOSED, 1, lost(CLOSED)), (UNREAD, 0, "")], ids=str
)
def test_watching_ends_when_nobody_can_read_it(here, run_into, json, why, code, said):
    here.after(1, lambda: here.network.relay("kme-1", "kme-8"))
    result = run_into(here, why, "watch", *json)
    watching = "watching what the broker says the KMEs report, unverified; Ctrl-C stops\n"
    assert (result.code, result.out, result.err) == (code, "", f"{watching}{said}")


@pytest.mark.parametrize("why", [FULL, CLOSED, UNREAD])
@pytest.mark.parametrize("option", [[], ["--json"], ["--no-wait"]])
def test_a_confirmed_relay_is_confirmed(lab, run_into, why, option):
    result = run_into(lab, why, "relay", "kme-1", "kme-8", *option)
    assert (result.code, result.out, result.err) == (0, "", lost_all_the_same(why))
    lab.network.settle()
    assert lab.run("relays", "--json").data["relays"][0]["state"] == "confirmed"


@pytest.mark.parametrize("why", [FULL, CLOSED, UNREAD])
def test_a_failed_relay_has_failed(lab, run_into, why):
    lab.stop("kme-8")
    result = run_into(lab, why, "relay", "kme-1", "kme-8", "--timeout", "1", "--linger", "0")
    assert (result.code, result.err) == (1, lost(why))


def test_a_refused_relay_is_refused(lab, run_into):
    result = run_into(lab, FULL, "relay", "kme-1", "kme-9")
    assert result.code == 2
    assert result.err.startswith("error: there is no KME 'kme-9'")


@pytest.fixture
def many_descriptors():
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, 2_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@pytest.mark.parametrize("descriptor_min", [3, 1_500])
@pytest.mark.usefixtures("many_descriptors")
def test_a_pipe_that_does_not_block_is_waited_for(monkeypatch, descriptor_min):
    reader, low = os.pipe()
    writer = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, descriptor_min)
    os.close(low)
    os.set_blocking(writer, False)
    read = []
    waiting = threading.Thread(target=lambda: read.append(os.fdopen(reader).read()))
    with os.fdopen(writer, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        patched.setattr(sys, "__stdout__", stream)
        with standard_streams():
            waiting.start()
            print("x" * 1_000_000)
    waiting.join(30)
    assert len(read[0]) == 1_000_001
