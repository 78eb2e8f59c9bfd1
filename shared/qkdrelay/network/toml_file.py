"""Files of TOML: written, and read with errors that name the line, which the parser does not say of what it parsed."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

from qkdrelay.errors import TopologyError
from qkdrelay.escaping import escaped

_TOKEN = re.compile(r"""#[^\n]*|\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\])*"|'[^']*'|\S""", re.DOTALL)
"""A comment, a text or a sign: enough to count the elements of lists."""

_PART = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""")
_KEY = re.compile(
    rf"(?P<header>\[{{1,2}})?[ \t]*(?P<key>(?:{_PART.pattern})(?:[ \t]*\.[ \t]*(?:{_PART.pattern}))*)[ \t]*[=\]]"
)
"""A table's header, or an entry's key, where it begins."""
_PARTS_MAX, _WORDS_MAX = 32, 300
_DEEP_KEY = re.compile(rf"""(?<![\w"'.-])(?:[\w"'-]{{1,200}}[ \t]*\.[ \t]*){{{_PARTS_MAX}}}""")


@dataclass(frozen=True, slots=True)
class TomlFile:
    """The text of a file that is valid TOML, to tell where in it something stands: the parser does not say."""

    where: str
    text: str

    def at(self, entry: str, table: str | None = None) -> str:
        """Return where the last entry or table of this name stands; with ``table``, inside that one."""
        name = re.escape(entry)
        header = rf"""^[ \t]*\[{{1,2}}[ \t]*["']?{name}["']?[ \t]*\]"""
        written = rf"""^[^#]*?(?<![\w-]){name}["']?[ \t]*[=.]"""
        headers: list[int] = []
        lines: list[int] = []
        inside = table is None
        for number, line in enumerate(self.text.splitlines(), 1):
            if table is not None and line.lstrip().startswith("["):
                inside = line.strip(" \t[]\"'").startswith(table)
            elif inside and re.search(header, line):
                headers.append(number)
            elif inside and re.search(written, line):
                lines.append(number)
        found = headers or lines
        return f"{self.where}:{found[-1]}" if found else self.where

    def place(self, *path: str) -> str:
        """Return where the entry of this path begins; of one inside an inline table, where that is written."""
        keys = list(self._keys())
        for depth in range(len(path), 0, -1):
            for line, found in keys:
                if found[:depth] == path[:depth]:
                    return f"{self.where}:{line}"
        return self.where

    def _keys(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yield line and path of all tables and entries but those of inline tables."""
        table: tuple[str, ...] = ()
        line, counted, depth, taken = 1, 0, 0, 0
        for token in _TOKEN.finditer(self.text):
            line, counted = line + self.text.count("\n", counted, token.start()), token.start()
            if depth == 0 and line > taken and (found := _KEY.match(self.text, token.start())) is not None:
                parts = tuple(_part(part[0]) for part in _PART.finditer(found["key"]))
                table = parts if found["header"] else table
                yield line, parts if found["header"] else table + parts
            taken = line + token[0].count("\n")
            depth += (token[0] in ("[", "{")) - (token[0] in ("]", "}"))

    def elements(self, entry: str, count: int) -> list[str]:
        """Return where each of the ``count`` elements of a list stands."""
        opening = re.search(rf"(?m)^[^#\n]*?(?<![\w-]){entry}[\"']?[ \t]*=[ \t]*\[", self.text)
        places, line, seen, depth, between = [], 1, 0, 1, True
        for token in _TOKEN.finditer(self.text, opening.end()) if opening else ():
            text = token[0]
            if text.startswith("#"):
                continue
            if depth == 1 and text in (",", "]"):
                between = True
            elif between:
                line, seen, between = line + self.text.count("\n", seen, token.start()), token.start(), False
                places.append(f"{self.where}:{line}")
            depth += (text in ("[", "{")) - (text in ("]", "}"))
            if depth == 0:
                break
        return places if len(places) == count else [self.at(entry)] * count


def _part(written: str) -> str:
    """Return a part of a key, which may stand in quotes."""
    if written.startswith('"'):
        return str(tomllib.loads(f"x = {written}")["x"])
    return written.strip("'")


def read_text(path: Path, bytes_max: int) -> str:
    """Return a file's text, of at most ``bytes_max`` bytes. Raises TopologyError, or FileNotFoundError."""
    try:
        if not S_ISREG(path.stat().st_mode):  # a pipe may never end, and a device has no size
            raise TopologyError(f"{path}: cannot be read: it is {'a directory' if path.is_dir() else 'no file'}")
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
        if len(data) > bytes_max:
            raise TopologyError(f"{path}: larger than {bytes_max} bytes")
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise TopologyError(f"{path}: cannot be read: {reason}") from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return what the text says. Raises TopologyError."""
    if (deep := _DEEP_KEY.search(text)) is not None:  # the parser takes time by the square of a key's parts
        line = 1 + text.count("\n", 0, deep.start())
        raise TopologyError(f"{where}:{line}: a key of more than {_PARTS_MAX} parts")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number too long, lists too deep
        reason = (
            "a number has too many digits" if "int_max_str_digits" in str(error) else escaped(str(error), _WORDS_MAX)
        )
        raise TopologyError(f"{where}: not valid TOML: {reason}") from None


def toml_text(value: object) -> str:
    """Return as TOML a text, a number, a truth value, a list of these, or a table, whose names need no quotes."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {toml_text(each)}' for name, each in value.items())} }}"
    return escaped(json.dumps(value, ensure_ascii=False), None)


def did_you_mean(name: str, names: tuple[str, ...] | list[str]) -> str:
    """Return a hint for a name that is none of ``names``: the nearest of them, or what there is."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return (
        f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
    )
