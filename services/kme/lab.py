"""The lab: a KME that behaves as a compromised one while it is ordered to.

Made only where the KME's own settings have the lab on; an honest KME has nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import xor
from typing import cast

from kme.effects import Effect, LogEvent, SayHello, SendReport, SendShare
from kme.forwarding import ShareHandler
from kme.memory import Memory
from qkdrelay.broker.names import LEAKS_AGE_MS_MAX, LEAKS_KEY, kme_exchange
from qkdrelay.messages.control import SetLab
from qkdrelay.messages.leaks import Leak, seal_leak
from qkdrelay.messages.link import ShareHeader
from qkdrelay.messages.reports import Done
from qkdrelay.messages.states import LabMode
from qkdrelay.service.journal import Journal

_TAMPERED_BYTES = 16


class Lab:
    """A compromised KME around the honest decisions on shares (a `kme.forwarding.ShareHandler`)."""

    def __init__(
        self,
        honest: ShareHandler,
        name: str,
        journal: Journal,
        control_key: bytes,
        random: Callable[[int], bytes],
    ) -> None:
        """``journal`` keeps the mode; leaks are sealed with ``control_key`` for the coordinator alone."""
        self._honest, self._name, self._journal, self._key, self._random = honest, name, journal, control_key, random

    @property
    def mode(self) -> LabMode | None:
        """How the KME behaves; None: honestly."""
        mode = self._journal.meta.get("lab_mode")
        return None if mode is None else cast(LabMode, mode.decode())

    def on_order(self, order: SetLab) -> list[Effect]:
        """Behave from now on as ordered."""
        self._journal.meta.set("lab_mode", None if order.mode is None else order.mode.encode())
        event = LogEvent("lab.mode", "warning", {"mode": order.mode or "honest"})
        return [SayHello(), event, SendReport(Done(command=order, error=""))]

    def on_share(self, sender: str, header: ShareHeader, payload: bytes, memory: Memory, now: float) -> list[Effect]:
        """Decide on a share; raise RejectedShareError as an honest KME does."""
        effects = self._honest.on_share(sender, header, payload, memory, now)
        mode = self.mode
        if mode == "leak":
            self._leak(header, payload, now)
            return [self._event("leaked", header, bytes=len(payload)), *effects]
        if mode is None or not any(isinstance(effect, SendShare) for effect in effects):
            return effects
        if mode == "withhold":
            return [self._event("withheld", header)]
        # At random: one and the same change on several routes could cancel out where they meet.
        changed = bytes(map(xor, payload, self._random(_TAMPERED_BYTES)))
        tampered = changed + payload[len(changed) :]
        return [self._event("tampered", header), *self._honest.on_share(sender, header, tampered, memory, now)]

    def _leak(self, header: ShareHeader, payload: bytes, now: float) -> None:
        leak = Leak(kme=self._name, relay_id=header.relay_id, route=header.route, payload=payload)
        sealed, expires = seal_leak(self._key, leak), now + LEAKS_AGE_MS_MAX / 1000
        self._journal.outbox.put(kme_exchange(self._name), LEAKS_KEY, sealed, expires)

    def _event(self, what: str, header: ShareHeader, **fields: object) -> LogEvent:
        return LogEvent(f"lab.{what}", "warning", {"relay_id": header.relay_id, "route": header.route, **fields})
