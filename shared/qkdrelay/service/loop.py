"""The loop of every service: receive, handle, commit once, acknowledge, publish the outbox.

One mechanism serves crashes, reconnects and refusals alike (protocol, section 6): nothing leaves
before the commit, nothing is acknowledged before it, and what is published is what was committed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from qkdrelay.broker.port import Broker, Delivery, Publication, Received
from qkdrelay.errors import BrokerUnreachableError, StoreError
from qkdrelay.service.health import Health
from qkdrelay.service.journal import Journal
from qkdrelay.service.logs import lines_lost
from qkdrelay.service.metrics import Metrics
from qkdrelay.service.resting import Resting
from qkdrelay.storage.connection import SQLITE_VERSION

BATCH_MAX, BATCH_S = 200, 0.05
"""Deliveries handled in one transaction, and how long that may take: who is next on their way waits for the commit."""
OUTBOX_MAX, OUTBOX_BYTES_MAX = 20_000, 64 << 20
"""Unconfirmed messages, and their bytes, above which a service takes nothing more in.

The services keep each queue's part of it far below, so that one that nobody reads stops nobody else.
"""
GATHER_S, _HANDLED_MAX = 0.05, 32
"""How long what nobody waits for is gathered, so as to travel together and after what is in a hurry.

For acknowledgements there is a limit, too, or the broker would send nothing more.
"""
_FEW, _FEW_BYTES = 64, 1 << 20
"""Unconfirmed messages, and their bytes, up to which surely none waits for room."""
_CONFIRMS_MAX = 500
_CONFIRM_AGE_S = 1.0
_RETRY_S = 1.0
_MEASURE_EVERY_S = 5.0
_CLOSE_TIMEOUT_S = 8.0
log = structlog.get_logger()


class Service(Protocol):
    """What differs between services. `handle`, `tick` and `give_up` run inside the transaction."""

    journal: Journal

    @property
    def metrics(self) -> Metrics:
        """What it counts and measures."""
        ...

    def handle(self, delivery: Delivery, now: float) -> bool:
        """Carry one delivery out; every effect goes to the journal.

        Returns False for what nobody vouches for, as bytes that no seal or signature covers: its queue then rests.
        """
        ...

    def give_up(self, delivery: Delivery, error: Exception, now: float) -> None:
        """Dead-letter a delivery whose handling failed in a way that was not foreseen."""
        ...

    def tick(self, now: float, *, connected: bool, reconnected: bool) -> bool:
        """Close a batch: what follows from time, from the (new) connection, or from the batch as a whole.

        Returns whether it has more to do at once, and left it for the next turn so that others are not kept waiting.
        """
        ...

    def committed(self) -> None:
        """Say what happened (logs); called after each commit."""
        ...

    def rolled_back(self) -> None:
        """Forget what was to be said."""
        ...

    def measure(self) -> None:
        """Set the gauges: what waits, what is left; called now and then, outside the transaction."""
        ...


class Loop:
    """Runs a service on a broker; one thread calls it."""

    def __init__(
        self,
        service: Service,
        broker: Broker,
        *,
        clock: Callable[[], float] = time.time,
        batch_s: float = math.inf,
        gather_s: float = 0.0,
    ) -> None:
        """``clock`` returns seconds since the epoch; after ``batch_s`` seconds of handling a batch is committed.

        What is not hurried is published ``gather_s`` seconds later, in one go; so are acknowledgements sent.
        """
        self._batch_s, self._gather_s = batch_s, gather_s
        self._gathered: list[Publication] = []
        self._handled: list[Delivery] = []
        """Committed, and yet to be acknowledged."""
        self._due_at, self._turned_at = math.inf, 0.0
        """When what is gathered or handled leaves, and when the last turn was (monotonic clock)."""
        self._service, self._journal, self._broker, self._clock = service, service.journal, broker, clock
        self._generation = self._publishing = 0
        self._resting = Resting()
        self._connected = self._published = False
        self._more = False
        """Whether the service has more to do at once."""
        self._seen = Received([], [], connected=False, generation=0, publishing=0)
        """What the broker said last, of its own state, too."""
        self._store_failed = False
        self.health = Health()
        self._confirmed: list[int] = []
        self._confirmed_since = 0.0
        self._again: list[Delivery] = []
        broker.publish(self._journal.outbox(clock()))

    def step(self, timeout_s: float) -> bool:
        """Handle one batch; return whether there was anything. Raises StoreError when nothing can be committed."""
        messages, size = self._journal.backlog.total()
        room = 0 if messages >= OUTBOX_MAX or size >= OUTBOX_BYTES_MAX or self._again else BATCH_MAX
        resting = self._resting.now()
        until_due_s = max(0.0, min(self._due_at - time.monotonic(), self._resting.left_s()))
        at_once = self._again or self._more
        received = self._broker.receive(room, 0.0 if at_once else min(timeout_s, until_due_s), resting)
        self._connected, self._seen = received.connected, received
        if received.publishing != self._publishing:
            # A machine that was copied while it ran, and goes on twice, has a new connection at least once.
            self._publishing = received.publishing
            self._journal.end_epoch()
        now = self._clock()
        self._note_confirms(received.confirmed, now)
        reconnected = received.connected and received.generation != self._generation
        self._send_what_is_due()  # before the commit, which may fail for hours
        deliveries = self._again + received.deliveries
        if not deliveries and not reconnected and self._can_wait():
            return bool(received.confirmed)
        # If the commit fails the deliveries stay ours, unacknowledged, and are handled again.
        self._again = deliveries
        handled = self._commit(deliveries, now, reconnected)
        self._again = deliveries[handled:]
        if reconnected:
            self._service.metrics.reconnects.inc(received.generation - max(1, self._generation))
            self._generation = received.generation
        self._handled += deliveries[:handled]
        self._note_due()
        if len(self._handled) >= _HANDLED_MAX:
            self._send_gathered()
        self._send_what_is_due()
        return bool(deliveries or received.confirmed or reconnected or self._published or self._more)

    def _can_wait(self) -> bool:
        """Whether a turn without deliveries may be left out: nothing is due, left over or waiting for room."""
        messages, size = self._journal.backlog.total()
        due_at = min(self._turned_at + self._gather_s, self._due_at)
        return not self._more and time.monotonic() < due_at and messages <= _FEW and size <= _FEW_BYTES

    def _note_confirms(self, confirmed: list[int], now: float) -> None:
        if confirmed and not self._confirmed:
            self._confirmed_since = now
        self._confirmed += confirmed
        self._journal.backlog.confirmed(confirmed)

    def _commit(self, deliveries: list[Delivery], now: float, reconnected: bool) -> int:
        """Handle and commit the first of the deliveries, most often all; return how many."""
        try:
            return self._transact(deliveries, now, reconnected)
        except StoreError:
            raise
        except Exception:
            log.exception("service.batch_failed", messages=len(deliveries))
            # What fails without any message is not the messages' fault: this raises, and they stay ours.
            self._transact([], now, reconnected)
            # One message that cannot be handled must not take its batch with it: singly, then.
            for delivery in deliveries:
                self._commit_one(delivery, now)
            return len(deliveries)

    def _commit_one(self, delivery: Delivery, now: float) -> None:
        try:
            self._transact([delivery], now, reconnected=False)
        except StoreError:
            raise
        except Exception as error:
            log.exception("service.message_failed", queue=delivery.queue)
            try:
                with self._journal.transaction():
                    self._service.give_up(delivery, error, now)
            except BaseException:
                self._service.rolled_back()
                raise
            self._resting.note(delivery.queue, accepted=False)
            self._publish()

    def _transact(self, deliveries: list[Delivery], now: float, reconnected: bool) -> int:
        """Handle deliveries for as long as a batch may take, commit, publish; return how many were handled."""
        self._turned_at = time.monotonic()
        handled, until = 0, time.perf_counter() + self._batch_s
        vouched_for: list[bool] = []
        confirmed = self._confirmed
        lazy = len(confirmed) < _CONFIRMS_MAX and abs(now - self._confirmed_since) < _CONFIRM_AGE_S
        try:
            with self._journal.transaction():
                if self._store_failed:
                    self._journal.probe()
                # Forgetting a confirmed message can wait for the next batch: at worst it is sent again, and recognized.
                if confirmed and (deliveries or not lazy):
                    self._journal.forget(confirmed)
                for delivery in deliveries:
                    vouched_for.append(self._service.handle(delivery, now))
                    handled += 1
                    if time.perf_counter() > until:
                        break
                self._more = self._service.tick(now, connected=self._connected, reconnected=reconnected)
        except BaseException:
            self._service.rolled_back()
            raise
        self._store_failed = False
        for delivery, accepted in zip(deliveries, vouched_for, strict=False):
            self._resting.note(delivery.queue, accepted=accepted)
        if confirmed and (deliveries or not lazy):
            self._confirmed = []
        self._publish()
        return handled

    def _publish(self) -> None:
        fresh = self._journal.take_fresh()
        self._published = bool(fresh)
        # Where one is in a hurry the others go with it, before it: for one queue they leave in their order.
        keys = {publication.routing_key for publication in fresh if publication.hurried}
        waiting = self._gathered + fresh
        self._gathered = [publication for publication in waiting if publication.routing_key not in keys]
        self._note_due()
        self._send([publication for publication in waiting if publication.routing_key in keys])
        self._service.committed()

    def _note_due(self) -> None:
        """Have the first of what is gathered leave in time, and the rest with it."""
        owes = self._gathered or self._handled
        self._due_at = min(self._due_at, time.monotonic() + self._gather_s) if owes else math.inf

    def _send_what_is_due(self) -> None:
        if time.monotonic() >= self._due_at:
            self._send_gathered()

    def _send_gathered(self) -> None:
        self._send(self._gathered)
        self._gathered = []
        if self._handled:
            self._broker.acknowledge(self._handled)
            self._handled = []
        self._due_at = math.inf

    def _send(self, publications: list[Publication]) -> None:
        if publications:
            self._broker.publish(publications)

    def run(self, stop: threading.Event) -> None:
        """Step until ``stop`` is set, then finish what is in hand and give the rest back."""
        measured_at = -_MEASURE_EVERY_S
        log.info("store.opened", path=str(self._journal.path), sqlite=SQLITE_VERSION)
        while not stop.is_set():
            failure = self._guard(lambda: self.step(0.2))
            if not failure and time.monotonic() - measured_at >= _MEASURE_EVERY_S:
                measured_at = time.monotonic()
                failure = self._guard(self.measure)
            self.health.turned(problem=failure or self._seen.hindrance, remark=self._seen.remark)
            if failure:
                # Nothing is acknowledged, nothing is lost; the same again, but not as fast as possible.
                stop.wait(_RETRY_S)
        self.close()

    def _guard(self, work: Callable[[], object]) -> str:
        """Do ``work``; log and return what went wrong, or nothing."""
        try:
            work()
        except StoreError as error:
            # A full disk passes.
            self._store_failed = True
            self._service.metrics.store_failures.inc()
            log.error("store.failed", reason=str(error))  # noqa: TRY400 - the reason is the whole story
            return str(error)
        except BrokerUnreachableError:
            raise
        except Exception as error:
            log.exception("service.failed")
            return f"a batch could not be handled ({type(error).__name__}); the log says more"
        return ""

    def measure(self) -> None:
        """Set all gauges as things are now."""
        self._service.metrics.measured(
            broker=self._seen,
            store=self._journal.sizes(),
            outbox=self._journal.backlog.by_queue(),
            epochs=self._journal.epochs(),
            log_lines_lost=lines_lost(),
        )
        self._service.measure()

    def close(self) -> None:
        """Flush acknowledgements and confirms, then close broker and journal."""
        self._send_gathered()
        self._broker.close(_CLOSE_TIMEOUT_S)
        last = self._broker.receive(0, 0.0)
        try:
            with self._journal.transaction():
                self._journal.forget([*self._confirmed, *last.confirmed])
        finally:
            self._journal.close()
