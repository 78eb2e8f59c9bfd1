"""One channel of a connection, opened anew for as long as the connection is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker, NoFreeChannels

from qkdrelay.broker.rabbitmq.backoff import backoff_s
from qkdrelay.broker.rabbitmq.connection_errors import describe
from qkdrelay.broker.rabbitmq.inbox import Inbox
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings

_log = structlog.get_logger()


class LiveChannel:
    """Keeps a channel open for one thing, a queue or an exchange; everything happens on the I/O loop's thread.

    AMQP ends a channel at the first thing on it that cannot be: no such queue, no permission, a queue that was
    deleted. So each queue that is read and each exchange that is written has its own, and what is refused to one
    does not concern the others: it is named (`Inbox.refused`) and asked for again, with a back-off.

    ``on_channel`` gets each new channel and calls `works` once it does; ``on_lost`` is told when that is gone, and
    whether the broker refused it alone: else its whole connection is lost.
    """

    def __init__(
        self,
        name: str,
        settings: RabbitMqSettings,
        loop: IOLoop,
        inbox: Inbox,
        *,
        on_channel: Callable[[Channel], None],
        on_lost: Callable[[bool], None],
    ) -> None:
        self._name = name
        self._settings = settings
        self._loop = loop
        self._inbox = inbox
        self._on_channel = on_channel
        self._on_lost = on_lost
        self._connection: SelectConnection | None = None
        self._timer: Any = None
        self._reason = ""
        self.failures = 0
        """Times in a row that the channel was closed before it worked."""

    def start(self, connection: SelectConnection) -> None:
        """Open it on a new connection."""
        self._connection = connection
        self._drop_timer()
        self._open()

    def works(self) -> None:
        """Note that the broker lets it be used."""
        self._drop_timer()
        self.failures = 0
        if self._inbox.refuse(self._name, None, site=self._settings.site):
            _log.info("broker.restored", **self._settings.named, name=self._name)

    def drop(self, channel: Channel, reason: str) -> None:
        """Close ``channel`` because of ``reason``, and open another after a while."""
        if channel.is_open:
            self._reason = reason
            channel.close()

    def _open(self) -> None:
        self._timer = None
        if self._connection is None or not self._connection.is_open:
            return
        try:
            channel = self._connection.channel(on_open_callback=self._on_channel)
        except NoFreeChannels:
            self._try_later("the broker allows no more channels")
            return
        channel.add_on_close_callback(self._closed)
        patience_s = self._settings.connect_timeout_s
        # Nothing else would tell of a queue that never answers; once it does, it is taken all the same.
        self._timer = self._loop.call_later(patience_s, lambda: self._refused(f"no answer within {patience_s:g} s"))

    def _closed(self, _channel: Channel, reason: Exception) -> None:
        self._drop_timer()
        why, self._reason = self._reason, ""
        alone = bool(why) or isinstance(reason, ChannelClosedByBroker)
        self._on_lost(alone)
        if not alone:
            return  # the next connection begins anew
        self._try_later(why or describe(reason))

    def _try_later(self, why: str) -> None:
        self.failures += 1
        wait_s = backoff_s(self.failures - 1, self._settings.backoff_min_s, self._settings.backoff_max_s)
        self._refused(why, retry_in_s=round(wait_s, 2))
        self._timer = self._loop.call_later(wait_s, self._open)

    def _refused(self, why: str, **details: object) -> None:
        self._inbox.refuse(self._name, why, site=self._settings.site)
        _log.warning("broker.refused", **self._settings.named, name=self._name, reason=why, **details)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._timer = None
