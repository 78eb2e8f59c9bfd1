"""Escaping of text from outside: as it is shown it steers no terminal, hides nothing and begins no line of its own.

From outside is whatever this program did not write itself: reasons and names in messages, the broker's texts, files,
arguments, settings. It stays as it came where it is kept; every way out (logs, terminal, pictures, HTTP) escapes it.
"""

from __future__ import annotations

from collections.abc import Callable
from unicodedata import category

TEXT_MAX = 2_000
"""Characters shown of one text."""
NAME_MAX = 100
_MARKS_MAX = 4
"""Accents on one letter; more would reach into the lines above and below."""
_INVISIBLE = frozenset(
    chr(code)
    for first, last in (
        *((0x34F, 0x34F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800), (0x3164, 0x3164)),
        *((0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0x1D159, 0x1D159), (0xE0100, 0xE01EF)),
    )
    for code in range(first, last + 1)
)
"""Letters, marks and signs that show nothing; the rest of what cannot be seen has a category of its own."""
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(text: str, most: int | None = TEXT_MAX) -> str:
    r"""Return ``text`` as it may be shown: one line, letters and signs of all languages as they are.

    What steers, reorders, breaks or cannot be seen (control and format characters, all spaces but one, what is unpaired
    or unassigned, accents without a letter) is written ``\n``, ``\u202e``, ``\U000e0001``; escaping it again changes
    nothing. Of more than ``most`` characters the rest is counted.
    """
    if most is not None and len(text) > most:
        return f"{_replaced(text[:most], _escape)}... ({len(text) - most} more characters)"
    return _replaced(text, _escape)


def escaped_json(text: str) -> str:
    """Return JSON with the same characters escaped within its strings, so that it says the same; lines stay."""
    return _replaced(text, _json_escape, keep="\n")


def _replaced(text: str, escape: Callable[[str], str], keep: str = "") -> str:
    if text.isascii() and text.isprintable():
        return text
    shown, marks = [], _MARKS_MAX
    for character in text:
        kind = category(character)[0]
        plain = (character.isprintable() and character not in _INVISIBLE) or character in keep
        if kind == "M":
            plain = plain and marks < _MARKS_MAX
            marks += 1
        else:
            marks = 0 if plain and kind in "LN" else _MARKS_MAX
        shown.append(character if plain else escape(character))
    return "".join(shown)


def _escape(character: str) -> str:
    code = ord(character)
    return _SHORT.get(character) or (f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}")


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
