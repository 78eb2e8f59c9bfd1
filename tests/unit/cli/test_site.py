"""`coordinator site`: the walk as docs/site-begun-by-its-operator.md shows it, and what is typed wrongly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qkdrelay.service import dotenv_file
from support.operators import SHARED, TOPOLOGY

PAGE = (Path(__file__).parents[3] / "docs" / "site-begun-by-its-operator.md").read_text()
SHOWN = re.compile(r"^At (\w+)[^\n]*:\n\n```\n(\$ coordinator .*?)^```$", re.DOTALL | re.MULTILINE)
VARIES = re.compile(r"[0-9a-f]{64}")


def test_the_walk_goes_as_it_is_shown(run, tmp_path, monkeypatch):
    """Fingerprints apart: each command of the page, in order, in the folder of whom the heading names."""
    file = re.search(r"^```\n(name = .*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[1]
    tried = 0
    for who, block in SHOWN.findall(PAGE):
        folder = tmp_path / who
        folder.mkdir(exist_ok=True)
        (folder / "two-cities.toml").write_text(file)
        for sent in (
            *(tmp_path.glob("*/*.request") if who == "hq" else ()),
            *tmp_path.glob(f"hq/{who}.signed"),
            *tmp_path.glob(f"*/*-to-{who}.offer"),
        ):
            if sent.parent != folder:
                (folder / sent.name).write_bytes(sent.read_bytes())
        monkeypatch.chdir(folder)
        for command, output in re.findall(r"^\$ coordinator (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            result = run(*command.split())
            said = " ".join((result.out + result.err).split())
            if output.endswith("...\n"):
                assert result.out.startswith(output.removesuffix("...\n")), command
            else:
                assert VARIES.sub("..", said) == VARIES.sub("..", " ".join(output.split())), command
            tried += 1
    assert tried >= 9
    berlin, munich = (dotenv_file.read(tmp_path / who / who / ".env") for who in ("berlin", "munich"))
    assert berlin["LINK_SECRET_KME_1__KME_2"] == munich["LINK_SECRET_KME_1__KME_2"]
    for who in ("berlin", "munich"):
        assert (tmp_path / who / who / "docker-compose.yml").is_file()


@pytest.fixture
def cities(tmp_path):
    (tmp_path / "cities.toml").write_text(TOPOLOGY)
    return ("--topology", "cities.toml")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("site", "init", "paris", "--topology", "cities.toml"), "there is no site 'paris'"),
        (("site", "init", "berlin"), "--topology"),
        (("site", "init", "berlin", "--topology", "none.toml"), "no such file"),
        (("site", "sign", "none.request", "--topology", "cities.toml"), "none.request: No such file"),
        (("site", "sign", "cities.toml", "--topology", "cities.toml"), "cities.toml is not a site's request"),
        (("site", "sign", ".", "--topology", "cities.toml"), "Is a directory"),
        (("site", "accept", "none.signed"), "none.signed: No such file"),
        (("site", "accept", "cities.toml"), "cities.toml is not the authority's answer"),
        (("site", "offer", "munich"), "no site in . has certificates yet"),
        (("site", "offer", "munich", "--site", "berlin"), "site berlin in . has no certificates yet"),
        (("site", "take", "cities.toml"), "cities.toml is not another site's offer"),
        (("provision", "cities.toml", "--site", "paris"), "there is no site 'paris'"),
        (("provision", "cities.toml", "--site", "berlin"), "site berlin is not complete"),
        (("provision", "cities.toml", "--site", "berlin", "--sites"), "--site does not go with --sites"),
        (("provision", "cities.toml", "--site", "berlin", "--tls"), "--tls does not go with --site"),
        (("provision", "cities.toml", "--site", "berlin", "--cluster"), "--cluster does not go with --site"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(run, cities, tmp_path, words, why):
    result = run(*words)
    assert (result.code, result.out) == (2, "")
    assert why in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["cities.toml"]


def test_no_secret_is_on_the_screen(run, cities, tmp_path):
    said = ""

    def called(*words):
        nonlocal said
        result = run("site", *words)
        assert result.code == 0, result.err
        said += result.out + result.err

    for site in ("berlin", "munich"):
        called("init", site, *cities, "--out", site)
    for site in ("berlin", "munich", "berlin"):
        called("sign", f"{site}/{site}.request", *cities, "--out", "hq")
    for site in ("berlin", "munich"):
        called("accept", f"hq/{site}.signed", "--out", site)
    called("offer", "munich", "--out", "berlin")
    for again in ("", "has already"):
        called("take", "berlin/berlin-to-munich.offer", "--out", "munich")
        assert again in said
    (tmp_path / "berlin/berlin/.env").unlink()
    called("offer", "munich", "--out", "berlin")
    refused = run("site", "take", "berlin/berlin-to-munich.offer", "--out", "munich")
    assert (refused.code, refused.out) == (2, "")
    assert "hint: --replace" in refused.err
    for site in ("berlin", "munich"):
        values = dotenv_file.read(tmp_path / site / site / ".env")
        assert all(values[name] not in said + refused.err for name in SHARED["berlin", "munich"])
    assert "BEGIN" not in said
