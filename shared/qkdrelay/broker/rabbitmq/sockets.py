"""Streams for pika's connections: as its own, and several times as fast."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from pika.adapters.utils.nbio_interface import AbstractIOReference, AbstractStreamTransport
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter
from pika.exceptions import InvalidFrameError
from pika.spec import FRAME_END_SIZE, FRAME_HEADER_SIZE

RESET_ON_CONNECTING: Final = "the connection was reset as soon as it was made"

_HEADER_BYTES: Final[int] = FRAME_HEADER_SIZE
_END_BYTES: Final[int] = FRAME_END_SIZE
_PAYLOAD_MAX: Final = 1 << 20
"""Bytes in a frame. A bound on memory: RabbitMQ itself goes beyond the size agreed on when a header is long."""
_SIZE_AT: Final = slice(3, 7)
_GREETING, _GREETING_BYTES = b"AMQP", 8
"""The answer of a broker of another version, in place of a frame."""
_READ_BYTES: Final = 1 << 18
_BUFFERS_MAX: Final = 64
"""Frames handed to the system in one call."""


class Sockets(SelectorIOServicesAdapter):  # type: ignore[misc] # pika has no types that can be relied on
    """pika's I/O services, with streams of our own for connections without TLS.

    A connection that is reset at the very moment it is made is a failure like any other here. A broker that restarts
    behind a proxy or a container's published port does that. pika 1.4.4 raises ValueError then ("Expected connected
    socket"), through the I/O loop, and that would be the end of the service.
    """

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], Any],
        sock: socket.socket,
        on_done: Callable[[Any], None],
        ssl_context: Any = None,
        server_hostname: str | None = None,
    ) -> Any:
        """See pika; ``on_done`` gets the stream and its protocol, or what went wrong."""
        if ssl_context is None:
            return SocketTransport(self, sock, protocol_factory, on_done)
        try:
            return super().create_streaming_connection(protocol_factory, sock, on_done, ssl_context, server_hostname)
        except ValueError:
            return self.call_later(0, partial(on_done, ConnectionResetError(RESET_ON_CONNECTING)))


class SocketTransport(AbstractStreamTransport, AbstractIOReference):  # type: ignore[misc]
    """A TCP connection of a protocol of pika's; also the reference to its being set up.

    What is written in one turn of the loop leaves with one call of the system, not with three for each message; what
    comes is read in large pieces and handed over frame by frame, not in pieces of 4 KiB each of which pika looks
    through anew for the end of its frame.
    """

    def __init__(
        self, sockets: Sockets, sock: socket.socket, protocol_factory: Callable[[], Any], on_done: Callable[[Any], None]
    ) -> None:
        self._sockets, self._sock = sockets, sock
        self._read = bytearray(_READ_BYTES)
        self._part = bytearray()
        """The beginning of a frame whose end has not come."""
        self._unsent: list[bytes] = []
        self._flushing = self._blocked = self._failed = False
        self._protocol: Any = None
        self._linking = sockets.call_later(0, lambda: self._link(protocol_factory, on_done))

    def cancel(self) -> bool:
        """Drop it before it is set up."""
        self._linking.cancel()
        if self._protocol is not None:
            return False
        self._sock.close()
        return True

    def _link(self, protocol_factory: Callable[[], Any], on_done: Callable[[Any], None]) -> None:
        try:
            self._protocol = protocol_factory()
            self._sockets.set_reader(self._sock.fileno(), self._readable)
            self._protocol.connection_made(self)
        except Exception as error:
            self._failed = True
            self._sockets.remove_reader(self._sock.fileno())
            self._sock.close()
            on_done(error)
        else:
            on_done((self, self._protocol))

    def get_protocol(self) -> Any:
        """Return the protocol it carries."""
        return self._protocol

    def get_write_buffer_size(self) -> int:
        """Return the bytes written that the system has not taken."""
        return sum(map(len, self._unsent))

    def abort(self) -> None:
        """Close at once; the protocol is told later."""
        self._end(None)

    def write(self, data: bytes) -> None:
        """Send ``data``, with all that is written in this turn of the loop."""
        self._unsent.append(data)
        if not self._flushing:
            self._flushing = True
            self._sockets.call_later(0, self._flush)

    def _flush(self) -> None:
        if self._failed:
            return
        try:
            while self._unsent:
                sent = self._sock.sendmsg(self._unsent[:_BUFFERS_MAX])
                self._unsent = _rest(self._unsent, sent)
        except BlockingIOError:
            self._watch_for_room(watch=True)
        except OSError as error:
            self._end(error)
        else:
            self._watch_for_room(watch=False)
            self._flushing = False

    def _watch_for_room(self, *, watch: bool) -> None:
        if watch != self._blocked:
            self._blocked = watch
            if watch:
                self._sockets.set_writer(self._sock.fileno(), self._flush)
            else:
                self._sockets.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        if self._failed:
            return
        try:
            count = self._sock.recv_into(self._read)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        try:  # apart from reading: what the protocol raises may look the same, and what was read would be lost
            if count:
                self._take(memoryview(self._read)[:count])
            elif self._protocol.eof_received():
                self._sockets.remove_reader(self._sock.fileno())
            else:
                self._end(None)
        except Exception as error:
            self._end(error)

    def _take(self, data: memoryview) -> None:
        """Hand over the frames that are whole now, keep the rest."""
        if self._part:
            self._part += data
            if len(self._part) < _frame_bytes(self._part):
                return
            data, self._part = memoryview(self._part), bytearray()
        place = 0
        while not self._failed:
            size = _frame_bytes(data[place : place + _HEADER_BYTES])
            if place + size > len(data):
                break
            self._protocol.data_received(bytes(data[place : place + size]))
            place += size
        self._part += data[place:]

    def _end(self, error: BaseException | None) -> None:
        if self._failed:
            return
        self._failed = True
        self._unsent = []
        self._sockets.remove_reader(self._sock.fileno())
        self._watch_for_room(watch=False)
        self._sockets.call_later(0, lambda: self._lost(error))

    def _lost(self, error: BaseException | None) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._protocol.connection_lost(error)


def _frame_bytes(begun: bytearray | memoryview) -> int:
    """Return how long a frame is that begins so, or so far; raise InvalidFrameError for what is too long for one."""
    if len(begun) < _HEADER_BYTES:
        return _HEADER_BYTES
    if bytes(begun[: len(_GREETING)]) == _GREETING:
        return _GREETING_BYTES
    size = int.from_bytes(begun[_SIZE_AT])
    if size > _PAYLOAD_MAX:
        raise InvalidFrameError(f"a frame of {size} bytes; at most {_PAYLOAD_MAX} are taken")
    return _HEADER_BYTES + size + _END_BYTES


def _rest(buffers: list[bytes], sent: int) -> list[bytes]:
    """Return what remains of the buffers when their first ``sent`` bytes are gone."""
    for place, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [buffer[sent:], *buffers[place + 1 :]]
        sent -= len(buffer)
    return []
