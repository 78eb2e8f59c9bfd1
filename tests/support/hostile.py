"""Text that would steer a terminal, hide, or break what it is put into; and how to tell that none of it got through."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import strategies as st

PIECES = (
    *("\x1b[31m", "\x1b]0;title\x07", "\x1b[2J", "\x9b2J", "\x9d", "\x00", "\x07", "\x08", "\x7f", "\x85"),
    *("\n", "\r", "\r\n", "\t", "\v", "\f", "\x1c", "\u2028", "\u2029", "\n2026-01-01T00:00:00Z [error] forged"),
    *("\u202e", "\u202a", "\u2066", "\u2067", "\u2069", "\u200e", "\u200f", "\u061c"),
    *("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u034f", "\u3164", "\u2800", "\ufe0f", "\U000e0041"),
    *("\u00a0", "\u3000", "\ue000", "\U0010ffff", "\u0378", "\u0301" * 9, "\u20dd"),
    *("[red]", "[/x]", "\\[/x]", "[/]", "[link=http://x]", "[@click=x]", ":warning:", "\\", "{", "}", "%s", "{0}"),
    *("<b>", "&amp;", "]]>", "-->", '"', "'", "'''", "`", "$(x)", "#", ", ", "=", "  "),
    *("é", "e\u0301", "ß", "Ω", "Ж", "漢字", "カ\u3099", "नमस्ते", "שלום", "مرحبا", "ไทย", "👍🏽", "a", "word"),
)
LONE = ("\ud800", "\udfff", "\udc9b")
"""Halves of surrogate pairs: how a shell's bytes that are no UTF-8 arrive; no encoding has them."""
TEXT = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=12).map("".join)
"""Any text there can be in a message or file."""
ANY_TEXT = st.lists(st.sampled_from((*PIECES, *LONE)) | st.characters(exclude_categories=()), max_size=12).map("".join)
"""Any text there can be in this program."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def steering(shown: str, *, colours: bool = False) -> list[str]:
    """Return what of ``shown`` must not reach a terminal; line feeds may, and ``colours`` of this program."""
    text = _COLOUR.sub("", shown) if colours else shown
    return [
        f"U+{ord(c):04X}"
        for c in text
        if c not in "\n " and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
    ]
