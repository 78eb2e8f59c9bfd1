"""Housekeeping of a KME's store: what has outlived its time is deleted, and what deleted keys leave behind is wiped."""

from __future__ import annotations

from kme.forgetting import ForgetRequests
from kme.model import LATE_S, EndpointRelay
from kme.reporting import Reporting
from kme.store import KmeStore
from qkdrelay.service.batch import Cell

_EVERY_S = 5.0


class Housekeeping:
    """Deletes what is over, now and then, and what somebody at this KME asks to have forgotten."""

    def __init__(self, store: KmeStore, reporting: Reporting) -> None:
        """Nothing is done before the first `tick`; ``reporting`` logs it."""
        self._store, self._reporting, batch = store, reporting, store.journal.batch
        self._requests = ForgetRequests(store.journal.path, batch)
        self._done_at = Cell(batch, 0.0)
        self._must_wipe = Cell(batch, value=True)
        """The write-ahead log may hold secrets that were deleted; what was left undone is done at start."""

    def note_destroyed(self) -> None:
        """Have what is left of destroyed secrets wiped after the commit."""
        self._must_wipe.value = True

    def wait_s(self, now: float) -> float:
        """Return in how many seconds something is due; not above zero if it is."""
        return min(_EVERY_S - abs(now - self._done_at.value), self._requests.wait_s(now))

    def tick(self, now: float) -> list[EndpointRelay]:
        """Delete what is due; return the relays that have come to their own end."""
        ending: list[EndpointRelay] = []
        # A distance, not a difference: the clock may be stepped back.
        if abs(now - self._done_at.value) >= _EVERY_S:
            self._done_at.value = now
            ending = self._store.relays.ending(now)
            if self._store.purge(now):
                self.note_destroyed()
            for relay_id, route in self._store.waiting.expire(now - LATE_S):
                self.note_destroyed()
                self._reporting.note("share.expired", "warning", relay_id=relay_id, route=route)
        for relay_id in self._requests.due(now):
            self.note_destroyed()
            if self._store.forget_relay(relay_id, now):
                self._reporting.note("relay.forgotten", "warning", relay_id=relay_id)
        return ending

    def committed(self) -> None:
        """Wipe what destroyed keys left behind on disk; then the requests to forget them are granted."""
        if self._must_wipe.value:
            self._must_wipe.value = not self._store.journal.scrub()
        if not self._must_wipe.value:
            self._requests.remove_granted()
