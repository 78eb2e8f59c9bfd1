"""Dead letters: taken in, listed, shown, put back where they came from, deleted."""

from __future__ import annotations

from contextlib import suppress

from coordinator.metrics import BROKER
from coordinator.senders import Senders
from coordinator.store import CoordinatorStore
from coordinator.store.dead_letters import StoredDeadLetter
from qkdrelay.broker.names import (
    COORD_EXCHANGE,
    LEAKS_QUEUE,
    control_queue,
    kme_queues,
    parse_link_queue,
    requests_queue,
    results_queue,
)
from qkdrelay.broker.port import Delivery
from qkdrelay.errors import MalformedMessageError, QkdRelayError, RequestRefusedError, TopologyError
from qkdrelay.messages import codec
from qkdrelay.messages.answers import Acknowledged, DeadLetterSummary, DeadLettersView, DeadLetterView, ReplyBody
from qkdrelay.messages.reports import DeadLetter
from qkdrelay.messages.requests import DeadLetterRequest, DeadLettersRequest, DropRequest, RequeueRequest
from qkdrelay.network.names import CLI, COORDINATOR, PAGE
from qkdrelay.network.topology import Topology
from qkdrelay.service.batch_events import BatchEvents


class DeadLetters:
    """Dead letters kept, listed, requeued and deleted, inside the batch's transaction."""

    def __init__(self, topology: Topology, store: CoordinatorStore, senders: Senders, events: BatchEvents) -> None:
        self._kept, self._outbox, self._events = store.dead_letters, store.journal.outbox, events
        self._from = senders
        self._readers = {queue: kme for kme in topology.kmes for queue in kme_queues(kme, topology.links)}
        self._senders = {requests_queue(CLI): "the command line", requests_queue(PAGE): "the page"}
        self._senders |= {control_queue(kme): COORDINATOR for kme in topology.kmes}
        self._senders |= {results_queue(kme): kme for kme in topology.kmes}

    def take(self, delivery: Delivery, now: float) -> None:
        """Keep what a KME, or the broker, has given up."""
        # Of each site's broker by itself: who floods drives out its own only.
        kme = f"{BROKER} of site {delivery.site}" if delivery.site else ""
        queue, reason, body = delivery.routing_key, f"the {kme or BROKER} gave up delivering it", delivery.body
        # The broker's own come as they were, through an exchange that no KME may write.
        with suppress(TopologyError):
            kme = self._from.of(delivery)
            try:
                letter = codec.decode(delivery.body, DeadLetter)
                queue, reason, body = letter.queue, letter.reason, letter.body
            except MalformedMessageError as error:
                # Not refused: it is one queue for all.
                reason = f"{kme} sent what is no dead letter: {error}"
        self._kept.add(now, kme, queue, reason, body)
        self._events.note("message.dead_lettered", "warning", kme=kme or BROKER, queue=queue, reason=reason)

    def reject(self, delivery: Delivery, error: Exception, now: float) -> None:
        """Keep what the coordinator itself does not accept, with the reason."""
        foreseen = isinstance(error, QkdRelayError)
        reason = str(error) if foreseen else f"could not be handled ({type(error).__name__})"
        # What leaks is secret, also when it is no message: it is not kept.
        body = b"" if delivery.queue == LEAKS_QUEUE else delivery.body
        by = f"{COORDINATOR}, from site {delivery.site}" if delivery.site else COORDINATOR
        self._kept.add(now, by, delivery.queue, reason, body)
        self._events.note("message.rejected", "warning", queue=delivery.place, reason=reason)

    def answer(
        self, body: DeadLettersRequest | DeadLetterRequest | RequeueRequest | DropRequest, now: float
    ) -> ReplyBody:
        """Return the answer; RequestRefusedError for what cannot be done, and then nothing is."""
        match body:
            case DeadLettersRequest(limit=limit):
                return self.latest(limit, now)
            case DeadLetterRequest(letter=number):
                letter = self._find(number)
                return DeadLetterView(letter=self._summary(letter, now), body=letter.body)
            case RequeueRequest(letters=numbers):
                return self._requeue(tuple(dict.fromkeys(numbers)))
            case DropRequest(letters=chosen):
                return self._drop(chosen)

    def latest(self, limit: int, now: float) -> DeadLettersView:
        """Return the latest, newest first."""
        letters = tuple(self._summary(letter, now) for letter in self._kept.latest(limit))
        return DeadLettersView(letters=letters, total=self._kept.count())

    def _find(self, number: int) -> StoredDeadLetter:
        letter = self._kept.get(number)
        if letter is None:
            raise RequestRefusedError(
                f"there is no dead letter {number}", hint="`coordinator dead-letters list` lists them"
            )
        return letter

    def _requeue(self, numbers: tuple[int, ...]) -> Acknowledged:
        letters = [self._find(number) for number in numbers]
        for letter in letters:
            self._check_requeueable(letter)
        for letter in letters:
            # Through the broker like any other: who reads it checks it anew, and knows what it has handled before.
            self._outbox.put(COORD_EXCHANGE, letter.queue, letter.body)
            self._events.note("dead_letter.requeued", "info", letter=letter.id, queue=letter.queue)
        self._kept.drop(numbers)
        back = ", ".join(f"{letter.id} to {letter.queue}" for letter in letters)
        return Acknowledged(text=f"requeued: {back}"[:500])

    def _check_requeueable(self, letter: StoredDeadLetter) -> None:
        reader, cannot = self._readers.get(letter.queue), f"dead letter {letter.id} cannot be requeued"
        if reader is None:
            raise RequestRefusedError(
                f"{cannot}: {letter.queue} is no queue that a KME of this network reads",
                hint="reports are told again by themselves, and who asked something has given up",
            )
        if letter.kme not in ("", reader):
            raise RequestRefusedError(
                f"{cannot}: {letter.kme} gave it up, and does not read {letter.queue}",
                hint=f"look at {letter.kme}: it says what cannot be",
            )
        if site := self._site_of(letter.queue):
            raise RequestRefusedError(
                f"{cannot}: {letter.queue} is at the broker of site {site}, and the coordinator writes at its own only",
                hint="relay again",
            )
        if not letter.whole:
            raise RequestRefusedError(
                f"{cannot}: it was longer than {len(letter.body)} bytes, and was cut",
                hint="relay again, fewer keys at once",
            )

    def _site_of(self, queue: str) -> str:
        """Return the site at whose broker a queue is that a KME reads; empty for the coordinator's own."""
        with suppress(TopologyError):
            return self._from.site_of(parse_link_queue(queue)[0])
        return ""

    def _drop(self, numbers: tuple[int, ...] | None) -> Acknowledged:
        count = self._kept.count() if numbers is None else len({self._find(n).id for n in numbers})
        self._kept.drop(numbers)
        self._events.note("dead_letter.dropped", "info", letters=count)
        return Acknowledged(text=f"dropped {count} dead letter{'' if count == 1 else 's'}")

    def _summary(self, letter: StoredDeadLetter, now: float) -> DeadLetterSummary:
        return DeadLetterSummary(
            letter=letter.id,
            at=letter.at,
            age_s=max(0.0, now - letter.at),
            queue=letter.queue[:200],
            sender=self._sender(letter.queue),
            given_up_by=letter.kme or BROKER,
            size=len(letter.body),
            whole=letter.whole,
            reason=letter.reason[:500],
        )

    def _sender(self, queue: str) -> str:
        with suppress(TopologyError):
            return parse_link_queue(queue)[0]
        return self._senders.get(queue, "")
