"""The eight-KME reference network as a picture, with what is broken and who is compromised."""

from __future__ import annotations

from collections.abc import Collection

from rich.text import Text

_NETWORK = r"""
            .---- kme-2 ------- kme-5 ----.
           /            \     /            \
          /                X                \
         /              /     \              \
    kme-1 ------- kme-3 ------- kme-6 ------- kme-8
         \              \     /              /
          \                X                /
           \            /     \            /
            '---- kme-4 ------- kme-7 ----'
"""[1:-1]
_ON_LINK = {
    ("kme-1", "kme-2"): (2, 10),
    ("kme-1", "kme-3"): (4, 13),
    ("kme-1", "kme-4"): (6, 10),
    ("kme-2", "kme-5"): (0, 27),
    ("kme-2", "kme-6"): (1, 24),
    ("kme-3", "kme-5"): (3, 24),
    ("kme-3", "kme-6"): (4, 27),
    ("kme-3", "kme-7"): (5, 24),
    ("kme-4", "kme-6"): (7, 24),
    ("kme-4", "kme-7"): (8, 27),
    ("kme-5", "kme-8"): (2, 44),
    ("kme-6", "kme-8"): (4, 41),
    ("kme-7", "kme-8"): (6, 44),
}
"""The place to mark a link at: (line, column)."""
_LEGEND = {3: (" x ", "QKD link is down"), 5: ("( )", "compromised: leaks")}
_LEGEND_COLUMN = 55


def picture(cut_links: Collection[tuple[str, str]], compromised: Collection[str]) -> list[Text]:
    """Draw the reference network, line by line; links as its topology writes them."""
    drawing = _NETWORK
    for kme in compromised:
        drawing = drawing.replace(f" {kme} ", f"({kme})")
    lines = [list(line.ljust(_LEGEND_COLUMN)) for line in drawing.splitlines()]
    for link in cut_links:
        line, column = _ON_LINK[link]
        lines[line][column] = "x"
    for line, (mark, meaning) in _LEGEND.items():
        lines[line] += f"{mark} {meaning}"
    drawn = [Text("".join(line).rstrip()) for line in lines]
    for text in drawn:
        text.highlight_regex(r"\bx\b|\((kme-\d| )\)", "bold red")
    return drawn
