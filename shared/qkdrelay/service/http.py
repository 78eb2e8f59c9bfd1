"""A service's health and metrics over HTTP: ``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from qkdrelay.errors import SettingsError
from qkdrelay.escaping import escaped

ALIVE_S = 30.0
"""A loop that has not turned for longer is stuck; its longest batches take a few seconds."""
CONNECTIONS_MAX = 16
REQUEST_S = 5.0
"""How long one request may take, from its connection to its end."""
LOOK_EVERY_S = 0.5
"""How often the server looks whether to cut somebody, or to stop."""


class Health:
    """How a service is: its loop writes, whoever asks reads, from another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` returns seconds and never steps back."""
        self._clock = clock
        self._last = (clock(), "not connected to the broker", "")

    def turned(self, *, obstacle: str, remark: str = "") -> None:
        """Note that the loop has turned.

        ``obstacle`` says why the service is not ready, ``remark`` what else does not work; both empty for nothing.
        """
        self._last = (self._clock(), obstacle, remark)

    def ailment(self) -> str:
        """Return why the service is not alive, or nothing."""
        since = self._clock() - self._last[0]
        return f"the loop has not turned for {since:.0f} s" if since > ALIVE_S else ""

    def obstacle(self) -> str:
        """Return why the service is not ready, or nothing."""
        return self.ailment() or self._last[1]

    def remark(self) -> str:
        """Return what does not work although the service is ready, or nothing."""
        return self._last[2]


@contextmanager
def serving(address: tuple[str, int] | None, registry: CollectorRegistry, health: Health) -> Iterator[int]:
    """Serve at ``address`` while in the ``with``; yield the port. None serves nothing.

    Raises SettingsError if the address cannot be bound.
    """
    if address is None:
        yield 0
        return
    host, port = address
    server_class = _Server6 if ":" in host else _Server
    try:
        server = make_server(host, port, _application(registry, health), server_class, _Handler)
    except OSError as error:
        raise SettingsError(f"QKDRELAY_HTTP: {host}:{port} cannot be served: {error.strerror or error}") from None
    ProcessCollector(registry=registry)
    thread = threading.Thread(target=server.serve_forever, args=[LOOK_EVERY_S], name="http", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _application(registry: CollectorRegistry, health: Health) -> Any:
    metrics = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            page: Iterable[bytes] = metrics(environ, start)
            return page
        if path not in ("/healthz", "/readyz"):
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"there are /healthz, /readyz and /metrics\n"]
        ready = path == "/readyz"
        wrong = health.obstacle() if ready else health.ailment()
        right = f"ok, but {health.remark()}" if ready and health.remark() else "ok"
        start("503 Service Unavailable" if wrong else "200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{escaped(wrong or right)}\n".encode()]

    return answer


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S
    server: _Server

    def parse_request(self) -> bool:
        """Note that the whole question is there."""
        whole = super().parse_request()
        if whole:
            self.server.asked(self.request)
        return whole

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing: the log tells what happens to shares and relays."""


@dataclass(slots=True)
class _Connection:
    """What decides which of too many is cut: who is on this machine, and then who has asked, stays longest."""

    is_local: bool
    since: float
    has_asked: bool = False

    def __lt__(self, other: _Connection) -> bool:
        """Say whether it is cut sooner."""
        return (self.is_local, self.has_asked, self.since) < (other.is_local, other.has_asked, other.since)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, few at a time, none for long; who asks nothing makes room for who comes."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *args: Any, **options: Any) -> None:
        self._open: dict[Any, _Connection] = {}
        self._lock = threading.Lock()
        super().__init__(*args, **options)

    def server_bind(self) -> None:
        """Bind, without asking for the name of this machine as `HTTPServer` does: that may take a minute."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection; if there are enough, instead of another."""
        is_local = request.getsockname()[0] == client_address[0]
        with self._lock:
            if len(self._open) >= CONNECTIONS_MAX:
                self._cut(min(self._open, key=self._open.__getitem__))
            self._open[request] = _Connection(is_local, time.monotonic())
        super().process_request(request, client_address)

    def asked(self, request: Any) -> None:
        """Note that a connection has asked its question."""
        with self._lock:
            if request in self._open:
                self._open[request].has_asked = True

    def service_actions(self) -> None:
        """Cut what takes too long; called every `LOOK_EVERY_S`."""
        with self._lock:
            for request, connection in tuple(self._open.items()):
                if time.monotonic() - connection.since > REQUEST_S:
                    self._cut(request)

    def _cut(self, request: Any) -> None:
        del self._open[request]
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)  # its thread closes it

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever asked has gone."""


class _Server6(_Server):
    address_family = socket.AF_INET6
