"""The port to what a KME makes of supply: its relays as they change, and what passes between KMEs about it."""

from __future__ import annotations

from typing import Protocol

from kme.effects import Effect
from kme.model import EndpointRelay
from qkdrelay.messages.control import AboutSupply


class SupplyParts(Protocol):
    """Whoever keeps supply, as source and as target; called within the batch's transaction."""

    def on_change(self, relay: EndpointRelay, now: float) -> list[Effect]:
        """Take note of a relay of supply that is in a new state (`kme.effects.SupplyChanged`)."""
        ...

    def on_command(self, command: AboutSupply, now: float) -> list[Effect]:
        """Decide on what another KME asks or answers, or the coordinator says."""
        ...
