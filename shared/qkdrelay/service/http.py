"""The HTTP server of a service: cheroot's, with few connections and none for long, whoever asks."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from typing import Any, Final
from wsgiref.types import WSGIApplication

import structlog
from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.wsgi import Server
from typing_extensions import override

from qkdrelay.errors import SettingsError
from qkdrelay.service.moderation import Moderator

LOOK_EVERY_S: Final = 0.5
"""How often the server looks whether it is to stop."""
_BACKLOG: Final = 128
"""Connections that the operating system takes before the server does."""
_FAILED: Final = "http.failed"
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of what those who ask may take up."""

    connections: int = 16
    """Open at a time; there are as many threads."""
    request_s: float = 5.0
    """Seconds that one request may take, from its connection to its end."""
    header_bytes: int = 64 * 1024
    body_bytes: int = 64 * 1024


@contextmanager
def serving(
    application: WSGIApplication, address: tuple[str, int] | None, *, setting: str, limits: HttpLimits | None = None
) -> Iterator[int]:
    """Serve ``application`` at ``address`` while in the ``with``; yield the port. None serves nothing.

    Raises SettingsError, with the name of the ``setting``, if the address cannot be bound.
    """
    if address is None:
        yield 0
        return
    host, port = address
    try:
        # The family is chosen here: a name can have addresses of both, and cheroot would take the first.
        bound = host if ":" in host else socket.gethostbyname(host)
        server = _Server((bound, port), application, limits or HttpLimits())
        server.prepare()
    except (OSError, SettingsError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{setting}: {host}:{port} cannot be served: {reason}") from None
    thread = threading.Thread(target=server.serve, name="http", daemon=True)
    thread.start()
    try:
        yield server.bind_addr[1]
    finally:
        server.stop()
        thread.join()


class _TimedSocket:
    """A socket on which one request waits no longer in all than it may, however slowly bytes come or go."""

    def __init__(self, inner: socket.socket, limit_s: float) -> None:
        self._inner, self._limit_s = inner, limit_s
        self.restart()

    def restart(self) -> None:
        """Give the time that a request has."""
        self.until = time.monotonic() + self._limit_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def recv_into(self, buffer: bytearray) -> int:
        """Receive; raises TimeoutError."""
        self._limit()
        return self._inner.recv_into(buffer)

    def send(self, data: bytes) -> int:
        """Send; raises TimeoutError."""
        self._limit()
        return self._inner.send(data)

    def _limit(self) -> None:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")  # the words that cheroot knows it by
        self._inner.settimeout(left_s)


class _Request(HTTPRequest):
    @override
    def parse_request(self) -> None:
        try:
            super().parse_request()
        except ValueError:  # of an address that is none, such as //[
            self.simple_response("400 Bad Request")
        self.conn.has_asked = self.ready


class _Connection(HTTPConnection):
    RequestHandlerClass = _Request

    def __init__(self, server: _Server, sock: socket.socket, makefile: Any) -> None:
        self._timed = _TimedSocket(sock, server.limits.request_s)
        super().__init__(server, self._timed, makefile)
        self.is_local = self.has_asked = False
        self._since = time.monotonic()
        with suppress(OSError):  # who asks has gone already
            self.is_local = sock.getpeername()[0] == sock.getsockname()[0]
        server.take_in(self)

    def rank(self) -> tuple[bool, bool, float]:
        """Return what orders those that are too many: on this machine, and then with its question asked, it stays."""
        return self.is_local, self.has_asked, self._since

    @override
    def communicate(self) -> bool:
        self._timed.restart()
        return bool(super().communicate())  # type: ignore[no-untyped-call]

    def cut(self) -> None:
        """Have its thread find it ended, whatever it waits for there."""
        with suppress(OSError):
            self._timed.shutdown(socket.SHUT_RDWR)

    @override
    def close(self) -> None:
        self.server.let_go(self)
        self.linger = False  # it would be left to the garbage collector
        with suppress(OSError):  # would end the server
            super().close()


class _Server(Server):
    ConnectionClass = _Connection
    keep_alive_conn_limit = 0

    def __init__(self, address: tuple[str, int], application: WSGIApplication, limits: HttpLimits) -> None:
        super().__init__(
            address,
            application,
            server_name="qkdrelay",
            # As many threads as connections: while one of these waits, a thread is free or about to be.
            numthreads=limits.connections,
            max=limits.connections,
            # Those that were cut and not yet seen to be; it bounds how far accepting is ahead.
            accepted_queue_size=limits.connections,
            accepted_queue_timeout=ceil(limits.request_s),
            request_queue_size=_BACKLOG,
            shutdown_timeout=0,
        )
        self.max_request_header_size, self.max_request_body_size = limits.header_bytes, limits.body_bytes
        self.expiration_interval = LOOK_EVERY_S
        self.limits = limits
        self._open: set[_Connection] = set()
        self._moderator = Moderator({_FAILED: "error"})
        self._lock = threading.Lock()

    @override
    def bind(self, family: int, type: int, proto: int = 0) -> Any:
        """Bind; raises SettingsError with the system's own words, which `prepare` would hide among others."""
        try:
            return super().bind(family, type, proto)
        except OSError as error:
            raise SettingsError(error.strerror or str(error)) from None

    def take_in(self, connection: _Connection) -> None:
        """Note a new connection; if there are enough, cut another."""
        with self._lock:
            if len(self._open) >= self.limits.connections:
                first = min(self._open, key=_Connection.rank)
                self._open.remove(first)
                first.cut()
            self._open.add(connection)

    def let_go(self, connection: _Connection) -> None:
        """Note that a connection is about to be closed; nobody cuts it any more, when its number may be another's."""
        with self._lock:
            self._open.discard(connection)

    @override
    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Log what fails here; what those who ask do wrong is not worth a line."""
        if level < logging.ERROR:
            return
        error = sys.exc_info()[0]
        fields = {"error": error.__name__ if error else msg, "exc_info": traceback}
        with self._lock:
            lines = list(self._moderator.passed([("error", _FAILED, fields)], time.time()))
        for line_level, event, shown in lines:
            getattr(log, line_level)(event, **shown)
