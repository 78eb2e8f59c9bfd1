"""Publishes for one service: the half of the broker that sends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog
from pika.adapters.select_connection import IOLoop, SelectConnection

from qkdrelay.broker.port import Publication
from qkdrelay.broker.rabbitmq.connection import LiveConnection
from qkdrelay.broker.rabbitmq.inbox import Inbox
from qkdrelay.broker.rabbitmq.lane import Lane
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings

ROLE: Final = "publish"
_LANES_MAX: Final = 500
"""Each is a channel, of which RabbitMQ allows 2,047 on a connection."""

_log = structlog.get_logger()


class Publisher:
    """Lives on the I/O loop's thread; all methods are called there.

    RabbitMQ stops reading from a channel while a queue that it publishes to does not keep up, and ends one that
    publishes to a missing exchange. So each routing key has a lane of its own.
    """

    def __init__(self, settings: RabbitMqSettings, loop: IOLoop, inbox: Inbox, on_stopped: Callable[[], None]) -> None:
        self._settings = settings
        self._loop = loop
        self._inbox = inbox
        self._live = LiveConnection(
            ROLE, settings, loop, on_open=self._opened, on_lost=self._lost, on_stopped=on_stopped
        )
        self._open: SelectConnection | None = None
        self._blocks = False
        self._lanes: dict[tuple[str, str], Lane] = {}
        """By exchange and routing key; clients' queues, and keys beyond `_LANES_MAX`, share one of their exchange."""
        self._finishing = False

    def start(self) -> None:
        """Connect."""
        self._live.start()

    def publish(self, publications: Iterable[Publication]) -> None:
        """Take the publications over; an observation is dropped at once if it cannot be sent."""
        by_lane: dict[Lane, list[Publication]] = defaultdict(list)
        for publication in publications:
            by_lane[self._lane(publication.exchange, publication.routing_key)].append(publication)
        for lane, taken in by_lane.items():
            lane.publish(taken)

    def _lane(self, exchange: str, key: str) -> Lane:
        is_full = len(self._lanes) >= _LANES_MAX and (exchange, key) not in self._lanes
        if is_full or ".q." in key:
            key = ""
        lane = self._lanes.get((exchange, key))
        if lane is None:
            lane = self._lanes[exchange, key] = Lane(
                exchange,
                self._settings,
                self._loop,
                self._inbox,
                may_send=self._may_send,
                on_refusals=self._live.drop_for_another_node,
                on_idle=self._stop_if_idle,
            )
            if self._open is not None:
                lane.start(self._open)
        return lane

    def finish(self) -> None:
        """Close as soon as everything is confirmed."""
        self._finishing = True
        self._stop_if_idle()

    def stop(self) -> None:
        """Close; what is not confirmed stays so."""
        self._live.stop()

    def _may_send(self) -> bool:
        return self._open is not None and not self._blocks

    def _opened(self, connection: SelectConnection) -> dict[str, object]:
        self._open = connection
        self._inbox.new_publishing()
        self._set_blocks("")
        connection.add_on_connection_blocked_callback(self._blocked)
        connection.add_on_connection_unblocked_callback(self._unblocked)
        waiting = sum(lane.waiting for lane in self._lanes.values())
        for lane in self._lanes.values():
            lane.start(connection)
        return {"waiting": waiting}

    def _blocked(self, _connection: SelectConnection, frame: Any) -> None:
        """Hold back: the broker is short of memory or disk and no longer reads from this connection."""
        reason = str(frame.method.reason)
        _log.warning("broker.blocked", user=self._settings.user, reason=reason)
        self._set_blocks(reason or "no reason given")

    def _unblocked(self, _connection: SelectConnection, _frame: Any) -> None:
        _log.info("broker.unblocked", user=self._settings.user)
        self._set_blocks("")
        for lane in self._lanes.values():
            lane.send()

    def _set_blocks(self, reason: str) -> None:
        self._blocks = bool(reason)
        self._inbox.block(reason)
        self._inbox.working(ROLE, works=self._may_send())

    def _lost(self, _reason: object) -> None:
        self._open = None
        self._set_blocks("")
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if self._finishing and all(lane.is_idle for lane in self._lanes.values()):
            self._finishing = False
            self.stop()
