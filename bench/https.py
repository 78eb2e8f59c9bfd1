"""Requests over kept-alive TLS connections, from a process of their own: plain sockets, and no more than is needed."""

from __future__ import annotations

import json
import multiprocessing
import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

WITHIN_S = 60.0
"""Seconds that a server has for an answer."""
_READ_BYTES = 1 << 16
_END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True)
class Server:
    """Where to ask, and as whom: ``folder`` has ``ca.pem``, which vouches for the server, ``cert.pem``, ``key.pem``."""

    port: int
    folder: Path
    host: str = "127.0.0.1"

    def connect(self) -> ssl.SSLSocket:
        """Return a new connection, its handshake done."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        context.load_cert_chain(self.folder / "cert.pem", self.folder / "key.pem")
        plain = socket.create_connection((self.host, self.port), WITHIN_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(plain, server_hostname=self.host)


@dataclass(frozen=True)
class Answer:
    """What came back: the status, when it was asked for and when it was there (monotonic clock, seconds)."""

    status: int
    asked: float
    came: float
    body: bytes = field(default=b"", repr=False)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.came - self.asked

    def json(self) -> Any:
        """Return the body, decoded."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Work:
    """Requests to make: ``paths`` one after the other, on each of the connections, which are there before."""

    paths: tuple[str, ...]
    rest_s: float = 0.0
    """Between an answer and the next request."""
    keep: bool = False
    """Whether bodies come back, too."""


class Client:
    """A process with connections to one server; `make` runs work on all of them at once."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def make(self, work: Work) -> list[Answer]:
        """Make the requests on each connection; return all answers, in the order in which they came."""
        self._pipe.send(work)
        answers = self._pipe.recv()
        if isinstance(answers, Exception):
            raise answers
        return list(answers)


@contextmanager
def client(server: Server, connections: int = 1) -> Iterator[Client]:
    """Run a process with that many connections."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(server, connections, theirs))
    process.start()
    theirs.close()
    try:
        if isinstance(problem := ours.recv(), Exception):
            raise problem
        yield Client(ours)
    finally:
        ours.close()
        process.join(10)
        process.kill()


def _serve(server: Server, connections: int, pipe: Connection) -> None:
    try:
        sockets = [server.connect() for _ in range(connections)]
    except OSError as error:
        pipe.send(RuntimeError(f"no connection to port {server.port}: {error}"))
        return
    pipe.send(None)
    try:
        while True:
            work = pipe.recv()
            try:
                pipe.send(run(sockets, work))
            except (OSError, RuntimeError) as error:
                pipe.send(RuntimeError(f"port {server.port}: {error}"))
    except EOFError:
        for each in sockets:
            each.close()


def run(sockets: list[ssl.SSLSocket], work: Work) -> list[Answer]:
    """Make the work's requests on each of the connections, on all at once."""
    left = {each.fileno(): iter(work.paths) for each in sockets}
    asked: dict[int, float] = {}
    answers: list[Answer] = []
    poll = select.poll()

    def ask(connection: ssl.SSLSocket) -> None:
        path = next(left[connection.fileno()], None)
        if path is None:
            poll.unregister(connection)
            return
        if work.rest_s:
            time.sleep(work.rest_s)
        asked[connection.fileno()] = time.monotonic()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: kme\r\n\r\n".encode())

    by_number = {each.fileno(): each for each in sockets}
    for each in sockets:
        poll.register(each, select.POLLIN)
        ask(each)
    total = len(work.paths) * len(sockets)
    while len(answers) < total:
        ready = poll.poll(WITHIN_S * 1e3)
        if not ready:
            raise RuntimeError(f"no answer within {WITHIN_S:g} s")
        for number, _ in ready:
            connection = by_number[number]
            status, body = _answer(connection)
            answers.append(Answer(status, asked[number], time.monotonic(), body if work.keep or status != 200 else b""))
            ask(connection)
    return answers


def _answer(connection: ssl.SSLSocket) -> tuple[int, bytes]:
    """Read one answer; it is of a known length."""
    data = b""
    while _END_OF_HEAD not in data:
        data += _some(connection)
    head, _, body = data.partition(_END_OF_HEAD)
    lines = head.split(b"\r\n")
    lengths = [line.partition(b":")[2] for line in lines if line.lower().startswith(b"content-length:")]
    if not lengths:
        raise RuntimeError(f"an answer without a length: {lines[0]!r}")
    while len(body) < int(lengths[0]):
        body += _some(connection)
    return int(lines[0].split()[1]), body


def _some(connection: ssl.SSLSocket) -> bytes:
    """Return what has come; a session ticket alone is nothing, and more is waited for."""
    data = connection.recv(_READ_BYTES)
    if not data:
        raise RuntimeError("the server closed the connection")
    return data
