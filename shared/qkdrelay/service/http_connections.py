"""Connections of an HTTP server: each request has so much time, and with TLS a client that has shown a certificate."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from cheroot.makefile import MakeFile, StreamReader
from cheroot.server import HTTPConnection, HTTPRequest
from cheroot.ssl import Adapter
from typing_extensions import override

from qkdrelay.service.http_headers import read_headers
from qkdrelay.service.http_tls import ClientTls

CLIENT_CERTIFICATE: Final = "qkdrelay.client_certificate"
"""Of a request's environment, with TLS: the certificate (DER) that the client has shown, verified."""
_LENGTH: Final = re.compile(rb"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of what those who ask may take up."""

    connections: int = 16
    """Open at a time."""
    threads: int = 16
    """Requests that are read or answered at a time."""
    slow: int = 16
    """Connections whose thread waits for who is at the other end: there must be threads for the others."""
    each_address: int = 16
    """Connections of one address."""
    request_s: float = 5.0
    """Seconds that may be waited in all for who is at the other end, from a request's connection to its end."""
    idle_s: int = 10
    """Seconds for which a connection is kept that asks nothing more."""
    header_bytes: int = 64 * 1024
    body_bytes: int = 64 * 1024


class TimedSocket:
    """A socket on which one request waits no longer in all than it may, however slowly bytes come or go.

    Only waiting for who is at the other end counts: how long an answer takes to be found is not theirs to answer for.
    """

    def __init__(self, inner: Any, limit_s: float) -> None:
        self.inner, self._limit_s = inner, limit_s
        self.waits = True
        """Whether a thread waits, or is about to, for who is at the other end."""
        self.restart()

    def restart(self) -> None:
        """Give the time that a request has."""
        self.since, self._left_s = time.monotonic(), self._limit_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def recv_into(self, buffer: bytearray) -> int:
        """Receive; raises TimeoutError."""
        with self._limited():
            received = int(self.inner.recv_into(buffer))
        self.waits = False
        return received

    def send(self, data: bytes) -> int:
        """Send; raises TimeoutError."""
        with self._limited():
            sent = int(self.inner.send(data))
        self.waits = False
        return sent

    def do_handshake(self) -> None:
        """Shake hands; raises TimeoutError."""
        with self._limited():
            self.inner.do_handshake()

    @contextmanager
    def _limited(self) -> Iterator[None]:
        if self._left_s <= 0:
            raise TimeoutError("timed out")  # the words that cheroot knows it by
        self.inner.settimeout(self._left_s)
        self.waits, began = True, time.monotonic()
        try:
            yield
        finally:
            self._left_s -= time.monotonic() - began


class TlsAdapter(Adapter):
    """TLS as cheroot knows it; the handshake is left to the connection's own thread."""

    def __init__(self, tls: ClientTls) -> None:
        self._tls = tls

    @override
    def bind(self, sock: socket.socket) -> socket.socket:
        return sock

    @override
    def wrap(self, sock: socket.socket) -> tuple[ssl.SSLSocket, dict[str, Any]]:
        return self._tls.wrap(sock), {}

    @override
    def get_environ(self) -> dict[str, Any]:
        return {}

    @override
    def makefile(self, sock: Any, mode: str = "r", bufsize: int = -1) -> Any:
        return TlsReader(sock, mode, bufsize) if "r" in mode else MakeFile(sock, mode, bufsize)


class TlsReader(StreamReader):
    """What has come over a connection with TLS."""

    def __init__(self, sock: Any, mode: str, bufsize: int) -> None:
        super().__init__(sock, mode, bufsize)
        self._decrypted = sock

    @override
    def has_data(self) -> bool:
        """Whether there is something to read already: what TLS has decrypted wakes nobody who waits for the socket."""
        return bool(super().has_data() or self._decrypted.pending())  # type: ignore[no-untyped-call]


class ClientRequest(HTTPRequest):
    """One request: refused if it is not clear where it ends."""

    header_reader = staticmethod(read_headers)

    @override
    def parse_request(self) -> None:
        try:
            super().parse_request()
        except ValueError:  # of an address that is none, such as //[
            self.simple_response("400 Bad Request")
            self.ready = False
        if self.ready and not self._has_one_length():
            self.simple_response("400 Bad Request", "the length of the body is not clear")
            self.ready = False
        self.conn.has_asked |= self.ready

    @override
    def write(self, chunk: bytes) -> None:
        """Write a part of the answer: after HEAD its body is not sent, or it would be taken for the next answer."""
        if self.method != b"HEAD":
            super().write(chunk)

    def _has_one_length(self) -> bool:
        """Whether it is clear where the body ends, and the next request begins."""
        length = self.inheaders.get(b"Content-Length")
        if self.chunked_read:
            # What follows the chunks is not told apart from the next request by everybody in the same way.
            self.close_connection = True
            return length is None
        return length is None or _LENGTH.fullmatch(length.strip()) is not None

    @override
    def simple_response(self, status: str, msg: str = "") -> None:
        """Write an answer of the server's own, and have the connection closed."""
        if self.server.tls is None:
            super().simple_response(status, msg)
            return
        code, _, words = str(status).partition(" ")
        body = json.dumps({"message": msg or words}).encode()
        head = (
            f"{self.server.protocol} {code} {words}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.close_connection = self.sent_headers = True
        with suppress(OSError):  # who asks has gone already
            self.conn.wfile.write(head.encode("latin-1") + body)


class ClientConnection(HTTPConnection):
    """A connection: its handshake and its requests, each bounded in time; it can be cut by another thread."""

    RequestHandlerClass = ClientRequest

    def __init__(self, server: Any, sock: socket.socket, makefile: Any) -> None:
        self._timed = TimedSocket(sock, server.limits.request_s)
        super().__init__(server, self._timed, makefile)
        self.is_local = self.has_asked = self._has_shaken = False
        self.address = ""
        self._since = time.monotonic()
        self._generation = server.tls.generation if server.tls else 0
        with suppress(OSError):  # who asks has gone already
            self.address = sock.getpeername()[0]
            self.is_local = self.address == sock.getsockname()[0]
        server.take_in(self)

    def rank(self) -> tuple[bool, bool, float]:
        """Return what orders those that are too many: on this machine, and then with its question asked, it stays."""
        return self.is_local, self.has_asked, self._since

    @property
    def is_slow(self) -> bool:
        """Whether its thread waits for who is at the other end."""
        return self._timed.waits

    def begun(self) -> tuple[bool, float]:
        """Return what orders slow ones: who is not on this machine, and then whose request began first, goes first."""
        return self.is_local, self._timed.since

    @override
    def communicate(self) -> bool:
        self._timed.restart()
        try:
            return self._may_ask() and bool(super().communicate())  # type: ignore[no-untyped-call]
        except OSError:  # while it is told that it took too long, say
            return False

    def _may_ask(self) -> bool:
        """Shake hands, once; whether what the client has shown counts."""
        tls = self.server.tls
        if tls is None:
            return True
        if not self._has_shaken:
            self._timed.do_handshake()
            self._has_shaken = True
            self.ssl_env = {CLIENT_CERTIFICATE: self._timed.getpeercert(binary_form=True)}
        tls.look()
        return bool(self._generation == tls.generation)

    def cut(self) -> None:
        """Have its thread find it ended, whatever it waits for there."""
        with suppress(OSError):
            # Of a socket with TLS this would end that only, and forget it.
            socket.socket.shutdown(self._timed.inner, socket.SHUT_RDWR)

    @override
    def close(self) -> None:
        self.server.let_go(self)
        self.linger = False  # it would be left to the garbage collector
        with suppress(OSError):  # would end the server
            super().close()
