"""What to do about each thing that asks for somebody; a test keeps it what docs/operating.md says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Advice:
    """What something means and what to do about it."""

    text: str
    section: str
    """Heading in docs/operating.md below which more is."""


ADVICE: Final = {
    "KME silent": Advice(
        "`make status` says why it is not healthy. Relays go around it; those that begin or end there wait.", "Health"
    ),
    "clock off": Advice("Set the clock; nothing needs a restart, also if it is stepped.", "A clock that is off"),
    "link down": Advice(
        "Shares wait for it. `coordinator link up` mends one that was ordered down; else see to the end that says so.",
        "Follow a share in the logs",
    ),
    "link dry": Advice(
        "Shares wait for key. Relay less at once over this link, or give it more key.", "Follow a share in the logs"
    ),
    "supply dry": Advice(
        "Applications wait for keys. `coordinator supplies` says why none come.", "Metrics and alerts"
    ),
    "relay failed": Advice(
        "The reason names what was missing; `coordinator trace` shows where each share came no further.",
        "Follow a share in the logs",
    ),
    "dead letter": Advice(
        "`coordinator dead-letters show` has it. Put it back once the cause is mended, or drop it.", "Dead letters"
    ),
    "alarm": Advice("It is in the coordinator's log, too; the list of events says what it means.", "Log events"),
}
