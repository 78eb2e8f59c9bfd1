"""``.env``: settings and secrets of a deployment, read by compose, by `coordinator` and by scripts of ours.

Each version of compose reads such a file in its own way where a line is more than a name and a plain or quoted value
(variables within values, escapes, comments behind them, several lines). Such a line is refused, so that all readers
find the same in what is left.
"""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from qkdrelay.errors import SettingsError
from qkdrelay.service.settings import PREFIX

_HINT: Final = "NAME='VALUE' on one line takes all of printable ASCII but ' and \\ and ${"
SIZE_MAX: Final = 1 << 20
"""Bytes of a file; the largest network's is about 150 KiB."""

_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_BARE_SIGNS = re.compile(r"""["'`$#\\]""")
_QUOTED_SIGNS = {"'": re.compile(r"'|\\|\$\{"), '"': re.compile(r'["\\$]')}


def read(path: Path) -> dict[str, str]:
    """Return what ``path`` sets, in its order; nothing if there is no such file.

    Raises SettingsError, naming line and variable, for what versions of compose read differently; OSError.
    """
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_MAX + 1)
    except FileNotFoundError:
        return {}
    if len(content) > SIZE_MAX:
        raise SettingsError(f"{path}: cannot be read: it is larger than {SIZE_MAX} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: cannot be read: it is not UTF-8 text") from None
    first_line: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if (name := _checked(line, f"{path} line {number}")) is None:
            continue
        if (first := first_line.setdefault(name, number)) != number:
            raise SettingsError(f"{path} line {number}: {name} stands in line {first} already", hint="delete one")
    found = dotenv_values(stream=StringIO(text), interpolate=False)
    return {name: value or "" for name, value in found.items()}


def assignment(name: str, value: str) -> str:
    """Return the line that sets ``name``, in quotes where it needs them; SettingsError if no line can."""
    bare = () if " " in value or value.startswith(("'", '"')) else ("",)
    for quote in (*bare, '"', "'"):
        if _fault(written := f"{quote}{value}{quote}") is None:
            return f"{name}={written}"
    raise SettingsError(f"{name}: its value cannot be kept in .env", hint=_HINT)


def _checked(line: str, at: str) -> str | None:
    """Return the name that a line sets, None if it is blank or a comment; SettingsError if readers would differ."""
    if line.startswith("\ufeff"):
        raise SettingsError(f"{at}: begins with a byte order mark", hint="save the file without one")
    if "\r" in line:
        raise SettingsError(f"{at}: ends as lines do in Windows", hint="sed -i 's/\\r$//' .env")
    if line.strip(" \t")[:1] in ("", "#"):
        return None
    if not (found := _NAME.match(line)):
        raise SettingsError(
            f"{at}: is no NAME=VALUE",
            hint="a name at the begin of the line, no blank before or behind =, no export; comments begin with #",
        )
    name = found[1]
    if name.upper().startswith(PREFIX) and name != name.upper():
        raise SettingsError(f"{at}: {name} is not in capital letters", hint=f"{name.upper()}=...")
    if fault := _fault(line[found.end() :]):
        raise SettingsError(f"{at}: {name}: {fault}, which versions of compose read differently", hint=_HINT)
    return name


def _fault(written: str) -> str | None:
    """Return what versions of compose read differently in a value as it is written, None if nothing."""
    quote = written[:1]
    if signs := _QUOTED_SIGNS.get(quote):
        inner = written[1:-1]
        if len(written) < 2 or not written.endswith(quote):
            return "the value does not end with its quote"
        if found := signs.search(inner):
            return f"a {found[0]} within the quotes"
    else:
        inner = written.strip(" \t")
        if inner != written:
            return "a blank before or behind the value"
        if found := _BARE_SIGNS.search(inner):
            return f"a {found[0]} without quotes"
    return None if inner.isascii() and inner.isprintable() else "what is not printable ASCII"
