"""Completion by the shell: what it offers, asked as bash asks, and without waiting for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkdrelay.network.topology_file import reference_topology, shipped_names
from qkdrelay.terminal.completion import whole_words
from support.commands import commands
from support.fuzzing import fuzzed

BIN = Path(sys.executable).parent
KMES = list(reference_topology().kmes)
SPLIT = re.compile(r"[:=]+|[^:=]+")
"""As bash takes words apart."""


@pytest.fixture(scope="module")
def scripts():
    """What `--install-completion` would write, for bash."""
    return {name: _said(name, f"_{name.upper()}_COMPLETE", "source_bash") for name in ("coordinator", "kme")}


def _said(name, variable, value):
    environment = {**os.environ, variable: value}
    done = subprocess.run([BIN / name], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def completed(scripts, tmp_path):
    """Return what bash offers for a line with the cursor at its end."""

    def completed(line):
        *before, last = line.split(" ")
        words = [part for word in before for part in SPLIT.findall(word)] + (SPLIT.findall(last) or [""])
        name = words[0]
        array = " ".join(f"'{word}'" for word in words)
        script = (
            f"{scripts[name]}\nCOMP_WORDS=({array}) COMP_CWORD={len(words) - 1}\n"
            f'_{name}_completion "{BIN / name}"\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        command = ["bash", "--norc", "-c", script]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return completed


@pytest.fixture
def deployed(tmp_path):
    (tmp_path / "deploy").mkdir()
    topology = Path(__file__).parents[3] / "infra" / "topologies" / "eight-kmes.toml"
    (tmp_path / "deploy" / "topology.toml").write_bytes(topology.read_bytes())
    (tmp_path / "deploy" / "saes.json").write_text('{"sae-1": {}, "sae-8": {}, "$(no sae)": {}}')


def wishes(*names):
    return [f"{name}={number}" for name in names for number in range(4)]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("coordinator dem", ["demo"]),
        ("coordinator dead-letters ", ["list", "show", "requeue", "drop"]),
        ("kme ", ["run", "keys", "forget", "try-device"]),
        ("kme keys --re", ["--reveal"]),
        ("coordinator relay --key", ["--keys", "--key-size"]),
        ("coordinator relay ", KMES),
        ("coordinator relay kme-1 ", KMES[1:]),
        ("coordinator link down kme-1 ", ["kme-2", "kme-3", "kme-4"]),
        ("coordinator lab compromise kme-4 --mode ", ["leak", "tamper", "withhold"]),
        ("coordinator lab attack 3f2a --kme kme-4,kme-", [f"kme-4,{kme}" for kme in KMES if kme != "kme-4"]),
        ("coordinator plan --policy=", ["best", "disjoint", "recursive", "trusted"]),
        ("coordinator plan --topology ns", ["nsfnet"]),
        ("coordinator plan --topology=ns", ["nsfnet"]),
        ("coordinator plan --topology nsfnet pa", ["palo-alto"]),
        ("coordinator plan --topology=nsfnet pa", ["palo-alto"]),
        ("coordinator analyse --failed kme-7,kme-8,kme-", [f"kme-7,kme-8,{kme}" for kme in KMES[:6]]),
        # Of a word that bash takes apart, its last part.
        ("coordinator analyse kme-1 kme-8 --cut kme-1:", ["kme-2", "kme-3", "kme-4"]),
        ("coordinator analyse --cut kme-1:kme-2,kme-8:", ["kme-5", "kme-6", "kme-7"]),
        ("coordinator analyse --cut=kme-8:kme-", ["kme-5", "kme-6", "kme-7"]),
        ("coordinator relay --withstand ", wishes("compromised", "failed", "tampering")),
        ("coordinator relay --withstand compromised=1,f", [f"1,{wish}" for wish in wishes("failed")]),
        ("coordinator relay --withstand compromised=1,failed=", ["0", "1", "2", "3"]),
        ("coordinator saes remove ", ["sae-1", "sae-8"]),
        ("coordinator saes add sae-5 ", KMES),
        ("coordinator saes add sae-5 kme-5 --pair sae-1,s", ["sae-1,sae-8"]),
        ("coordinator provision ", ["mine.toml", *shipped_names()]),
    ],
)
def test_what_is_offered(completed, deployed, tmp_path, line, offered):
    (tmp_path / "mine.toml").touch()
    assert sorted(completed(line)) == sorted(offered)


@pytest.mark.parametrize("said", [None, "kmes = [", b"\xff\xfe", "a pipe"])
def test_without_a_network_nothing_is_offered_and_nothing_said(completed, tmp_path, said):
    file = tmp_path / "deploy" / "topology.toml"
    file.parent.mkdir()
    if said == "a pipe":
        os.mkfifo(file)
    elif said is not None:
        file.write_bytes(said.encode() if isinstance(said, str) else said)
        (tmp_path / "deploy" / "saes.json").write_bytes(file.read_bytes())
    assert completed("coordinator relay ") == []
    assert completed("coordinator saes remove ") == []


def test_each_value_that_has_names_is_completed():
    named = {
        "source",
        "target",
        "a",
        "b",
        "kme",
        "compromised",
        "failed",
        "cut",
        "withstand",
        "topology",
        "sae",
        "pair",
    }
    params = [(" ".join(words), param) for words, command in commands() for param in command.params]
    found = [(words, param) for words, param in params if param.name in named]
    assert {param.name for _, param in found} == named
    assert [(words, param.name) for words, param in found if param._custom_shell_complete is None] == []


@pytest.mark.parametrize("home", ["home", "nowhere/readable"])
def test_it_is_installed_where_the_shell_looks_or_refused_in_one_line(tmp_path, home):
    if home == "home":
        (tmp_path / "home").mkdir()
    else:
        (tmp_path / "nowhere").touch()
    # The shell that asks is the one it is for.
    done = subprocess.run(
        ["bash", "-c", f'"{BIN / "coordinator"}" --install-completion; exit $?'],
        env={**os.environ, "HOME": str(tmp_path / home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if home == "home":
        script = tmp_path / "home" / ".bash_completions" / "coordinator.sh"
        assert (done.returncode, done.stderr) == (0, "")
        assert str(script) in (tmp_path / "home" / ".bashrc").read_text()
        assert "complete -o default -F _coordinator_completion coordinator" in script.read_text()
    else:
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(r"error: .*nowhere.*: .+\n", done.stderr)


@pytest.mark.parametrize(
    ("name", "package", "words", "offered"),
    [("coordinator", "qkdrelay_cli", "\nrelay\n", KMES), ("kme", "kme", "\n", ["run", "keys", "forget", "try-device"])],
)
def test_completing_loads_neither_broker_nor_solver(deployed, tmp_path, name, package, words, offered):
    environment = {**os.environ, f"_{name.upper()}_COMPLETE": "complete_bash", "COMP_WORDS": name + words}
    script = f"import sys, {package}.__main__ as it\nsys.argv = ['{name}']\n"
    script += "try:\n    it.main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**environment, "COMP_CWORD": str(words.count("\n"))},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == offered
    heavy = {"pika", "structlog", "msgspec", "numpy", "scipy", "sqlite3", "qkdrelay_cli.settings", "kme.settings"}
    assert heavy & set(done.stderr.split()) == set()


@fuzzed(200)
@given(st.lists(st.from_regex(r"[a-z,.-]([a-z:=]*[a-z,-])?|", fullmatch=True), max_size=6))
def test_words_that_bash_took_apart_are_put_together(words):
    line = ["coordinator", *words]
    apart = [part for word in line for part in SPLIT.findall(word) or [""]]
    assert whole_words(apart) == line
