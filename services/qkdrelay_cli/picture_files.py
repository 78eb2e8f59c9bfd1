"""Options for pictures: files to write them to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from qkdrelay.errors import RequestRefusedError
from qkdrelay.terminal.wording import write_bytes
from qkdrelay_pictures.png import as_png

SvgOption = Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw it, as SVG.")]
PngOption = Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Draw it, as PNG.")]


@dataclass(frozen=True, slots=True)
class PictureFiles:
    """Files that a picture is to be written to; RequestRefusedError for a place where it cannot be."""

    svg: Path | None = None
    png: Path | None = None

    def __post_init__(self) -> None:
        for option, file in (("svg", self.svg), ("png", self.png)):
            if file is not None:
                _check(file, option)

    def __bool__(self) -> bool:
        return self.svg is not None or self.png is not None

    def write(self, picture: str) -> None:
        """Write a picture, given as SVG; raise RequestRefusedError if that cannot be done."""
        if self.svg is not None:
            write_bytes(self.svg, picture.encode())
        if self.png is not None:
            write_bytes(self.png, as_png(picture))


def _check(file: Path, option: str) -> None:
    if file.suffix.lower() != f".{option}":
        other = {".svg": "--svg", ".png": "--png"}.get(file.suffix.lower())
        hint = f"that is {other}" if other else f"such as {file.name or 'picture'}.{option}"
        raise RequestRefusedError(f"--{option} {file}: the name does not end in .{option}", hint=hint)
    try:
        wrong = "it is a directory" if file.is_dir() else None
        if not file.parent.is_dir():
            wrong = f"there is no directory {file.parent}"
    except OSError as error:  # such as a name too long
        wrong = error.strerror
    if wrong:
        raise RequestRefusedError(f"{file}: cannot be written: {wrong}", hint="name another file")
