"""The loop of every service: receive, handle, commit once, acknowledge, publish the outbox.

One mechanism serves crashes, reconnects and refusals alike (protocol, section 6): nothing leaves
before the commit, nothing is acknowledged before it, and what is published is what was committed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import structlog

from qkdrelay.broker.port import Broker, Delivery, Received
from qkdrelay.errors import BrokerUnreachableError, StoreError
from qkdrelay.service.health import Health
from qkdrelay.service.logs import lines_lost
from qkdrelay.service.mailbox import Mailbox, Post
from qkdrelay.service.pacing import Pacing
from qkdrelay.service.port import Service
from qkdrelay.service.process import StopRequest
from qkdrelay.service.reception import Reception
from qkdrelay.service.resting import Resting
from qkdrelay.storage.connection import SQLITE_VERSION

BATCH_MAX, BATCH_S = 200, 0.05
"""Deliveries handled in one transaction, and how long that may take: who is next on their way waits for the commit."""
OUTBOX_MAX, OUTBOX_BYTES_MAX = 20_000, 64 << 20
"""Unconfirmed messages, and their bytes, above which a service takes nothing more in.

The services keep each queue's part of it far below, so that one that nobody reads stops nobody else.
"""
IDLE_S = 5.0
"""How long the loop waits at most when nothing comes and no timer is due; its health is told by its turns."""
_POSTS_MAX = 32
"""Pieces of work from other threads in one transaction."""
_FEW, _FEW_BYTES = 64, 1 << 20
"""Unconfirmed messages, and their bytes, up to which surely none waits for room."""
_RETRY_S = 1.0
_MEASURE_EVERY_S = 5.0
_CLOSE_TIMEOUT_S = 8.0
log = structlog.get_logger()


class Loop:
    """Runs a service on a broker; one thread calls it, but for `mailbox` and `wake`."""

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

        What is not urgent is published ``gather_s`` seconds later, in one go; so are acknowledgements sent.
        """
        self.service, self.journal, self.broker, self.clock = service, service.journal, broker, clock
        self.health = Health()
        self.mailbox = Mailbox(broker.wake)
        self._batch_s, self._pacing = batch_s, Pacing(broker, gather_s)
        self._turned_at = 0.0  # when the last turn was, by the monotonic clock
        self._generation = self._publishing = 0
        self._resting, self._reception = Resting(), Reception(broker)
        self._stop = StopRequest()
        self._started = self._published = self._more = False
        """Of these, the last: whether the service has more to do at once."""
        self._store_failed = False
        self._again: list[Delivery] = []
        self._posts: list[Post[Any]] = []
        """Deliveries of a batch that was not committed, which are handled again; posts that are being done."""

    def wake(self) -> None:
        """Have a turn now, of which none is left out; from any thread."""
        self._turned_at = -math.inf
        self.broker.wake()

    def start(self) -> None:
        """Have the service begin, connect to the broker, and publish what it has not confirmed."""
        with self.journal.transaction():
            self.service.start(self.clock())
            self.journal.outbox.publish_unconfirmed(self.clock())
        self._started = True
        self.broker.start()
        self._publish()

    def step(self, timeout_s: float) -> bool:
        """Handle one batch; return whether there was anything. Raises StoreError when nothing can be committed."""
        if not self._started:
            self.start()
        received = self._receive(timeout_s)
        now = self.clock()
        self.journal.outbox.note_confirmed(received.confirmed, now)
        if self._stop.is_set():  # who was stopped meanwhile may not be who leads any more; what came goes back
            return False
        reconnected = received.connected and received.generation != self._generation
        self._pacing.send_what_is_due()  # before the commit, which may fail for hours
        self._posts += self.mailbox.take(_POSTS_MAX - len(self._posts))
        deliveries = self._again + received.deliveries
        if not deliveries and not self._posts and not reconnected and self._can_wait():
            return bool(received.confirmed)
        # If the commit fails the deliveries stay ours, unacknowledged, and are handled again.
        self._again = deliveries
        handled = self._commit(deliveries, now, reconnected)
        self._again = deliveries[handled:]
        if reconnected:
            self.service.metrics.reconnects.inc(received.generation - max(1, self._generation))
            self._generation = received.generation
        self._pacing.acknowledge(deliveries[:handled])
        self._pacing.send_what_is_due()
        return bool(deliveries or received.confirmed or reconnected or self._published or self._more)

    def _receive(self, timeout_s: float) -> Received:
        messages, size = self.journal.outbox.backlog.total()
        room = 0 if messages >= OUTBOX_MAX or size >= OUTBOX_BYTES_MAX or self._again else BATCH_MAX
        now, at_once = time.monotonic(), self._again or self._more or self._posts or not self.mailbox.is_empty
        until_due_s = max(0.0, min(self._pacing.due_at - now, self._resting.left_s()))
        # A turn before that would be left out (`_can_wait`).
        timeout_s = max(timeout_s, self._turned_at + self._pacing.gather_s - now)
        received = self._reception.receive(room, 0.0 if at_once else min(timeout_s, until_due_s), self._resting.now())
        if received.publishing != self._publishing:
            # A machine that was copied while it ran, and goes on twice, has a new connection at least once.
            self._publishing = received.publishing
            self.journal.numbers.end_epoch()
        return received

    def _can_wait(self) -> bool:
        """Whether a turn without deliveries may be left out: nothing is due, left over or waiting for room."""
        messages, size = self.journal.outbox.backlog.total()
        due_at = min(self._turned_at + self._pacing.gather_s, self._pacing.due_at)
        return not self._more and time.monotonic() < due_at and messages <= _FEW and size <= _FEW_BYTES

    def _commit(self, deliveries: list[Delivery], now: float, reconnected: bool) -> int:
        """Do the posts, and handle and commit the first of the deliveries, most often all; return how many."""
        try:
            return self._transact(deliveries, now, reconnected, self._posts)
        except StoreError as error:
            self._fail_posts(error)
            raise
        except Exception:
            log.exception("service.batch_failed", messages=len(deliveries))
            # What fails without any message is not the messages' fault: this raises, and they stay ours.
            try:
                self._transact([], now, reconnected)
            except Exception as error:
                self._fail_posts(error)
                raise
            # One that cannot be handled must not take its batch with it: singly, then.
            while self._posts:
                self._do_one(self._posts.pop(0), now)
            for delivery in deliveries:
                self._commit_one(delivery, now)
            return len(deliveries)

    def _fail_posts(self, error: Exception) -> None:
        """Say why nothing is done: it must not be hours later, when nobody waits for it any more."""
        while self._posts:
            self._posts.pop(0).fail(error)

    def _do_one(self, post: Post[Any], now: float) -> None:
        try:
            self._transact([], now, reconnected=False, posts=[post])
        except Exception as error:
            post.fail(error)
            if isinstance(error, StoreError):
                raise
            log.exception("service.post_failed")

    def _commit_one(self, delivery: Delivery, now: float) -> None:
        try:
            self._transact([delivery], now, reconnected=False)
        except StoreError:
            raise
        except Exception as error:
            log.exception("service.message_failed", queue=delivery.place)
            with self.journal.transaction():
                self.service.give_up(delivery, error, now)
            self._resting.note(delivery.place, accepted=False)
            self._publish()

    def _transact(
        self, deliveries: list[Delivery], now: float, reconnected: bool, posts: list[Post[Any]] | None = None
    ) -> int:
        """Do posts, handle deliveries for as long as a batch may take, commit, publish; return how many it handled."""
        self._turned_at = time.monotonic()
        handled, until = 0, time.perf_counter() + self._batch_s
        vouched_for: list[bool] = []
        if self._store_failed:
            # By itself: what a batch takes for good, as link key, is lost with each one that is not committed.
            with self.journal.transaction():
                self.journal.probe()
        with self.journal.transaction():
            self.journal.outbox.forget_confirmed(now, can_wait=not deliveries)
            for post in posts or ():
                post.do(now)
            for delivery in deliveries:
                vouched_for.append(self.service.handle(delivery, now))
                handled += 1
                if time.perf_counter() > until:
                    break
            about = {"connected": self._reception.seen.connected, "reconnected": reconnected}
            self._more = self.service.tick(now, **about, away=self._reception.seen.away)
        self._store_failed = False
        for delivery, accepted in zip(deliveries, vouched_for, strict=False):
            self._resting.note(delivery.place, accepted=accepted)
        self._publish()
        while posts:
            posts.pop(0).tell()
        return handled

    def _publish(self) -> None:
        """Publish what is committed, and say what happened; whatever fails of that, the batch is not done again."""
        fresh = self.journal.outbox.drain_committed()
        self._published = bool(fresh)
        try:
            self._pacing.publish(fresh)
            self.service.committed()
        except Exception:
            log.exception("service.failed")
        finally:
            self.journal.batch.end()

    def run(self, stop: StopRequest) -> None:
        """Step until ``stop`` is set, then finish what is in hand and give the rest back."""
        measured_at, self._stop = -_MEASURE_EVERY_S, stop
        log.info("store.opened", path=str(self.journal.path), sqlite=SQLITE_VERSION)
        stop.wakes(self.wake)
        try:
            while not stop.is_set():
                failure = self._guard(self._turn)
                if not failure and time.monotonic() - measured_at >= _MEASURE_EVERY_S:
                    measured_at = time.monotonic()
                    failure = self._guard(self.measure)
                self.health.turned(problem=failure or self._reception.seen.hindrance, remark=self._reception.remark)
                if failure:
                    # Nothing is acknowledged, nothing is lost; the same again, but not as fast as possible.
                    stop.wait(_RETRY_S)
        finally:
            self._give_posts_up()
        self.close()

    def _turn(self) -> None:
        self.step(max(0.0, min(IDLE_S, self.service.wait_s(self.clock()) if self._started else 0.0)))

    def _guard(self, work: Callable[[], object]) -> str:
        """Do ``work``; log and return what went wrong, or nothing."""
        try:
            work()
        except StoreError as error:
            # A full disk passes.
            self._store_failed = True
            self.service.metrics.store_failures.inc()
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
        self.service.metrics.measured(
            broker=self._reception.seen,
            held=self._reception.counts(),
            store=self.journal.sizes(),
            outbox=self.journal.outbox.backlog.by_queue(),
            epochs=self.journal.seen.epochs(),
            log_lines_lost=lines_lost(),
        )
        self.service.measure()

    def _give_posts_up(self) -> None:
        self.mailbox.close()
        while self._posts:
            self._posts.pop().give_up()

    def close(self) -> None:
        """Flush acknowledgements and confirms, then close broker and journal; nobody is left waiting for an answer."""
        self._give_posts_up()
        self._pacing.send_all()
        self.broker.close(_CLOSE_TIMEOUT_S)
        self.journal.outbox.note_confirmed(self.broker.receive(0, 0.0).confirmed, self.clock())
        try:
            with self.journal.transaction():
                self.journal.outbox.forget_confirmed(self.clock())
        finally:
            self.journal.close()
