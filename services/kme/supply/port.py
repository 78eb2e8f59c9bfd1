"""The port between a KME's service and what it makes of supply, for its applications."""

from __future__ import annotations

from typing import Protocol

from kme.effects import Effect
from kme.model import EndpointRelay
from qkdrelay.messages.assignments import Supplies
from qkdrelay.messages.control import AboutSupply


class SupplyParts(Protocol):
    """Whoever keeps supply, as source and as target.

    All but `wait_s`, `committed` and `measure` is called within the batch's transaction.
    """

    def start(self, now: float) -> list[Effect]:
        """Begin, before the first batch."""
        ...

    def on_change(self, relay: EndpointRelay, now: float) -> list[Effect]:
        """Take note of a relay of supply that is in a new state (`kme.effects.SupplyChanged`)."""
        ...

    def on_command(self, command: AboutSupply, now: float) -> list[Effect]:
        """Decide on what another KME asks or answers, or the coordinator says."""
        ...

    def tick(self, now: float, *, connected: bool) -> list[Effect]:
        """Close a batch: what follows from time, or from the batch as a whole."""
        ...

    def supplies(self, now: float, *, is_hello: bool) -> Supplies | None:
        """Return what the coordinator is to be told now, if anything: everything with a hello."""
        ...

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is due."""
        ...

    def committed(self) -> None:
        """Answer what was asked, and count what happened."""
        ...

    def measure(self, now: float) -> None:
        """Set the gauges."""
        ...
