"""Two applications that use a network whatever is killed, and compare from the outside what they were given.

Each is master and slave in turn, over TLS: what one takes the other fetches by its key_ID, and both write down all they
get. A request whose answer did not come is not counted on: its keys may be burned (`enc_keys`) or gone (`dec_keys`).
"""

from __future__ import annotations

import http.client
import random
import threading
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qkdrelay.network.directory import Directory, Sae, directory_text
from support.ports import free_port
from support.rabbitmq import LOOPBACK
from support.saes import Authority
from support.saes import Sae as Client
from support.waiting import eventually

Clients = Callable[[str], Client]
SAES = {"sae-1": "kme-1", "sae-8": "kme-8"}
NUMBERS = (1, 1, 2, 7, 40)
TO_FETCH_MAX = 400
"""Keys that are handed out and not fetched yet, at most."""
PAUSE_S = 0.1
SETTLED_WITHIN_S = 120.0


@dataclass(frozen=True)
class Site:
    """The certificates of everybody, and where each SAE's KME serves."""

    authority: Authority
    directory: Path
    tls: Path
    ports: Mapping[str, int]

    @classmethod
    def new(cls, folder: Path) -> Site:
        """Make all files in ``folder``."""
        authority = Authority(folder / "saes")
        for sae in SAES:
            authority.issue(sae, names=[sae])
        authority.server(folder / "tls")
        directory = folder / "saes.toml"
        directory.write_text(directory_text(Directory({sae: Sae(sae, kme) for sae, kme in SAES.items()})))
        return cls(authority, directory, folder / "tls", {sae: free_port() for sae in SAES})

    def settings(self) -> dict[str, dict[str, str]]:
        """Return what the services are to be told, by service."""
        saes = {"QKDRELAY_SAES": str(self.directory)}
        of_kmes = {
            SAES[sae]: saes | {"QKDRELAY_ETSI014": f"{LOOPBACK}:{port}", "QKDRELAY_ETSI014_TLS": str(self.tls)}
            for sae, port in self.ports.items()
        }
        return of_kmes | {"coordinator": saes}

    def client(self, sae: str) -> Client:
        """Return an SAE's client, which is not connected yet."""
        return Client(self.ports[sae], self.authority.context(sae))


@dataclass
class Ledger:
    """What the two wrote down."""

    handed_out: dict[str, bytes] = field(default_factory=dict)
    """By key_ID."""
    fetched: int = 0
    unanswered: int = 0
    """Keys whose slave was not answered, and that were gone when it asked again."""
    cut: int = 0
    """Requests without an answer."""
    later: int = 0
    """Requests that were told to come again."""
    broken: list[str] = field(default_factory=list)
    _bytes: set[bytes] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, keys: list[tuple[str, bytes]]) -> None:
        """Write down what a master was given."""
        with self._lock:
            for key_id, key in keys:
                if key_id in self.handed_out or key in self._bytes:
                    self.broken.append(f"key {key_id}, or its bytes, were handed out twice")
                self.handed_out[key_id] = key
                self._bytes.add(key)

    def compare(self, asked: list[str], keys: list[tuple[str, bytes]]) -> None:
        """Write down what a slave was given for the key_IDs that it asked for."""
        with self._lock:
            if keys != [(key_id, self.handed_out[key_id]) for key_id in asked]:
                self.broken.append(f"other keys were fetched than those handed out as {asked}")
            self.fetched += len(keys)

    def rows(self) -> list[tuple[str, object]]:
        """Return the figures, by name."""
        return [
            ("keys of applications", f"{len(self.handed_out)} handed out, {self.fetched} fetched and the same"),
            ("  gone with an answer", self.unanswered),
            ("requests unanswered", f"{self.cut}, told to come again {self.later}"),
        ]


class Direction:
    """One application takes keys, the other fetches them: a thread each, over every restart of anything."""

    def __init__(self, clients: Clients, ledger: Ledger, choice: random.Random, master: str, slave: str) -> None:
        self.ends, self.ledger = (master, slave), ledger
        self.waiting: deque[str] = deque()
        """Key_IDs that were handed out and are not fetched yet, in order."""
        self.answers = 0
        """Requests of the master that got keys."""
        self.failure: BaseException | None = None
        """What ended a thread of it."""
        self._clients = clients(master), clients(slave)
        self._doubtful: set[str] = set()
        """Key_IDs that were asked for without an answer."""
        self._may_take, self._stop = True, threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(work, random.Random(choice.random())), daemon=True)
            for work in (self._take, self._fetch)
        ]
        for thread in self._threads:
            thread.start()

    def take_no_more(self) -> None:
        """Only fetch from now on."""
        self._may_take = False

    def stop(self) -> None:
        """End both threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[random.Random], None], choice: random.Random) -> None:
        while not self._stop.is_set():
            try:
                work(choice)
            except BaseException as error:  # reported by `Customers.finish`
                self.failure = error
                return

    def _take(self, choice: random.Random) -> None:
        self._stop.wait(choice.uniform(0.0, PAUSE_S))
        if not self._may_take or len(self.waiting) >= TO_FETCH_MAX:
            return
        slave = self.ends[1]
        status, answer = self._answer(
            0, lambda master: master.get(slave, "enc_keys", f"?number={choice.choice(NUMBERS)}")
        )
        if status == 200:
            keys = [(key["key_ID"], b64decode(key["key"])) for key in answer["keys"]]
            self.ledger.note(keys)
            self.waiting.extend(key_id for key_id, _ in keys)
            self.answers += 1
        elif status not in (503, None):
            self.ledger.broken.append(f"{self.ends[0]} was answered {status} {answer}")

    def _fetch(self, choice: random.Random) -> None:
        # Of those that were asked for together, and not answered, some may be gone: one by one.
        number = 1 if self.waiting and self.waiting[0] in self._doubtful else choice.choice(NUMBERS)
        some = [self.waiting[place] for place in range(min(len(self.waiting), number))]
        if not some:
            self._stop.wait(PAUSE_S / 10)
            return
        master = self.ends[0]
        status, answer = self._answer(1, lambda slave: slave.post(master, "dec_keys", {"key_IDs": some}))
        if status is None:
            self._doubtful.update(some)
        elif status == 200:
            self.ledger.compare(some, [(key["key_ID"], b64decode(key["key"])) for key in answer["keys"]])
        elif status == 400 and some[0] in self._doubtful:
            self.ledger.unanswered += 1
        elif status != 503:
            self.ledger.broken.append(f"{self.ends[1]} was answered {status} {answer} for {some}")
        if status in (200, 400, 401):
            for _ in some:
                self.waiting.popleft()

    def _answer(self, end: int, ask: Callable[[Client], Any]) -> tuple[int | None, Any]:
        """Return status and JSON of an answer; None for none. Waits a little for what does not work now."""
        try:
            status, _, answer = ask(self._clients[end])
        except (OSError, http.client.HTTPException):
            self._clients[end].close()
            self.ledger.cut += 1
            status, answer = None, None
        if status in (503, None):
            self.ledger.later += status == 503
            self._stop.wait(PAUSE_S)
        return status, answer


class Customers:
    """The two applications, in both directions."""

    def __init__(self, clients: Clients, choice: random.Random) -> None:
        """``clients`` returns an SAE's, which is not connected yet."""
        self.ledger = Ledger()
        pairs = (("sae-1", "sae-8"), ("sae-8", "sae-1"))
        self._directions = [Direction(clients, self.ledger, choice, *pair) for pair in pairs]

    def finish(self) -> Ledger:
        """Wait until both directions are served once more and all is fetched; return what was written down."""
        before = [direction.answers for direction in self._directions]
        try:
            self._await(
                lambda: all(way.answers > count for way, count in zip(self._directions, before, strict=True)),
                "keys for applications in both directions",
            )
            for direction in self._directions:
                direction.take_no_more()
            self._await(
                lambda: not any(way.waiting for way in self._directions), "all that was handed out to be fetched"
            )
        finally:
            for direction in self._directions:
                direction.stop()
        return self.ledger

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for it; what does not come is a broken promise."""

        def is_so() -> bool:
            for direction in self._directions:
                if direction.failure is not None:
                    raise direction.failure
            return condition()

        try:
            eventually(is_so, timeout_s=SETTLED_WITHIN_S, what=what)
        except AssertionError as error:
            self.ledger.broken.append(str(error))
