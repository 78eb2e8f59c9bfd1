"""Every command that the README and the documents show is one that exists, with these options, and as typed."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from coordinator.settings import CoordinatorSettings
from kme.__main__ import app as kme
from kme.settings import KmeSettings
from qkdrelay.network.names import CLI
from qkdrelay.network.topology_file import reference_topology
from qkdrelay.service.settings import PREFIX
from qkdrelay_cli import app as coordinator
from qkdrelay_cli.settings import CliSettings
from qkdrelay_deployment.compose import CLUSTER_SERVICES
from qkdrelay_page.settings import PageSettings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
OURS = {"coordinator": typer.main.get_command(coordinator), "kme": typer.main.get_command(kme)}
SERVICES = {"coordinator", "page", CLI, *CLUSTER_SERVICES, *reference_topology().kmes, "SERVICE"}
COMPOSE = {"down", "exec", "logs", "restart", "ps", "stop", "run", "start", "up"}
UNIX = {"grep", "sed", "sort", "git", "tar", "sh", "umask", ".", "rabbitmqctl", "until", "do", "sleep", "done"}
UNIX |= {"cd", "curl", "rm"}
FIRST = re.compile(r"\$ |make |coordinator |kme |docker|infra/|sed |git |\.venv/|\. |\(umask|[A-Z_]+=\S+ make")


def unfenced(text: str) -> str:
    return re.sub(r"^```\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def blocks(text: str) -> Iterator[list[str]]:
    """The lines of each block of code, fenced or indented, with lines that go on put together."""
    fenced = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    indented = re.findall(
        r"(?:^    .*\n)+", re.sub(r"^```\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    for block in (*fenced, *(re.sub("^    ", "", lines, flags=re.MULTILINE) for lines in indented)):
        yield block.replace("\\\n", " ").splitlines()


def shown(text: str) -> Iterator[str]:
    """Every command line that a document shows, in a block or within a line."""
    for lines in blocks(text):
        prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        yield from prompted or [line for line in lines if lines and FIRST.match(lines[0])]
    for code in re.findall(r"`([^`\n]+)`", unfenced(text)):
        if FIRST.match(code) and code not in ("docker", "docker compose"):
            yield code


def simple(line: str) -> Iterator[list[str]]:
    """The simple commands of a line: between pipes and the like."""
    # Of "down\\|up" in a table the first will do; what is redirected is no command.
    lexer = shlex.shlex(re.sub(r"\\\|\w+|[<>] *[\w./-]+", "", line), posix=True, punctuation_chars=True)
    lexer.wordchars += "$*:"
    words: list[str] = []
    for word in lexer:
        if word in ("|", "&&", ";", "(", ")"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def check_ours(words: list[str]) -> None:
    command: Any = OURS[words[0].rpartition("/")[2]]
    options: set[str] = set()
    for word in words[1:]:
        subcommands: dict[str, Any] = getattr(command, "commands", {})
        if word.startswith("--"):
            options.add(word.partition("=")[0])
        elif subcommands:
            assert word in subcommands or word == "...", f"no command {word!r}"
            command = subcommands.get(word, command)
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert options <= known | {"--help", "--install-completion", "--show-completion"}, options - known


def check_compose(words: list[str]) -> None:
    assert words[0] in COMPOSE, words[0]
    if words[0] in ("exec", "run"):
        service, *command = (word for word in words[1:] if word not in ("-T", "--rm", "--no-deps"))
        assert service in SERVICES, service
        check(["coordinator", *command] if service == CLI else command)


def check(words: list[str], *, engine: bool = False, at_a_site: bool = False) -> None:
    """``at_a_site`` there is no source tree, and compose is run in the folder of the bundle."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if not words:
        return
    first, *rest = words
    if first == "make":
        targets = [word for word in rest if "=" not in word and word not in ("alone",)]
        assert set(targets) <= set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE)), targets
        variables = {word.partition("=")[0] for word in rest if "=" in word}
        assert variables <= {*re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.MULTILINE), "RABBITMQ_IMAGE"}, variables
    elif first.rpartition("/")[2] in OURS:
        check_ours(words)
    elif first == ".venv/bin/pytest":
        assert all((ROOT / word).exists() for word in rest if not word.startswith("-")), rest
    elif first.startswith("infra/"):
        assert os.access(ROOT / first, os.X_OK), first
        if first.endswith("with-engine.sh"):
            check(rest, engine=True)
        elif first.endswith("compose.sh") and rest:
            check_compose(rest)
    elif at_a_site and words[:2] == ["docker", "compose"]:
        check_compose(words[2:])
    else:
        assert first in UNIX or (engine and first == "docker"), f"{first!r} is not there on every machine"


def check_line(line: str, *, at_a_site: bool = False) -> None:
    for words in simple(line):
        check(words, at_a_site=at_a_site)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_a_document_shows_exists(document: Path) -> None:
    for line in shown(document.read_text()):
        try:
            check_line(line, at_a_site=document.name == "sites.md")
        except (AssertionError, ValueError) as error:
            pytest.fail(f"{line!r}: {error}")


def test_every_command_and_setting_that_exists_is_in_the_reference() -> None:
    commands, settings = ((ROOT / "docs" / f"{page}.md").read_text() for page in ("commands", "deploying"))
    for program, command in OURS.items():
        groups: dict[str, Any] = getattr(command, "commands", {})
        listed = set(re.findall(rf"^\| `{program} ([a-z-]+)", commands, re.MULTILINE))
        assert listed == {name for name, group in groups.items() if not group.hidden}
    fields = {
        f"{PREFIX}{name.upper()}"
        for kind in (KmeSettings, CoordinatorSettings, CliSettings, PageSettings)
        for name in kind.model_fields
    }
    assert set(re.findall(r"`(QKDRELAY_[A-Z0-9_]+)`", settings)) == fields


def test_commands_are_found_in_the_documents() -> None:
    found = {path.name: len(list(shown(path.read_text()))) for path in DOCUMENTS}
    assert found["README.md"] > 10
    assert found["commands.md"] > 30
    assert found["deploying.md"] > 5
    assert found["operating.md"] > 40
    assert found["broker.md"] > 10


@pytest.mark.parametrize(
    "line",
    [
        *("docker compose exec kme-8 kme keys", "infra/docker/compose.sh ps | docker ps", "infra/none.sh"),
        *("infra/docker/compose.sh exec kme-9 kme keys", "infra/docker/compose.sh exec kme-8 kme nothing"),
        *("make nothing", "make up NOTHING=1", "coordinator relay --nothing", "coordinator link sideways"),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        check_line(line)
