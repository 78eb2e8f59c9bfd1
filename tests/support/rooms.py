"""The rooms of the house as a picture (docs/rooms.svg), made from the import rules in pyproject.toml.

Make it anew: PYTHONPATH=tests .venv/bin/python -m support.rooms
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from qkdrelay_pictures.page import GREY, INK, PALE, page, text

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "rooms.svg"
SHARED = "qkdrelay"
WIDTH, EDGE, GAP, INSET, LINE = 860.0, 24.0, 10.0, 16.0, 14.0
"""Of the picture and its margin; between rooms, and between the shared ones and their frame; of a line of text."""


class Floor(NamedTuple):
    """Rooms side by side; if they are ``open``, they may import each other."""

    rooms: tuple[str, ...]
    open: bool


class Rules(NamedTuple):
    """What pyproject.toml says of who may import whom: the highest floors first, and remarks on rooms."""

    services: tuple[Floor, ...]
    shared: tuple[Floor, ...]
    remarks: dict[str, list[str]]


def rules() -> Rules:
    """Read the rules; each room goes by its import name."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    roots = set(linter["root_packages"])
    above, within, remarks = (), (), defaultdict(list)
    for contract in linter["contracts"]:
        if contract.get("containers", ()) == [SHARED]:
            within = tuple(_floor(layer, f"{SHARED}.") for layer in contract["layers"])
        elif contract["type"] == "layers" and "containers" not in contract:
            above = tuple(_floor(layer, "") for layer in contract["layers"] if layer != SHARED)
        elif contract["type"] == "protected":
            for module in contract["protected_modules"]:
                for importer in contract["allowed_importers"]:
                    if module in roots:
                        remarks[module].append(f"for {importer.partition('.')[2]} alone")
                    else:
                        remarks[_room(importer)].append(f"{module} is imported in {importer.rpartition('.')[2]} alone")
    return Rules(above, within, remarks)


def _floor(layer: str, prefix: str) -> Floor:
    rooms = tuple(f"{prefix}{name.strip()}" for name in re.split("[|:]", layer))
    return Floor(rooms, open=":" in layer)


def _room(module: str) -> str:
    return ".".join(module.split(".")[: 2 if module.startswith(f"{SHARED}.") else 1])


def folder(room: str) -> Path:
    """Return where a room is: a folder, or a module."""
    path = ROOT / ("shared" if room.startswith(f"{SHARED}.") else "services") / room.replace(".", "/")
    return path if path.is_dir() else path.with_suffix(".py")


def drawn() -> str:
    """Return the picture: who is higher may import what is lower."""
    services, shared, remarks = rules()
    body = [text("services/", EDGE, EDGE + 6.0, GREY, anchor="start")]
    y = EDGE + 16.0
    for floor in services:
        body += _row(floor, EDGE, y, WIDTH - 2 * EDGE, remarks)
        y += _height(floor, remarks) + GAP
    y += 24.0
    body.append(text(f"shared/{SHARED}/", EDGE, y - 8.0, GREY, anchor="start"))
    top = y
    y += INSET
    for floor in shared:
        body += _row(floor, EDGE + INSET, y, WIDTH - 2 * (EDGE + INSET), remarks)
        y += _height(floor, remarks) + GAP
    y += INSET - GAP
    body.append(_box(EDGE, top, WIDTH - 2 * EDGE, y - top, fill="none", stroke=PALE))
    y += 24.0
    rule = "A room may import those below it, and one beside it only where the boxes touch."
    body.append(text(rule, EDGE, y, anchor="start"))
    return page("The rooms, and what they may import", WIDTH, y + EDGE - 6.0, body)


def _row(floor: Floor, x: float, y: float, width: float, remarks: Mapping[str, list[str]]) -> Iterator[str]:
    between = 0.0 if floor.open else GAP
    each = (width - between * (len(floor.rooms) - 1)) / len(floor.rooms)
    for number, room in enumerate(floor.rooms):
        left = x + number * (each + between)
        yield _box(left, y, each, _height(floor, remarks), fill="#f4f6f9", stroke=GREY)
        yield text(room.rpartition(".")[2], left + each / 2, y + 19.0, INK, size=14, bold=True)
        for line, said in enumerate((_what(room), *remarks.get(room, ())), 1):
            yield text(said, left + each / 2, y + 20.0 + line * LINE, GREY, size=11)


def _height(floor: Floor, remarks: Mapping[str, list[str]]) -> float:
    return 28.0 + LINE * max(1 + len(remarks.get(room, ())) for room in floor.rooms)


def _what(room: str) -> str:
    """Return what a room is, in a few words: those that its docstring begins with."""
    path = folder(room)
    docstring = ast.get_docstring(ast.parse((path if path.is_file() else path / "__init__.py").read_text()))
    return re.split(r"[:;.]", docstring or "", maxsplit=1)[0]


def _box(x: float, y: float, width: float, height: float, *, fill: str, stroke: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} rx="3" fill="{fill}" stroke="{stroke}"/>'


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
