"""Publishes to one exchange, as a rule by one routing key, and sees each message through to the broker's confirm."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import structlog
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel
from pika.delivery_mode import DeliveryMode
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from qkdrelay.broker.port import Publication
from qkdrelay.broker.rabbitmq.backoff import backoff_s
from qkdrelay.broker.rabbitmq.bundle import Parcel, parcels
from qkdrelay.broker.rabbitmq.channel import LiveChannel
from qkdrelay.broker.rabbitmq.inbox import Inbox
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings

_PERSISTENT, _TRANSIENT = DeliveryMode.Persistent.value, DeliveryMode.Transient.value
_REASONS_MAX = 5
_REFUSALS_MAX = 4
"""After so many refusals of one parcel, and again so many, a connection that is old enough is given up for another."""

_log = structlog.get_logger()


class Lane:
    """Lives on the I/O loop's thread; all methods are called there.

    A parcel of publications is in one of three places: waiting to be sent, in flight (sent, no answer yet),
    or held back after a failure until its back-off is over.
    """

    def __init__(
        self,
        exchange: str,
        settings: RabbitMqSettings,
        loop: IOLoop,
        inbox: Inbox,
        *,
        may_send: Callable[[], bool],
        on_refusals: Callable[[str], None],
        on_idle: Callable[[], None],
    ) -> None:
        """``on_refusals`` is told when a queue refuses again and again, ``on_idle`` when all may be confirmed."""
        self._settings = settings
        self._loop = loop
        self._inbox = inbox
        self._may_send = may_send
        self._on_refusals = on_refusals
        self._on_idle = on_idle
        self._live = LiveChannel(exchange, settings, loop, inbox, on_channel=self._set_up, on_lost=self._lost)
        self._channel: Channel | None = None
        """The channel while confirms are on."""
        self._waiting: deque[Parcel] = deque()
        self._in_flight: dict[int, Parcel] = {}
        self._in_flight_bytes = 0
        self._held: dict[int, list[Parcel]] = {}
        """By the number of failures so far: those wait the same time, and one timer does for them."""
        self._held_reasons: dict[int, set[str]] = {}
        self._tag = 0
        self._returned: dict[int, str] = {}
        self._unrouted: set[str] = set()
        """Routing keys to which nothing was bound when they were last tried."""

    @property
    def waiting(self) -> int:
        """Number of parcels that wait to be sent."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether everything is confirmed, but for an observation that a refused exchange is tried with."""
        awaited = self._waiting and not (self._live.failures and not any(parcel.kept for parcel in self._waiting))
        return not (awaited or self._in_flight or self._held)

    def start(self, connection: SelectConnection) -> None:
        """Publish on a new connection."""
        self._live.start(connection)

    def publish(self, publications: Iterable[Publication]) -> None:
        """Take the publications over; an observation is dropped at once if it cannot be sent."""
        drops = not self._may_send() or (self._channel is None and self._live.failures > 0)
        taken = [publication for publication in publications if publication.id is not None or not drops]
        self._waiting.extend(parcels(taken, self._settings.bundle_max))
        self.send()

    def _set_up(self, channel: Channel) -> None:
        self._tag = 0
        channel.add_on_return_callback(self._note_return)
        channel.confirm_delivery(self._settle, callback=lambda _: self._open(channel))

    def _open(self, channel: Channel) -> None:
        self._channel = channel
        if not (self._live.failures and self._waiting):  # else only a confirm shows that the exchange is there now
            self._live.works()
        self.send()

    def send(self) -> None:
        """Send what waits, as far as there is room."""
        # One will do to find out whether what was refused is refused again.
        most = 1 if self._live.failures else self._settings.in_flight_max
        while (
            self._waiting
            and self._channel is not None
            and self._channel.is_open
            and self._may_send()
            and len(self._in_flight) < most
            and self._in_flight_bytes < self._settings.in_flight_bytes_max
        ):
            parcel = self._waiting.popleft()
            publication = parcel.publications[0]
            self._tag += 1
            self._in_flight[self._tag] = parcel
            self._in_flight_bytes += parcel.size
            properties = BasicProperties(
                content_type=parcel.content_type,
                delivery_mode=_PERSISTENT if parcel.kept else _TRANSIENT,
                # A return carries no tag of its own, so the message does.
                message_id=str(self._tag),
            )
            self._channel.basic_publish(
                publication.exchange, publication.routing_key, parcel.body(), properties, mandatory=parcel.kept
            )

    def _note_return(self, _channel: Channel, method: Basic.Return, properties: BasicProperties, _body: bytes) -> None:
        """Remember what was unroutable: its confirm is still to come, and would look like success."""
        self._returned[int(properties.message_id)] = f"{method.reply_text} {method.exchange} {method.routing_key}"

    def _settle(self, frame: Method) -> None:
        """Settle what one ack or nack of the broker answers."""
        answer = frame.method
        if self._live.failures:
            self._live.works()
        confirmed: list[int] = []
        refused = False
        for tag in self._answered(answer.delivery_tag, answer.multiple):
            parcel = self._in_flight.pop(tag)
            self._in_flight_bytes -= parcel.size
            returned = self._returned.pop(tag, None)
            if not parcel.kept:
                continue
            key = parcel.publications[0].routing_key
            if isinstance(answer, Basic.Ack) and returned is None:
                if key in self._unrouted:
                    self._unrouted.discard(key)
                    self._inbox.route(key, None)
                confirmed += [publication.id for publication in parcel.publications if publication.id is not None]
            else:
                if returned is not None:
                    self._unrouted.add(key)
                    self._inbox.route(key, parcel.publications[0].exchange)
                self._hold(parcel, returned or f"refused {key}")
                # A channel that was open while its node lost the others can go on refusing after they are back.
                refused = refused or (returned is None and parcel.failures % _REFUSALS_MAX == 0)
        self._inbox.confirm(confirmed)
        if refused:
            self._on_refusals("the broker refuses what is published again and again")
        self.send()
        self._on_idle()

    def _answered(self, tag: int, multiple: bool) -> list[int]:
        if not multiple:
            return [tag] if tag in self._in_flight else []
        tags = []
        for sent in self._in_flight:
            if sent > tag:
                break
            tags.append(sent)
        return tags

    def _hold(self, parcel: Parcel, reason: str) -> None:
        parcel.failures += 1
        failures = parcel.failures
        if failures not in self._held:
            self._held[failures] = []
            wait_s = backoff_s(failures - 1, self._settings.backoff_min_s, self._settings.backoff_max_s)
            self._loop.call_later(wait_s, lambda: self._release(failures))
        self._held[failures].append(parcel)
        reasons = self._held_reasons.setdefault(failures, set())
        if len(reasons) < _REASONS_MAX:
            reasons.add(reason)

    def _release(self, failures: int) -> None:
        held = self._held.pop(failures)
        self._log_retry(held, reason="; ".join(sorted(self._held_reasons.pop(failures))))
        self._waiting.extend(held)
        self.send()

    def _lost(self, alone: bool) -> None:
        """Have everything in flight sent again, first and in its order; nobody knows what became of it."""
        self._channel = None
        lost = [*self._in_flight.values(), *self._waiting]
        again = [parcel for parcel in self._in_flight.values() if parcel.kept]
        self._waiting = deque(parcel for parcel in lost if parcel.kept)
        if not self._waiting and (alone or self._live.failures):
            self._waiting.extend(lost[:1])  # without one to try, nothing would show that the exchange is there again
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._returned.clear()
        if again:
            self._log_retry(again, reason="exchange refused" if alone else "connection lost")
        self._on_idle()

    def _log_retry(self, held: list[Parcel], reason: str) -> None:
        _log.warning(
            "broker.publish_retried",
            user=self._settings.user,
            count=sum(len(parcel.publications) for parcel in held),
            failures=max(parcel.failures for parcel in held),
            reason=reason,
        )
