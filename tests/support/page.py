"""The page over a network in this process, whose thread does what a test asks between two turns."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from qkdrelay.client import CoordinatorClient
from qkdrelay.network.names import PAGE
from qkdrelay.service.health import Health
from qkdrelay_demo.network import EmbeddedNetwork, SettlingConnection
from qkdrelay_page.board import Board
from qkdrelay_page.serving import serving_page
from qkdrelay_page.watching import TURN_S, Watching

T = TypeVar("T")


def watching(network: EmbeddedNetwork, board: Board, health: Health | None = None, **options: Any) -> Watching:
    """What asks the coordinator of ``network`` for what ``board`` shows."""

    def connect() -> CoordinatorClient:
        connection = SettlingConnection(network, PAGE)
        return CoordinatorClient(connection, network.page_key, network.clock, time.monotonic)

    return Watching(connect, board, health or Health(), **options)


class Shown:
    """A network that is shown; its thread makes it, and alone touches it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """``make`` returns a network, or what has one."""
        self._make, self.board = make, Board()
        self.made: Any = None
        self.network: Any = None
        self.asks: Any = None
        self._work: queue.Queue[tuple[Callable[[], Any], Future[Any]]] = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shown", daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def do(self, work: Callable[[], T]) -> T:
        """Have the network's thread do something, and return what comes of it."""
        done: Future[T] = Future()
        self._work.put((work, done))
        return done.result(timeout=60)

    def _run(self) -> None:
        self.made = self._make()
        self.network = getattr(self.made, "network", self.made)
        self.asks = watching(self.network, self.board)
        while not self._stop.is_set():
            until = time.monotonic() + min(self.asks.turn(), TURN_S)
            while (left := until - time.monotonic()) > 0:
                try:
                    work, done = self._work.get(timeout=left)
                except queue.Empty:
                    break
                try:
                    done.set_result(work())
                except Exception as error:
                    done.set_exception(error)

    @contextmanager
    def served(self, port: int = 0) -> Iterator[Shown]:
        """Serve the page meanwhile."""
        with serving_page(self.board, ("127.0.0.1", port), setting="a test") as self.port:
            yield self

    def start(self) -> None:
        """Begin; the network is there then."""
        self._thread.start()
        self.do(lambda: None)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def shown(make: Callable[[], Any]) -> Iterator[Shown]:
    """Serve the page of the network that ``make`` returns, which goes on in a thread of its own."""
    there = Shown(make)
    there.start()
    try:
        with there.served():
            yield there
    finally:
        there.close()
