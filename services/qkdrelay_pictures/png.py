"""PNG of an SVG of ours."""

# ruff: noqa: PLC0415 - resvg is loaded where a PNG is asked for

from __future__ import annotations

import math
import re
from pathlib import Path

PIXELS_MAX = 1 << 25
_ZOOM = 2.0
_FONTS = Path(__file__).parent / "fonts"


def as_png(picture: str) -> bytes:
    """Return an SVG of ours as PNG, two pixels for one, fewer if it were more than PIXELS_MAX.

    Its text is set in the font that lies beside this module: there need not be any on this machine.
    """
    from resvg_py import svg_to_bytes

    size = re.search(r'width="(\d+)" height="(\d+)"', picture)
    if size is None:
        raise ValueError("the picture does not say how large it is")
    fonts = [str(_FONTS / f"LiberationSans-{style}.ttf") for style in ("Regular", "Bold")]
    return svg_to_bytes(
        svg_string=picture,
        zoom=min(_ZOOM, math.sqrt(PIXELS_MAX / (int(size[1]) * int(size[2])))),
        skip_system_fonts=True,
        font_files=fonts,
        font_family="Liberation Sans",
        sans_serif_family="Liberation Sans",
    )
