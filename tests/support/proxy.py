"""A TCP proxy on the loopback interface that cuts connections, or lets them hang, as a bad network does."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
_CHUNK = 4096
_FAR_CHUNK = 1 << 16
_UNDER_WAY_MAX = 256
_RESET_WITHIN_S = 0.0005
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards to ``target`` (host, port). Counts the connections it took in `accepted`."""

    def __init__(self, target: tuple[str, int], listen: tuple[str, int] = (LOOPBACK, 0)) -> None:
        self._target = target
        self._listener = socket.create_server(listen, backlog=64)
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self.accepted = 0
        self.is_parted = False
        """Whether each new connection is reset at once."""
        self.cut_after: Callable[[], int] | None = None
        """Gives, for each new connection, how many bytes pass before it is cut, in whichever direction they go."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._listener.getsockname()[1]}"

    def hang(self) -> None:
        """Forward nothing more on the connections there are, and do not close them. New ones work."""
        with self._lock:
            self._flowing.clear()
            self._flowing = threading.Event()
            self._flowing.set()

    def cut(self) -> int:
        """Reset all connections; return how many there were, hanging ones included."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            _reset(*pair)
        return len(pairs)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # it was closed
            try:
                if self.is_parted:
                    raise ConnectionResetError
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            self.accepted += 1
            budget = Budget(self.cut_after() if self.cut_after else None)
            with self._lock:
                self._pairs.add((client, server))
                flowing = self._flowing
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink, budget, flowing), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, budget: Budget, flowing: threading.Event) -> None:
        try:
            while data := source.recv(_CHUNK):
                if not flowing.is_set():
                    return  # neither forwarded nor closed
                passing = budget.take(len(data))
                sink.sendall(data[:passing])
                if passing < len(data):
                    break
        except OSError:
            pass
        if flowing.is_set():
            _reset(source, sink)
            with self._lock:
                self._pairs -= {(source, sink), (sink, source)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take no more, and cut what there is."""
        self._listener.shutdown(socket.SHUT_RDWR)  # or the thread that waits for more would wait for ever
        self._listener.close()
        self.cut()


@contextmanager
def resetting_port() -> Iterator[int]:
    """Give a port that takes connections and resets each within half a millisecond.

    So does a proxy, or a container's published port, while what it leads to is away.
    """
    with socket.create_server((LOOPBACK, 0), backlog=64) as listener:

        def accept() -> None:
            while True:
                try:
                    taken = listener.accept()[0]
                    time.sleep(random.uniform(0, _RESET_WITHIN_S))  # what matters is the moment, so it varies
                    _reset(taken)
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


class Budget:
    """The bytes that may still pass on one connection; None is any number."""

    def __init__(self, left: int | None) -> None:
        self._left = left
        self._lock = threading.Lock()

    def take(self, wanted: int) -> int:
        with self._lock:
            if self._left is None:
                return wanted
            taken = min(wanted, self._left)
            self._left -= taken
            return taken


def _reset(*ends: socket.socket) -> None:
    for end in ends:
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        end.close()


class DistantProxy:
    """Forwards to ``target`` (host, port) as over a long way: what goes in comes out ``delay_s`` later."""

    def __init__(self, listen: tuple[str, int], target: tuple[str, int], delay_s: float) -> None:
        self._target, self._delay_s = target, delay_s
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(asyncio.start_server(self._serve, *listen))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more, and forward nothing more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._forward(reader, there[1]), self._forward(there[0], writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY_MAX)

        async def arrive() -> None:
            while True:
                at, data = await under_way.get()
                await asyncio.sleep(max(0.0, at - self._loop.time()))
                if not data:
                    break
                writer.write(data)
                await writer.drain()

        arriving = asyncio.ensure_future(arrive())
        with suppress(OSError):
            while data := await reader.read(_FAR_CHUNK):
                await under_way.put((self._loop.time() + self._delay_s, data))
        await under_way.put((self._loop.time() + self._delay_s, b""))
        with suppress(OSError):
            await arriving
        writer.close()
