"""The figures and sessions in the documents are what the commands beside them make."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
COMMANDS = DOCUMENTS[ROOT / "docs" / "commands.md"]
FIGURE = re.compile(
    r"```\n(?P<command>coordinator (?:[^`]|\\\n)*--svg (?P<file>\S+))\n```\n\n!\[[^\]]+\]\((?P<shown>[^)]+)\)"
)
FIGURES = [(path, figure) for path, text in DOCUMENTS.items() for figure in FIGURE.finditer(text)]
SESSION = re.compile(r"^```\n(\$ coordinator .*?)^```$", re.DOTALL | re.MULTILINE)
SCREENSHOTS = ("page-relay.png", "page-attention.png")
"""Made by `make screenshots`."""
VARIES = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|in \d+\.\d+ s")
"""Ids, and how long it took."""


@pytest.mark.parametrize(("document", "figure"), FIGURES, ids=lambda it: it["file"] if isinstance(it, re.Match) else "")
def test_a_figure_is_made_by_the_command_above_it(run, tmp_path, document, figure):
    assert ROOT / figure["file"] == document.parent / figure["shown"]
    (tmp_path / "docs").mkdir()
    program, *arguments = shlex.split(figure["command"].replace("\\\n", " "))
    assert (program, run(*arguments).code) == ("coordinator", 0)
    made = (tmp_path / figure["file"]).read_text(encoding="utf-8")
    assert made == (ROOT / figure["file"]).read_text(encoding="utf-8"), f"make it anew: {figure['command']}"


def test_there_are_three_such_figures_and_no_others_but_those_that_other_tests_check():
    made = {ROOT / figure["file"] for _, figure in FIGURES}
    shown = {
        document.parent / target
        for document, text in DOCUMENTS.items()
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
        if "performance/" not in target
    }
    assert len(made) == 3
    assert shown - made == {ROOT / "docs" / name for name in ("reference-network.svg", "rooms.svg", *SCREENSHOTS)}
    assert {path for kind in ("svg", "png") for path in (ROOT / "docs").glob(f"*.{kind}")} == shown


@pytest.mark.parametrize("page", ["README.md", "docs/commands.md"])
def test_a_session_goes_as_it_is_shown(here, monkeypatch, page):
    """Ids and times apart: each command of the page, on one network, in order."""
    shown = SESSION.findall(DOCUMENTS[ROOT / page])
    assert len(shown) >= 2
    monkeypatch.chdir(ROOT)
    latest = ""
    for block in shown:
        for command, output in re.findall(r"^\$ coordinator (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            words = [
                latest[: len(word)] if re.fullmatch("[0-9a-f]{4,}", word) else word for word in shlex.split(command)
            ]
            result = here.run(*words)
            here.network.settle()
            ids = re.findall(r"(?m)^(?:relay +)?([0-9a-f]{8}-\S+)$", result.out)
            latest = ids[0] if ids else latest
            assert result.code == 0
            assert VARIES.sub("..", result.out).split() == VARIES.sub("..", output).split(), command


def test_what_is_said_of_nsfnet_is_what_is_found(run):
    command = ("analyse", "--all-pairs", "--topology", "nsfnet", "--json")
    rule, best = (run(*command, *policy).data for policy in (("--policy", "recursive"), ()))
    said = re.search(
        r"of (\d+) % of the pairs.*?block (\d+) %.*?no KME learns any.*?blocks the (\d+) %", COMMANDS, re.DOTALL
    )
    found = (rule["learned_by_one"], rule["blocked_by_one"], best["blocked_by_one"])
    assert [int(number) for number in said.groups()] == [round(100 * n / rule["between"]) for n in found]
    assert best["learned_by_one"] == 0


@pytest.mark.parametrize("file", sorted((ROOT / "docs").glob("*.svg")), ids=lambda file: file.stem)
def test_figures_can_be_seen_on_a_dark_page(file):
    root = ET.parse(file).getroot()
    background = root.find("{http://www.w3.org/2000/svg}rect")
    assert [background.get(name) for name in ("x", "y", "fill")] == [None, None, "#ffffff"]
    assert [background.get(name) for name in ("width", "height")] == [root.get(name) for name in ("width", "height")]
