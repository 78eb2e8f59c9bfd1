"""The HTTP server of a service: cheroot's, with few connections and none for long, whoever asks.

Without TLS each connection has one request; with it, connections are kept for the next one.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil
from typing import Any, Final
from wsgiref.types import WSGIApplication

import structlog
from cheroot.wsgi import Server
from typing_extensions import override

from qkdrelay.errors import SettingsError
from qkdrelay.service.http_connections import ClientConnection, HttpLimits, TlsAdapter
from qkdrelay.service.http_tls import ClientTls
from qkdrelay.service.moderation import Moderator

LOOK_EVERY_S: Final = 0.5
"""How often the server looks whether it is to stop."""
_STOP_S: Final = 0.01
_BACKLOG: Final = 1_024
"""Connections that the system takes before the server does: one that finds no room tries again in a second."""
_FAILED: Final = "http.failed"
log = structlog.get_logger()


@contextmanager
def serving(
    application: WSGIApplication,
    address: tuple[str, int] | None,
    *,
    setting: str,
    limits: HttpLimits | None = None,
    tls: ClientTls | None = None,
) -> Iterator[int]:
    """Serve ``application`` at ``address`` while in the ``with``; yield the port. None serves nothing.

    With ``tls`` the server's own errors are JSON objects with a ``message``, as the application's are to be.

    Raises SettingsError, with the name of the ``setting``, if the address cannot be bound.
    """
    if address is None:
        yield 0
        return
    host, port = address
    try:
        # The family is chosen here: a name can have addresses of both, and cheroot would take the first.
        bound = host if ":" in host else socket.gethostbyname(host)
        server = _Server((bound, port), application, limits or HttpLimits(), tls)
        server.prepare()
    except (OSError, SettingsError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{setting}: {host}:{port} cannot be served: {reason}") from None
    thread = threading.Thread(target=server.serve, name="http", daemon=True)
    thread.start()
    try:
        yield server.bind_addr[1]
    finally:
        stopping = threading.Thread(target=server.stop, name="http-stop")
        stopping.start()
        # It looks whether it is to stop when a connection comes, or half a second later.
        while stopping.is_alive():
            with suppress(OSError):
                socket.create_connection(server.bind_addr[:2], timeout=_STOP_S).close()
            stopping.join(_STOP_S)
        thread.join()


class _Server(Server):
    ConnectionClass = ClientConnection

    def __init__(
        self, address: tuple[str, int], application: WSGIApplication, limits: HttpLimits, tls: ClientTls | None
    ) -> None:
        super().__init__(
            address,
            application,
            server_name="qkdrelay",
            numthreads=limits.threads,
            max=limits.threads,
            # Those that were cut and not yet seen to be; it bounds how far accepting is ahead.
            accepted_queue_size=limits.connections,
            timeout=limits.idle_s,
            accepted_queue_timeout=ceil(limits.request_s),
            request_queue_size=_BACKLOG,
            shutdown_timeout=0,
        )
        self.max_request_header_size, self.max_request_body_size = limits.header_bytes, limits.body_bytes
        self.expiration_interval = LOOK_EVERY_S
        self.limits, self.tls = limits, tls
        if tls is not None:
            self.ssl_adapter = TlsAdapter(tls)
        self.keep_alive_conn_limit = 0 if tls is None else limits.connections
        self._open: set[ClientConnection] = set()
        self._stopping = False
        self._moderator = Moderator({_FAILED: "error"})
        self._lock = threading.Lock()

    @override
    def bind(self, family: int, type: int, proto: int = 0) -> Any:
        """Bind; raises SettingsError with the system's own words, which `prepare` would hide among others."""
        try:
            return super().bind(family, type, proto)
        except OSError as error:
            raise SettingsError(error.strerror or str(error)) from None

    def take_in(self, connection: ClientConnection) -> None:
        """Note a new connection; if there are enough of its kind, cut another."""
        limits = self.limits
        with self._lock:
            same = {other for other in self._open if other.address == connection.address}
            slow = {other for other in self._open if other.is_slow}
            if len(slow) >= limits.slow:
                self._cut(min(slow, key=ClientConnection.begun))
            elif len(same) >= limits.each_address:
                self._cut(min(same, key=ClientConnection.rank))
            elif len(self._open) >= limits.connections:
                self._cut(min(self._open, key=ClientConnection.rank))
            self._open.add(connection)
            if self._stopping:
                self._cut(connection)

    def _cut(self, connection: ClientConnection) -> None:
        self._open.remove(connection)
        connection.cut()

    def let_go(self, connection: ClientConnection) -> None:
        """Note that a connection is about to be closed; nobody cuts it any more, when its number may be another's."""
        with self._lock:
            self._open.discard(connection)

    @override
    def stop(self) -> None:
        """Stop; who does not ask, or does not read, is not waited for, nor who comes now."""
        with self._lock:
            self._stopping = True
            for connection in [other for other in self._open if other.is_slow]:
                self._cut(connection)
        super().stop()

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
