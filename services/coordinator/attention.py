"""What asks for somebody: the latest alarms, relays that failed, dead letters."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from heapq import nlargest
from typing import Final
from uuid import UUID

from coordinator.dead_letters import DeadLetters
from coordinator.store import CoordinatorStore
from coordinator.views import summary
from qkdrelay.messages.answers import AlarmView, AttentionView

ALARMS: Final = {
    "kme.alarm": "kme",
    "clock.skewed": "kme",
    "share.rejected": "link",
    "report.unknown_relay": "kme",
    "report.misplaced": "kme",
    "command.withheld": "kme",
    "command.no_such_kme": "kme",
    "assignment.misplaced": "kme",
    "assignment.withheld": "kme",
    "request.refused": "request",
}
"""Events that are kept to be shown, and the field that says who or what each is about."""
ALARMS_EACH, FAILED_MAX, SHOWN_MAX = 5, 50, 50
"""Alarms of one event about one culprit that are kept; failed relays that are; of each kind, how many are shown."""
_TEXT_MAX = 300


class Attention:
    """Alarms and failed relays, in memory; after a restart failed relays are looked up, alarms are in the log only."""

    def __init__(self, store: CoordinatorStore, dead_letters: DeadLetters) -> None:
        self._relays, self._dead_letters = store.relays, dead_letters
        self._failed = deque(reversed(store.relays.failed_lately(FAILED_MAX)), FAILED_MAX)
        self._alarms: dict[tuple[str, str], deque[AlarmView]] = {}
        """By event and culprit: who is loud hides nobody else."""

    def happened(self, event: str, fields: Mapping[str, object], now: float) -> None:
        """Take note of what is committed and logged, if it is one of a few events."""
        relay_id = fields.get("relay_id")
        if event == "relay.failed" and isinstance(relay_id, UUID):
            self._failed.append(relay_id)
        elif (whose := ALARMS.get(event)) is not None:
            what, about = fields.get("alarm", event), str(fields.get(whose, ""))[:_TEXT_MAX]
            text = fields.get("text") or fields.get("reason") or ""
            alarm = AlarmView(at=now, event=str(what)[:_TEXT_MAX], about=about, text=str(text)[:_TEXT_MAX])
            self._alarms.setdefault((event, about), deque(maxlen=ALARMS_EACH)).append(alarm)

    def view(self, now: float) -> AttentionView:
        """Return what there is now."""
        every = (alarm for kept in self._alarms.values() for alarm in kept)
        failed = filter(None, map(self._relays.get, reversed(self._failed)))
        letters = self._dead_letters.latest(SHOWN_MAX, now)
        return AttentionView(
            alarms=tuple(nlargest(SHOWN_MAX, every, key=lambda alarm: alarm.at)),
            failed=tuple(summary(relay, now) for relay in failed),
            letters=letters.letters,
            letters_total=letters.total,
        )
