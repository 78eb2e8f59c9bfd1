"""Consumes the queues of one service: the half of the broker that receives and acknowledges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.exceptions import ConnectionClosedByBroker

from qkdrelay.broker.rabbitmq.apart import Apart
from qkdrelay.broker.rabbitmq.connection import LiveConnection
from qkdrelay.broker.rabbitmq.inbox import Inbox
from qkdrelay.broker.rabbitmq.reader import Reader
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.broker.rabbitmq.version import doubt, version_of

ROLE: Final = "consume"
_FORCED: Final = 320
"""The broker stops, or somebody closed the connection by hand: no queue is the cause."""

_log = structlog.get_logger()


class Consumer:
    """Lives on the I/O loop's thread; all methods are called there.

    A queue that cannot be consumed most often costs its own channel only. One whose leader is away costs the
    connection: such queues are asked for apart (`Apart`), and the others go on.
    """

    def __init__(self, settings: RabbitMqSettings, loop: IOLoop, inbox: Inbox, on_stopped: Callable[[], None]) -> None:
        self._site = settings.site
        self._named = settings.named
        self._inbox = inbox
        self._on_stopped = on_stopped
        self._readers = {queue: Reader(queue, settings, loop, inbox, self._changed) for queue in settings.queues}
        self._open: SelectConnection | None = None
        self._main = LiveConnection(
            ROLE,
            settings,
            loop,
            on_open=self._opened,
            on_lost=self._lost,
            on_failed=self._failed,
            on_stopped=self._main_stopped,
        )
        self._apart = Apart(settings, loop, inbox, go_home=self._welcome, on_stopped=self._check_stopped)
        self._main_has_stopped = False

    def start(self) -> None:
        """Connect and consume."""
        self._main.start()

    def stop(self) -> None:
        """Close; what is not acknowledged goes back to its queue."""
        self._apart.stop()
        self._main.stop()

    def acknowledge(self, parts: dict[tuple[str, int], set[int]]) -> None:
        """Acknowledge parts of deliveries, by their queue and generation; see `Reader.acknowledge`."""
        for (queue, generation), of_queue in parts.items():
            self._readers[queue].acknowledge(generation, of_queue)

    def _opened(self, connection: SelectConnection) -> dict[str, object]:
        self._open = connection
        version = self._note_version(connection)
        if self._site:
            self._inbox.reach(self._site)
        generation = self._inbox.new_generation()
        for reader in self._readers.values():
            if reader not in self._apart:
                reader.start(connection, generation)
        self._changed()
        return {"generation": generation, "queues": len(self._readers), "version": version}

    def _note_version(self, connection: SelectConnection) -> str:
        version = version_of(connection.server_properties)
        if self._inbox.be_of(version, site=self._site) and (why := doubt(version)):
            _log.warning("broker.version_unsupported", **self._named, version=version, reason=why)
        return version

    def _welcome(self, reader: Reader) -> None:
        if self._open is not None:
            reader.start(self._open)

    def _changed(self) -> None:
        readers = self._readers.values()
        if not self._site:
            works = any(reader.consumes for reader in readers) if readers else self._open is not None
            self._inbox.working(ROLE, works=works)
        self._apart.go_on()

    def _lost(self, reason: object) -> None:
        self._open = None
        self._changed()
        if isinstance(reason, ConnectionClosedByBroker) and reason.reply_code != _FORCED:
            # One of those that the broker has not answered for: which, shows when each is asked for alone.
            self._apart.take(
                [reader for reader in self._readers.values() if reader.asked and reader not in self._apart]
            )

    def _failed(self, reason: str) -> None:
        if self._site:
            self._inbox.reach(self._site, reason)

    def _main_stopped(self) -> None:
        self._main_has_stopped = True
        self._check_stopped()

    def _check_stopped(self) -> None:
        if self._main_has_stopped and self._apart.is_closed:
            self._on_stopped()
