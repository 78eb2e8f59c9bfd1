"""The streams under pika's connections: frames whole, bytes in order, every end told once."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.adapters.select_connection import IOLoop
from pika.exceptions import InvalidFrameError

from qkdrelay.broker.rabbitmq.sockets import RESET_ON_CONNECTING, Sockets, SocketTransport


class Turns:
    """What a stream needs of an I/O loop, a turn at a time."""

    def __init__(self) -> None:
        self.reader: Callable[[], None] | None = None
        self.writer: Callable[[], None] | None = None
        self._later: list[Later] = []

    def set_reader(self, _fd: int, reader: Callable[[], None]) -> None:
        self.reader = reader

    def set_writer(self, _fd: int, writer: Callable[[], None]) -> None:
        self.writer = writer

    def remove_reader(self, _fd: int) -> None:
        self.reader = None

    def remove_writer(self, _fd: int) -> None:
        self.writer = None

    def call_later(self, delay: float, callback: Callable[[], None]) -> Later:
        assert delay == 0
        self._later.append(Later(callback))
        return self._later[-1]

    def turn(self) -> None:
        for callback in (self.writer, self.reader):
            if callback:
                callback()
        later, self._later = self._later, []
        for timer in later:
            if timer.callback:
                timer.callback()


class Later:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Protocol:
    """Keeps what a stream tells it."""

    def __init__(self) -> None:
        self.stream: Any = None
        self.frames: list[bytes] = []
        self.lost: list[BaseException | None] = []
        self.ends = 0
        self.stays = False
        self.on_frame: Callable[[], None] = lambda: None

    def connection_made(self, stream: Any) -> None:
        self.stream = stream

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.frames.append(data)
        self.on_frame()

    def eof_received(self) -> bool:
        self.ends += 1
        return self.stays

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)


class Link:
    """A protocol on a stream, and the other end's socket."""

    def __init__(self) -> None:
        ours, self.far = socket.socketpair()
        ours.setblocking(False)
        self.ours = ours
        self.turns, self.protocol = Turns(), Protocol()
        self.done: list[Any] = []
        self.stream = SocketTransport(self.turns, ours, lambda: self.protocol, self.done.append)  # type: ignore[arg-type]

    def linked(self) -> Link:
        self.turns.turn()
        assert self.done == [(self.stream, self.protocol)]
        assert self.protocol.stream is self.stream.get_protocol().stream
        return self


@contextmanager
def linked() -> Iterator[Link]:
    link = Link().linked()
    try:
        yield link
    finally:
        link.ours.close()
        link.far.close()


def frame(payload: bytes, kind: int = 3) -> bytes:
    return struct.pack(">BHL", kind, 1, len(payload)) + payload + b"\xce"


LENGTHS = st.one_of(st.integers(0, 300), st.just(131_064), st.integers(0, 131_064))


@given(st.lists(LENGTHS, max_size=12), st.lists(st.one_of(st.integers(1, 12), st.integers(1, 200_000)), min_size=1))
def test_frames_come_whole_in_whatever_pieces_they_are_sent(lengths: list[int], pieces: list[int]) -> None:
    frames = [frame(bytes([place]) * length) for place, length in enumerate(lengths)]
    data = b"".join(frames)
    with linked() as link:
        place = turn = 0
        while place < len(data):
            # Beyond a thousand pieces one by one takes long and shows nothing more.
            size = pieces[turn % len(pieces)] if turn < 1_000 else len(data)
            link.far.setblocking(False)
            place += link.far.send(data[place : place + size])
            turn += 1
            link.turns.turn()
        link.far.shutdown(socket.SHUT_WR)
        while not link.protocol.lost:
            link.turns.turn()
        assert link.protocol.frames == frames
        assert (link.protocol.ends, link.protocol.lost) == (1, [None])


@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=200), st.integers(1, 100_000))
def test_what_is_written_arrives_in_its_order_however_little_room_there_is(lengths: list[int], taken: int) -> None:
    with linked() as link:
        link.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sent = [bytes([place % 251]) * length for place, length in enumerate(lengths)]
        for place, data in enumerate(sent):
            link.stream.write(data)
            if place % 7 == 0:
                link.turns.turn()
        wanted, got = b"".join(sent), bytearray()
        while len(got) < len(wanted):
            link.turns.turn()
            got += link.far.recv(max(taken, 4096))
        assert got == wanted
        link.turns.turn()
        assert link.stream.get_write_buffer_size() == 0
        assert link.turns.writer is None


def test_what_is_written_in_one_turn_leaves_with_one_call() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps the bounds of what is sent
    with left, right:
        left.setblocking(False)
        turns, protocol = Turns(), Protocol()
        stream = SocketTransport(turns, left, lambda: protocol, lambda _: None)  # type: ignore[arg-type]
        turns.turn()
        for part in (b"method", b"header", b"body"):
            stream.write(part)
        turns.turn()
        assert right.recv(100) == b"methodheaderbody"


def test_a_broker_of_another_version_is_heard() -> None:
    with linked() as link:
        link.far.sendall(b"AMQP\x00\x00")
        link.turns.turn()
        assert link.protocol.frames == []
        link.far.sendall(b"\x09\x01")
        link.turns.turn()
        assert link.protocol.frames == [b"AMQP\x00\x00\x09\x01"]


def test_nothing_is_lost_if_the_protocol_raises_what_reading_may_raise() -> None:
    # A log line into a pipe that nobody empties raises it, under a delivery.
    with linked() as link:

        def fail() -> None:
            raise BlockingIOError

        link.protocol.on_frame = fail
        link.far.sendall(frame(b"one") + frame(b"two"))
        link.turns.turn()
        link.turns.turn()
        assert [type(error) for error in link.protocol.lost] == [BlockingIOError]


def test_a_header_longer_than_agreed_is_taken_as_the_broker_sends_it() -> None:
    with linked() as link:
        long = frame(bytes(131_072), kind=2)
        link.far.setblocking(False)
        place = 0
        while place < len(long):
            place += link.far.send(long[place:])
            link.turns.turn()
        link.turns.turn()
        assert link.protocol.frames == [long]


def test_a_protocol_may_stay_after_the_other_end_has_closed() -> None:
    with linked() as link:
        link.protocol.stays = True
        link.far.shutdown(socket.SHUT_WR)
        for _ in range(3):
            link.turns.turn()
        assert (link.protocol.ends, link.protocol.lost, link.turns.reader) == (1, [], None)
        link.stream.write(b"still here")
        link.turns.turn()
        assert link.far.recv(100) == b"still here"
        link.stream.abort()
        link.turns.turn()
        assert link.protocol.lost == [None]


def test_a_protocol_may_end_the_connection_when_it_is_told_of_it() -> None:
    ours, far = socket.socketpair()
    turns, done = Turns(), []

    class Leaving(Protocol):
        def connection_made(self, stream: Any) -> None:
            stream.abort()

    with far:
        SocketTransport(turns, ours, Leaving, done.append)  # type: ignore[arg-type]
        turns.turn()
        turns.turn()
        assert (len(done), ours.fileno(), turns.reader, turns.writer) == (1, -1, None, None)


def test_a_frame_longer_than_any_ends_the_connection_and_takes_no_memory() -> None:
    with linked() as link:
        link.far.sendall(frame(b"whole") + struct.pack(">BHL", 3, 1, 1 << 31) + bytes(1000))
        link.turns.turn()
        link.turns.turn()
        assert link.protocol.frames == [frame(b"whole")]
        assert [type(error) for error in link.protocol.lost] == [InvalidFrameError]
        assert link.turns.reader is None


def test_nothing_follows_a_frame_that_the_protocol_fails_on_or_aborts_at() -> None:
    def fail() -> None:
        raise KeyError("a fault of pika's")

    for how, lost in ((fail, [KeyError]), (None, [type(None)])):
        with linked() as link:
            link.protocol.on_frame = how or link.stream.abort
            link.far.sendall(frame(b"one") + frame(b"two"))
            link.turns.turn()
            link.turns.turn()
            assert link.protocol.frames == [frame(b"one")]
            assert [type(error) for error in link.protocol.lost] == lost
            link.stream.write(b"too late")
            link.stream.abort()
            link.turns.turn()
            assert len(link.protocol.lost) == 1


@pytest.mark.parametrize("writing", [False, True])
def test_a_connection_that_is_reset_is_told_as_lost_once(writing: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        ours.setblocking(False)
        turns, protocol = Turns(), Protocol()
        stream = SocketTransport(turns, ours, lambda: protocol, lambda _: None)  # type: ignore[arg-type]
        turns.turn()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        if writing:
            turns.remove_reader(0)
            stream.write(b"into the void")
        for _ in range(4):
            turns.turn()
        assert [isinstance(error, OSError) for error in protocol.lost] == [True]
        assert ours.fileno() == -1


def test_one_that_is_dropped_before_it_is_set_up_is_closed_and_says_nothing() -> None:
    link = Link()
    assert link.stream.cancel()
    link.turns.turn()
    assert (link.done, link.ours.fileno()) == ([], -1)
    with linked() as other:
        assert not other.stream.cancel()


@pytest.mark.parametrize("when", ["made", "told of its connection"])
def test_a_protocol_that_fails_at_once_is_told_to_who_connects(when: str) -> None:
    ours, far = socket.socketpair()
    turns, done, error = Turns(), [], ValueError("no parameters")

    class Failing(Protocol):
        def __init__(self) -> None:
            if when == "made":
                raise error
            super().__init__()

        def connection_made(self, stream: Any) -> None:
            stream.write(b"what nobody is to read")
            raise error

    with far:
        SocketTransport(turns, ours, Failing, done.append)  # type: ignore[arg-type]
        turns.turn()
        turns.turn()
        assert (done, ours.fileno(), turns.reader, turns.writer) == ([error], -1, None, None)


def test_a_connection_with_tls_that_is_gone_the_moment_it_is_made_is_a_failure_like_others():
    """As if reset before pika looks whether it is there, which raises what would end the I/O loop."""
    loop, ended = IOLoop(), []

    def on_done(outcome: object) -> None:
        ended.append(outcome)
        loop.stop()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with socket.socket() as never_connected:
        never_connected.setblocking(False)
        Sockets(loop).create_streaming_connection(
            lambda: None, never_connected, on_done, ssl_context=context, server_hostname="broker.example"
        )
        loop.start()
    loop.close()
    (error,) = ended
    assert isinstance(error, ConnectionResetError)
    assert str(error) == RESET_ON_CONNECTING
