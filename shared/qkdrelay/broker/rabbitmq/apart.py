"""Asks for queues of which one costs the connection, on a connection of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from pika.adapters.select_connection import IOLoop, SelectConnection

from qkdrelay.broker.rabbitmq.connection import LiveConnection
from qkdrelay.broker.rabbitmq.connection_errors import describe
from qkdrelay.broker.rabbitmq.inbox import Inbox
from qkdrelay.broker.rabbitmq.reader import Reader
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings

_ROLE: Final = "consume apart"

_log = structlog.get_logger()


class Apart:
    """Lives on the I/O loop's thread; all methods are called there.

    RabbitMQ ends the whole connection (541, INTERNAL_ERROR) that asks for a quorum queue without a leader. Here they
    are asked for one at a time, so that it is known which did it; it is the last to be asked for again. The others
    stay until this connection ends, and then ``go_home``.
    """

    def __init__(
        self,
        settings: RabbitMqSettings,
        loop: IOLoop,
        inbox: Inbox,
        *,
        go_home: Callable[[Reader], None],
        on_stopped: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._inbox = inbox
        self._go_home = go_home
        self._on_stopped = on_stopped
        self._live: LiveConnection | None = None
        self._open: SelectConnection | None = None
        self._doubtful: deque[Reader] = deque()
        self._answered: list[Reader] = []
        self._asking = self._stopping = False

    def __contains__(self, reader: Reader) -> bool:
        """Say whether it is here and nowhere else."""
        return reader in self._doubtful or reader in self._answered

    @property
    def is_closed(self) -> bool:
        """Whether there is no connection and none is being made."""
        return self._live is None

    def take(self, readers: Sequence[Reader]) -> None:
        """Ask for these."""
        self._doubtful += readers
        if self._doubtful and self._live is None and not self._stopping:
            self._live = LiveConnection(
                _ROLE,
                self._settings,
                self._loop,
                on_open=self._opened,
                on_lost=self._lost,
                on_stopped=self._stopped,
            )
            self._live.start()
        self.go_on()

    def go_on(self) -> None:
        """Ask for the next one if the broker has answered for the first, whatever it said."""
        if self._open is None:
            return
        if self._asking and not self._doubtful[0].asked:
            self._asking = False
            self._answered.append(self._doubtful.popleft())
        if self._doubtful and not self._asking:
            self._asking = True
            self._doubtful[0].start(self._open)

    def stop(self) -> None:
        """Close."""
        self._stopping = True
        if self._live is not None:
            self._live.stop()

    def _opened(self, connection: SelectConnection) -> dict[str, object]:
        self._open = connection
        self.go_on()
        return {"queues": len(self._doubtful)}

    def _lost(self, reason: object) -> None:
        self._open = None
        if self._asking:
            self._asking = False
            guilty = self._doubtful[0]
            self._doubtful.rotate(-1)
            self._inbox.refuse(guilty.queue, describe(reason), site=self._settings.site)
            _log.warning("broker.refused", **self._settings.named, name=guilty.queue, reason=describe(reason))
        answered, self._answered = self._answered, []
        if not self._doubtful and self._live is not None:
            self._live.stop()
        for reader in answered:
            self._go_home(reader)

    def _stopped(self) -> None:
        self._live = None
        if self._stopping:
            self._on_stopped()
        else:
            self.take([])
