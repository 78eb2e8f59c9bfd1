"""Deleting a relay's keys for good, whoever has the store: the service that runs, or nobody.

Only its owner writes into a store. So `kme forget` becomes the owner where no service runs, and otherwise leaves a
request beside the store: an empty file that is named after the relay. The service grants it and removes it, once
the keys are gone from its log, too; also after a restart.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from uuid import UUID

from kme.store import open_kme_store
from qkdrelay.errors import RequestRefusedError, StoreError, StoreInUseError
from qkdrelay.messages.relay_ids import NAMES_SHOWN_MAX, digits, the_one
from qkdrelay.service.batch import Batch
from qkdrelay.storage.files import resolved

REQUESTS_AT_ONCE = 100
GRANTED_WITHIN_S = 10.0
_SERVICE_LOOKS_EVERY_S, _LOOK_EVERY_S = 0.5, 0.05
_HINT = "`kme keys` lists them; what is held can be deleted an hour after its relay's deadline"


class ForgetRequests:
    """Requests beside the store at ``path``, its `Journal.path`; None is in memory, and nobody else knows of it."""

    def __init__(self, path: Path | None, batch: Batch | None = None) -> None:
        """``batch`` is that of the service that grants the requests."""
        self._path = path
        self._looked_at = 0.0
        self._being_granted: set[UUID] = set()
        if batch is not None:
            batch.cache(self._being_granted)  # they are due again, then

    def wait_s(self, now: float) -> float:
        """Return in how many seconds `due` looks again."""
        return math.inf if self._path is None else max(0.0, _SERVICE_LOOKS_EVERY_S - abs(now - self._looked_at))

    def _file(self, relay_id: UUID) -> Path:
        if self._path is None:
            raise ValueError("a store in memory has no requests")
        return self._path.with_name(f"{self._path.name}.forget-{relay_id}")

    def add(self, relay_id: UUID) -> None:
        """Ask that a relay be forgotten. Raises StoreError."""
        file = self._file(relay_id)
        try:
            file.touch(mode=0o600)
        except OSError as error:
            raise StoreError(f"{file} cannot be made: {error.strerror}") from None

    def has(self, relay_id: UUID) -> bool:
        """Return whether a request waits."""
        return self._file(relay_id).exists()

    def due(self, now: float) -> list[UUID]:
        """Return which relays are to be forgotten, at most `REQUESTS_AT_ONCE`; looks every half second."""
        # A distance, not a difference: the clock may be stepped back.
        if self._path is None or abs(now - self._looked_at) < _SERVICE_LOOKS_EVERY_S:
            return []
        self._looked_at = now
        start, found = f"{self._path.name}.forget-", []
        with suppress(OSError), os.scandir(self._path.parent) as files:
            for name in islice((file.name for file in files if file.name.startswith(start)), REQUESTS_AT_ONCE):
                with suppress(ValueError):
                    found.append(UUID(name.removeprefix(start)))
        self._being_granted.update(found)
        return found

    def remove_granted(self) -> None:
        """Remove the requests that were due: what they were for is done, and on the disk."""
        for relay_id in self._being_granted:
            with suppress(OSError):
                self._file(relay_id).unlink()
        self._being_granted.clear()


def forget_relay(path: Path, kme: str, name: str) -> tuple[UUID, bool]:
    """Delete the released keys of the relay whose id begins with ``name``.

    Return its id, and whether the store's log holds no copy of them any more. Raises RequestRefusedError if there is
    nothing that may be deleted, StoreError if the service that has the store does not do it.
    """
    relay_id = _find(path, kme, name)
    try:
        store = open_kme_store(path, kme)
    except StoreInUseError:
        return relay_id, _request(path, kme, relay_id)
    try:
        with store.journal.transaction():
            store.forget_relay(relay_id, time.time())
        return relay_id, store.journal.scrub()
    finally:
        store.journal.close()


def _find(path: Path, kme: str, name: str) -> UUID:
    store = open_kme_store(path, kme, access="read")
    try:
        relay_id = the_one(name, store.relays.named(digits(name), NAMES_SHOWN_MAX + 1), _HINT)
        if not store.relays.may_forget(relay_id, time.time()):
            raise RequestRefusedError(f"no keys of relay {relay_id} are delivered here", hint=_HINT)
        return relay_id
    finally:
        store.journal.close()


def _request(path: Path, kme: str, relay_id: UUID) -> bool:
    """Have the running service forget a relay; return whether its log holds no copy any more."""
    requests, until = ForgetRequests(resolved(path)), time.monotonic() + GRANTED_WITHIN_S
    requests.add(relay_id)
    while requests.has(relay_id):
        if time.monotonic() >= until:
            break
        time.sleep(_LOOK_EVERY_S)
    else:
        return True
    store = open_kme_store(path, kme, access="read")
    try:
        if store.relays.may_forget(relay_id, time.time()):
            raise StoreError(
                f"the running KME has not deleted the keys of relay {relay_id} within {GRANTED_WITHIN_S:.0f} s",
                hint="it will, as soon as its store takes commits; `kme keys` shows when they are forgotten",
            )
        return False
    finally:
        store.journal.close()
