"""One connection, rebuilt for as long as it takes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import structlog
from pika.adapters.select_connection import IOLoop, SelectConnection

from qkdrelay.broker.rabbitmq.backoff import backoff_s
from qkdrelay.broker.rabbitmq.bounded import BoundedConnection
from qkdrelay.broker.rabbitmq.connection_errors import describe, explain
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.broker.rabbitmq.sockets import Sockets
from qkdrelay.errors import SettingsError

_log = structlog.get_logger()


class LiveConnection:
    """Keeps one connection open; everything happens on the I/O loop's thread.

    ``on_open`` gets each new connection, and returns what else to log of it; ``on_lost`` is told why one it was given
    is gone, after that connection's channels were; ``on_failed``, in words, why there is none now; ``on_stopped`` when
    the connection has closed after `stop`.
    """

    def __init__(
        self,
        role: str,
        settings: RabbitMqSettings,
        loop: IOLoop,
        *,
        on_open: Callable[[SelectConnection], dict[str, object]],
        on_lost: Callable[[object], None],
        on_stopped: Callable[[], None],
        on_failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._role = role
        self._settings = settings
        self._loop = loop
        self._on_open = on_open
        self._on_lost = on_lost
        self._on_stopped = on_stopped
        self._on_failed = on_failed
        self._connection: SelectConnection | None = None
        self._address = settings.hosts[0]
        self._timer: Any = None
        self._failures = 0
        # Not all begin with the first node of a cluster, and none keeps coming back to one that is away.
        self._attempts = random.randrange(len(settings.hosts))  # noqa: S311 - spreads load, guards nothing
        self._open_since: float | None = None
        self._reason: object = None
        self._stopping = False

    def start(self) -> None:
        """Connect to the next address of the settings."""
        self._timer = None
        hosts = self._settings.hosts
        self._address = hosts[self._attempts % len(hosts)]
        self._attempts += 1
        try:
            parameters = self._settings.parameters(self._address, self._role)
        except SettingsError as error:  # the certificates are read anew each time: they may have been renewed
            self._ended(None, error)
            return
        self._connection = BoundedConnection(
            parameters,
            on_open_callback=self._opened,
            on_open_error_callback=self._ended,
            on_close_callback=self._ended,
            custom_ioloop=Sockets(self._loop),
        )

    @property
    def _where(self) -> str:
        host, port = self._address
        return f"{host}:{port}"

    def drop(self, reason: object) -> None:
        """Drop this connection, because of ``reason``, and build another."""
        # Never one that is still being opened: pika 1.4.4 fails an assertion of its own on that.
        if self._connection is not None and self._connection.is_open:
            self._reason = self._reason or reason
            self._connection.close()

    def drop_for_another_node(self, reason: object) -> None:
        """Do so if there is one, and this has lived long enough for another to be worth a try: not again and again.

        Where there is none, a queue that is full would cost the key of all links, which ends with the connection.
        """
        steady = self._open_since is not None and time.monotonic() - self._open_since > self._settings.steady_s
        if steady and len(self._settings.hosts) > 1:
            self.drop(reason)

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
            self.drop("stopped")

    def _opened(self, connection: SelectConnection) -> None:
        if self._stopping:
            connection.close()
            return
        self._open_since = time.monotonic()
        details = self._on_open(connection)
        _log.info("broker.connected", role=self._role, **self._settings.named, address=self._where, **details)

    def _ended(self, _connection: SelectConnection | None, error: BaseException) -> None:
        """Plan the next attempt after a connection was lost or could not be made."""
        self._connection = None
        open_since, self._open_since = self._open_since, None
        reason, self._reason = self._reason or error, None
        if open_since is not None:
            self._on_lost(reason)
        if self._stopping:
            self._on_stopped()
            return
        if open_since is not None and time.monotonic() - open_since > self._settings.steady_s:
            self._failures = 0
        rounds = self._failures // len(self._settings.hosts)
        wait_s = backoff_s(rounds, self._settings.backoff_min_s, self._settings.backoff_max_s)
        self._failures += 1
        if open_since is None and isinstance(reason, BaseException):
            failure = explain(reason, self._settings, self._address)
            event, why = "broker.unreachable", {"reason": str(failure), "hint": failure.hint}
        else:
            event, why = "broker.lost", {"reason": describe(reason)}
        names = {"role": self._role, **self._settings.named, "address": self._where}
        self._on_failed(why["reason"] or "")
        _log.warning(event, **names, **why, retry_in_s=round(wait_s, 2))
        self._timer = self._loop.call_later(wait_s, self.start)
