"""One connection with one channel, rebuilt for as long as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pika
import structlog
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel

from qkdrelay.broker.rabbitmq.backoff import backoff_s
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings

_log = structlog.get_logger()

_STEADY_S = 10.0
"""A connection that lived this long was a good one: the back-off starts afresh after it."""


class LiveConnection:
    """Keeps one connection with one channel open; everything happens on the I/O loop's thread.

    ``on_channel`` gets each new channel and calls `ready` once it has set it up; ``on_lost`` is told
    when a channel it was given is gone; ``on_stopped`` when the connection has closed after `stop`.
    """

    def __init__(
        self,
        role: str,
        settings: RabbitMqSettings,
        loop: IOLoop,
        *,
        on_channel: Callable[[Channel], None],
        on_lost: Callable[[], None],
        on_stopped: Callable[[], None],
    ) -> None:
        self._role = role
        self._settings = settings
        self._loop = loop
        self._on_channel = on_channel
        self._on_lost = on_lost
        self._on_stopped = on_stopped
        self._connection: SelectConnection | None = None
        self._address = ""
        self._timer: Any = None
        self._failures = 0
        self._attempts = 0
        self._ready_since: float | None = None
        self._reason: object = None
        self._stopping = False

    def start(self) -> None:
        """Connect to the next address of the settings."""
        self._timer = None
        hosts = self._settings.hosts
        address = hosts[self._attempts % len(hosts)]
        self._address = f"{address[0]}:{address[1]}"
        self._attempts += 1
        self._connection = SelectConnection(
            self._settings.parameters(address, self._role),
            on_open_callback=self._opened,
            on_open_error_callback=self._ended,
            on_close_callback=self._ended,
            custom_ioloop=self._loop,
        )

    def ready(self, **details: object) -> None:
        """Note, and log with ``details``, that the channel is set up."""
        self._ready_since = time.monotonic()
        _log.info("broker.connected", role=self._role, user=self._settings.user, address=self._address, **details)

    def give_up(self, reason: object) -> None:
        """Drop this connection, because of ``reason``, and build another."""
        # Never one that is still being opened: pika 1.4.4 fails an assertion of its own on that.
        if self._connection is not None and self._connection.is_open:
            self._reason = self._reason or reason
            self._connection.close()

    def stop(self) -> None:
        """Close for good; the channel's close-ok comes after the broker has handled all that was sent.

        An attempt to connect that is under way is let come to its end first.
        """
        self._stopping = True
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._timer = None
            self._on_stopped()
        else:
            self.give_up("stopped")

    def _opened(self, connection: SelectConnection) -> None:
        if self._stopping:
            connection.close()
            return
        connection.channel(on_open_callback=self._channel_opened)

    def _channel_opened(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._channel_closed)
        self._on_channel(channel)

    def _channel_closed(self, _channel: Channel, reason: Exception) -> None:
        self._on_lost()
        self.give_up(reason)

    def _ended(self, _connection: SelectConnection, error: BaseException) -> None:
        """Plan the next attempt after a connection was lost or could not be made."""
        self._connection = None
        was_ready, self._ready_since = self._ready_since, None
        reason, self._reason = self._reason or error, None
        if self._stopping:
            self._on_stopped()
            return
        if was_ready is not None and time.monotonic() - was_ready > _STEADY_S:
            self._failures = 0
        rounds = self._failures // len(self._settings.hosts)
        wait_s = backoff_s(rounds, self._settings.backoff_min_s, self._settings.backoff_max_s)
        self._failures += 1
        _log.warning(
            "broker.lost" if was_ready is not None else "broker.unreachable",
            role=self._role,
            user=self._settings.user,
            address=self._address,
            reason=describe(reason),
            retry_in_s=round(wait_s, 2),
        )
        self._timer = self._loop.call_later(wait_s, self.start)


def describe(error: object) -> str:
    """Put an error of pika's into words; many of them have none of their own."""
    while isinstance(error, BaseException) and isinstance(inner := _inner(error), BaseException):
        error = inner
    if isinstance(error, pika.exceptions.ConnectionClosed | pika.exceptions.ChannelClosed):
        return f"{error.reply_code} {error.reply_text}"
    if isinstance(error, BaseException):
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return str(error)


def _inner(error: BaseException) -> object:
    """Return the error that ``error`` merely wraps, as pika's connection workflow does, or None."""
    for attribute in ("exceptions", "exception"):
        inner = getattr(error, attribute, None)
        if inner:
            return inner[-1] if isinstance(inner, list | tuple) else inner
    return error.args[0] if error.args and isinstance(error.args[0], BaseException) else None
