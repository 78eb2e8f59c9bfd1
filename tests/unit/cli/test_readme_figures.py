"""The figures in the README are what the commands beside them make."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURE = re.compile(
    r"```\n(?P<command>coordinator (?:[^`]|\\\n)*--svg (?P<file>\S+))\n```\n\n!\[[^\]]+\]\((?P<shown>[^)]+)\)"
)


@pytest.mark.parametrize("figure", list(FIGURE.finditer(README)), ids=lambda figure: figure["file"])
def test_a_figure_is_made_by_the_command_above_it(run, tmp_path, figure):
    assert figure["file"] == figure["shown"]
    (tmp_path / "docs").mkdir()
    program, *arguments = shlex.split(figure["command"].replace("\\\n", " "))
    assert (program, run(*arguments).code) == ("coordinator", 0)
    made = (tmp_path / figure["file"]).read_text(encoding="utf-8")
    assert made == (ROOT / figure["shown"]).read_text(encoding="utf-8"), f"make it anew: {figure['command']}"


def test_there_are_two_such_figures_and_no_others_but_the_one_at_the_top():
    made = {figure["shown"] for figure in FIGURE.finditer(README)}
    shown = set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README))
    assert len(made) == 2
    assert shown - made == {"docs/reference-network.svg"}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.svg")} == shown


def test_what_the_readme_says_of_nsfnet_is_what_is_found(run):
    command = ("analyse", "--all-pairs", "--topology", "nsfnet", "--json")
    rule, best = (run(*command, *policy).data for policy in (("--policy", "recursive"), ()))
    said = re.search(
        r"of (\d+) % of the pairs.*?block (\d+) %.*?no KME learns any.*?blocks the (\d+) %", README, re.DOTALL
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
