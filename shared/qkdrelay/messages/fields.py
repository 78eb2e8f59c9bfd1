"""Types of fields that messages have in common, and the base of all messages."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from qkdrelay.messages.limits import NUMBER_MAX
from qkdrelay.network.names import KME_NAME
from qkdrelay.network.plan import KMES_MAX

TIMEOUT_S_MIN, TIMEOUT_S_MAX = 1.0, 3_600.0
Name = Annotated[str, Meta(pattern=rf"^{KME_NAME.pattern}\Z")]
Number = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
EPOCH_BYTES = 16
Epoch = Annotated[bytes, Meta(min_length=EPOCH_BYTES, max_length=EPOCH_BYTES)]
Tag = Annotated[bytes, Meta(min_length=16, max_length=16)]
Mac = Annotated[bytes, Meta(min_length=32, max_length=32)]
WireRoute = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=KMES_MAX)]
Seconds = Annotated[float, Meta(ge=0, le=4e9)]
OffsetSeconds = Annotated[float, Meta(ge=-4e9, le=4e9)]
PLAN_BYTES_MAX = 65_536
PlanBytes = Annotated[bytes, Meta(max_length=PLAN_BYTES_MAX)]
Text = Annotated[str, Meta(max_length=500)]
QueueName = Annotated[str, Meta(max_length=200)]
ROUTES_MAX = 8_192
Routes = Annotated[tuple[WireRoute, ...], Meta(max_length=ROUTES_MAX)]
KmeCount = Annotated[int, Meta(ge=0, le=1_000)]


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """A message or a part of one; a field too many, missing or of another type is malformed."""
