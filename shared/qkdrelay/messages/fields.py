"""Types of fields that messages have in common, and the base of all messages."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

TIMEOUT_S_MIN, TIMEOUT_S_MAX = 1.0, 3_600.0
Name = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}\Z")]
Number = Annotated[int, Meta(ge=0, le=2**62)]
Epoch = Annotated[bytes, Meta(min_length=16, max_length=16)]
Tag = Annotated[bytes, Meta(min_length=16, max_length=16)]
Mac = Annotated[bytes, Meta(min_length=32, max_length=32)]
WireRoute = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=512)]
Seconds = Annotated[float, Meta(ge=0, le=4e9)]
PlanBytes = Annotated[bytes, Meta(max_length=65_536)]
Text = Annotated[str, Meta(max_length=500)]
ROUTES_MAX = 8_192
Routes = Annotated[tuple[WireRoute, ...], Meta(max_length=ROUTES_MAX)]
KmeCount = Annotated[int, Meta(ge=0, le=1_000)]
LabMode = Literal["leak", "tamper", "withhold"]
RelayState = Literal["planned", "started", "reconstructed", "confirmed", "failed"]
TERMINAL: frozenset[str] = frozenset({"confirmed", "failed"})


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """A message or a part of one; a field too many, missing or of another type is malformed."""
