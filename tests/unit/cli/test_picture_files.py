"""`--svg FILE` and `--png FILE`, the same wherever there is a picture."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from qkdrelay_pictures.page import page, text
from qkdrelay_pictures.png import PIXELS_MAX, as_png

REFERENCE = ("--topology", str(Path(__file__).parents[3] / "infra" / "topologies" / "eight-kmes.toml"))
COMMANDS = [
    pytest.param(("plan", "kme-1", "kme-8", *REFERENCE), id="plan"),
    pytest.param(("analyse", "kme-1", "kme-8", *REFERENCE), id="analyse"),
    pytest.param(("analyse", "--all-pairs", *REFERENCE), id="all-pairs"),
]


def size_of(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[-8:-4] == b"IEND"
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize("command", COMMANDS)
def test_both_files_hold_the_same_picture(run, tmp_path, command):
    assert run(*command, "--svg", "a.svg", "--png", "a.PNG", "--json").code == 0
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert (tmp_path / "a.PNG").read_bytes() == as_png(svg)
    width, height = map(int, re.findall(r'(?:width|height)="(\d+)"', svg)[:2])
    assert size_of(as_png(svg)) == (2 * width, 2 * height)
    assert run(*command, "--svg", "again.svg").code == 0
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == svg


def test_a_png_shows_its_text_in_a_font_of_its_own():
    def picture(what, *, bold=False):
        return as_png(page("", 200, 40, [text(what, 100, 25, bold=bold)]))

    shown = {picture(""), picture("kme-1"), picture("kme-2"), picture("kme-1", bold=True), picture("Zürich, Łódź")}
    assert len(shown) == 5


def test_a_png_has_at_most_so_many_pixels():
    width, height = size_of(as_png(page("", 40_000, 8_000, [])))
    assert PIXELS_MAX * 0.99 < width * height < PIXELS_MAX * 1.01


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--svg", "nowhere/a.svg"), "nowhere/a.svg: cannot be written: there is no directory nowhere"),
        (("--png", "nowhere/a.png"), "nowhere/a.png: cannot be written: there is no directory nowhere"),
        (("--svg", "file/a.svg"), "file/a.svg: cannot be written: there is no directory file"),
        (("--svg", "folder.svg"), "folder.svg: cannot be written: it is a directory"),
        (("--png", "folder.png"), "folder.png: cannot be written: it is a directory"),
        (("--svg", "a.png"), "--svg a.png: the name does not end in .svg"),
        (("--png", "a.svg"), "--png a.svg: the name does not end in .png"),
        (("--png", "a"), "--png a: the name does not end in .png"),
        (("--svg", f"{'a' * 300}.svg"), "File name too long"),
        (("--svg", "a.svg", "--png", "nowhere/a.png"), "nowhere/a.png: cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written(run, tmp_path, command, arguments, error):
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    result = run(*command, *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert error in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png", "folder.svg"]
