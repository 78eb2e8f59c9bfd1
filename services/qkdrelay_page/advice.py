"""What to do about each thing that asks for somebody; a test keeps it what docs/operating.md says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Advice:
    """What something means and what to do about it."""

    text: str
    section: str
    """Of docs/operating.md, where more is."""


ADVICE: Final = {
    "KME silent": Advice(
        "`make status` says what it waits for; relays go around it, those that end there wait.", "health"
    ),
    "clock off": Advice("Set the clock; nothing needs a restart, also if it is stepped.", "a-clock-that-is-off"),
    "link down": Advice(
        "Shares wait. `coordinator link up` mends a link that was ordered down; else look at the end that says so.",
        "follow-a-share-in-the-logs",
    ),
    "link dry": Advice(
        "Shares wait for key: relay fewer keys at once, or give the link more; see which relays use it.",
        "follow-a-share-in-the-logs",
    ),
    "relay failed": Advice(
        "`coordinator trace` shows where its shares came no further; the reason names what was missing.",
        "follow-a-share-in-the-logs",
    ),
    "dead letter": Advice(
        "`coordinator dead-letters show` has it; requeue it once the cause is mended, or drop it.", "dead-letters"
    ),
    "supply dry": Advice(
        "Requests wait for keys: `coordinator supplies` says why it is not refilled.", "keys-for-applications"
    ),
    "alarm": Advice("The coordinator's log has it, too; the list of events says what it means.", "log-events"),
}
