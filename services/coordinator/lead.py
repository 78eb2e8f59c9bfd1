"""Which of several coordinators leads: the one that gets back the token that it sends itself.

They all send tokens to one queue, which the broker gives out to one of those who read it, and to the next once that
one is gone. A waiting reader hears nothing when its turn comes; its own token tells it. Who leads does so for `LEASE_S`
from when the token that came back last was *sent*: one that lay about, while the process was stopped, is worth little.
Nothing that must be safe rests on it: KMEs take no orders older than those they have (protocol, section 7).
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog

from qkdrelay.broker.names import COORD_EXCHANGE, LEAD_QUEUE
from qkdrelay.broker.port import Broker, Publication, Received
from qkdrelay.errors import UnreachableError
from qkdrelay.service.health import Health
from qkdrelay.service.process import StopRequest

LEAD: Final = "coordinator lead"
"""What the connections of tokens are called."""
TOKEN_EVERY_S: Final = 5.0
LEASE_S: Final = 15.0
_OUTSTANDING_MAX: Final = 8
"""Tokens that may still come back; earlier ones have lapsed."""
_LOOK_EVERY_S: Final = 1.0
_CLOSE_TIMEOUT_S: Final = 2.0
_TOKEN_BYTES: Final = 16
_READ_AT_ONCE: Final = 20
_log = structlog.get_logger()


class LeadLostError(UnreachableError):
    """Whoever led does not know whether it still may."""


class Lead:
    """Whether this coordinator leads; one thread calls `step`, any may ask."""

    def __init__(
        self,
        broker: Broker,
        clock: Callable[[], float] = time.monotonic,
        *,
        may_lead: Callable[[], bool] = lambda: True,
    ) -> None:
        """``broker`` reads `LEAD_QUEUE` and nothing else; ``clock`` returns seconds and never steps back.

        Who may not lead, because its loop is stuck, sends no tokens, so that another comes to lead.
        """
        self._broker, self._clock, self._may_lead = broker, clock, may_lead
        self._sent: dict[bytes, float] = {}
        """Tokens that have not come back, oldest first, and when they were sent."""
        self._sent_at, self._until = -math.inf, -math.inf
        self._heard_at = clock()
        """When another coordinator's token came last, which only who leads sees; or when this began to lead."""
        self.seen: Received | None = None
        """What the broker said last, of its own state, too."""

    @property
    def held(self) -> bool:
        """Whether it leads at this moment."""
        return self._clock() < self._until

    def alone_s(self) -> float:
        """Return for how many seconds it has led and heard of no other that waits; 0 if it does not lead."""
        return self._clock() - self._heard_at if self.held else 0.0

    def step(self, timeout_s: float) -> None:
        """Send a token when one is due, and take those that have come."""
        now = self._clock()
        if now - self._sent_at >= TOKEN_EVERY_S and self._may_lead():
            token = secrets.token_bytes(_TOKEN_BYTES)
            self._sent_at = self._sent[token] = now
            while len(self._sent) > _OUTSTANDING_MAX:
                del self._sent[next(iter(self._sent))]
            self._broker.publish([Publication(None, COORD_EXCHANGE, LEAD_QUEUE, token)])
        self.seen = self._broker.receive(_READ_AT_ONCE, timeout_s)
        for delivery in self.seen.deliveries:
            sent_at = self._sent.pop(delivery.body, None)
            if sent_at is None:
                self._heard_at = self._clock()
            else:
                self._heard_at = self._heard_at if self.held else self._clock()
                self._until = max(self._until, sent_at + LEASE_S)
        # At once: one that is held would count against whoever reads next.
        self._broker.acknowledge(self.seen.deliveries)

    def close(self) -> None:
        """Leave the queue to the others."""
        self._until = -math.inf
        self._broker.close(_CLOSE_TIMEOUT_S)


class Term(StopRequest):
    """The time for which this process leads, once it does: its loop is to end with it, or when the process is to.

    In the ``with`` a thread of its own sends the tokens.
    """

    def __init__(
        self,
        broker: Broker,
        stop: StopRequest,
        health: Health,
        *,
        connected: Callable[[bool], object] = lambda _: None,
    ) -> None:
        """``health`` is the loop's: without turns there is no leading; ``stop`` is what ends the process.

        ``connected`` is told while it waits whether the broker is there.
        """
        self._connected = connected
        super().__init__()
        self._stop, self._health, self._broker = stop, health, broker
        self.lead = Lead(broker, may_lead=lambda: not health.liveness_problem())
        self._begun = self._closing = False
        self._thread = threading.Thread(target=self._keep, name="lead", daemon=True)
        stop.wakes(self.set)

    def __enter__(self) -> Self:
        self._broker.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing = True
        self._broker.wake()
        self._thread.join()
        self.lead.close()

    def is_set(self) -> bool:
        """Whether it is over, or the process was asked to end."""
        return super().is_set() or (self._begun and not self.lead.held)

    @property
    def is_lost(self) -> bool:
        """Whether this coordinator has led and may no more."""
        return self._begun and not self._stop.is_set()

    def begins(self) -> bool:
        """Wait until this coordinator leads; False if the process is to end first."""
        _log.info("coordinator.waits", text="until the token comes back: one coordinator leads at a time")
        while not super().is_set():
            if self.lead.held:
                self._begun = True
                _log.info("coordinator.leads")
                return True
            seen = self.lead.seen
            problem = "not connected to the broker" if seen is None else seen.hindrance
            self._health.turned(problem=problem, remark="this coordinator does not lead; it waits")
            self._connected(not problem)
            self.wait(_LOOK_EVERY_S)
        return False

    def _keep(self) -> None:
        while not self._closing:
            self.lead.step(_LOOK_EVERY_S)
            if self._begun and not self.lead.held:
                # Whatever its loop does meanwhile: another is to read the tokens.
                self.lead.close()
                self.set()
                return
