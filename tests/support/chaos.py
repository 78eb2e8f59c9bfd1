"""Kill services and the broker at random while relays are under way, and look from the outside at what became of all.

    python -m support.chaos --kills 300 --relays 3000 --seed 7

prints the figures and ends with status 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import random
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from qkdrelay.broker.rabbitmq.client import RabbitMqClient
from qkdrelay.client import relay_request
from qkdrelay.errors import BrokerUnreachableError
from qkdrelay.messages.answers import Refusal, RelayView, Reply
from qkdrelay.messages.dialogue import Asker
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import Request
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.topology import Topology
from support import customers, killable, recorder
from support.customers import Clients, Customers, Site
from support.killable import Processes
from support.waiting import POLL_S, eventually

BROKER = "rabbitmq"
STOPPED = "stopped by SIGTERM"
PAIRS = (("kme-1", "kme-8"), ("kme-8", "kme-1"), ("kme-2", "kme-7"), ("kme-4", "kme-1"), ("kme-3", "kme-8"))
UNDER_WAY = 24
"""Relays asked for and not ended, at most: the load."""
HASTY_ONE_IN, HASTY_S, PATIENT_S = 12, 2.0, 3_600.0
"""Some relays have so short a deadline that a kill can make them fail; all others must be confirmed."""
BROKER_ONE_IN, STOP_ONE_IN = 20, 8
ASK_AGAIN_S = 2.0
SETTLED_WITHIN_S = 60.0
BROKER_UP_WITHIN_S = 90.0
TIMELY = (
    "did not answer in time",
    "too few shares in time",
    "it has not said in time that it rebuilt the keys",
    "the share did not reach",
    "the deadline has passed",
)
"""What the reason of a relay that failed for lack of time says (`coordinator.lifecycle`, `reasons`), and no other."""


@dataclass
class Asked:
    """A relay as its asker knows it."""

    source: str
    target: str
    timeout_s: float
    keys: int
    request: Request | None = None
    asked_at: float = 0.0
    accepted: bool = False
    ended: bool = False
    refusal: str = ""


@dataclass
class Figures:
    """What came of it."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    """What else was done to services, brokers and ways, by its name."""
    asked: int = 0
    accepted: int = 0
    confirmed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    key_use: recorder.KeyUse = field(default_factory=recorder.KeyUse)
    wrong_secrets: int = 0
    applications: customers.Ledger = field(default_factory=customers.Ledger)
    broken: list[str] = field(default_factory=list)
    """Promises that were not kept, in words."""

    def report(self) -> str:
        """Return the figures as a table."""
        use = self.key_use
        rows = [
            ("seed", self.seed),
            ("kills", f"{self.kills.total()}  ({', '.join(f'{n} {kind}' for kind, n in sorted(self.kills.items()))})"),
            *sorted(self.others.items()),
            ("relays", f"{self.accepted} accepted of {self.asked} asked for"),
            ("confirmed", self.confirmed),
            ("failed", self.failed.total()),
            *((f"  {reason}", count) for reason, count in self.failed.most_common()),
            ("messages recorded", f"{use.messages} sealed, {use.published_again} published again, {use.blocks} blocks"),
            ("pad recorded", f"{use.pad_bytes} bytes"),
            ("key reused", len(use.reused)),
            ("wrong secrets", self.wrong_secrets),
            *self.applications.rows(),
            ("promises broken", len(self.broken)),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(
            [*(f"{name:{width}}  {value}" for name, value in rows), *(f"BROKEN: {b}" for b in self.broken)]
        )


class Watched(Protocol):
    """A network of which everything can be seen from the outside."""

    @property
    def topology(self) -> Topology: ...
    @property
    def cli_key(self) -> bytes: ...
    def client(self) -> RabbitMqClient:
        """Return a connection as the command line has one."""
        ...

    def keys(self, kme: str) -> list[dict[str, Any]]:
        """Return the keys at ``kme`` as the person there sees them, delivered ones with their bytes."""
        ...

    def recorders(self, ledger: recorder.Ledger) -> list[recorder.Recorder]:
        """Record into a ledger, from now on, what goes over QKD links."""
        ...


class Load:
    """Asks for relays in a thread of its own, as many at a time as it may, over every restart of anything."""

    def __init__(self, network: Watched, choice: random.Random) -> None:
        self._network, self._choice = network, choice
        self.relays: dict[UUID, Asked] = {}
        self.allowed = 0
        """How many relays may have been asked for by now."""
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until everything allowed is asked for and answered, and end."""
        try:
            eventually(self._is_done, timeout_s=SETTLED_WITHIN_S, what="all relays to be asked for and to end")
        finally:
            self._stop.set()
            self._thread.join()

    def _is_done(self) -> bool:
        if self._failure is not None:
            raise self._failure
        return len(self.relays) >= self.allowed and not self._open()

    def _open(self) -> list[Asked]:
        return [relay for relay in list(self.relays.values()) if not (relay.ended or relay.refusal)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._network.client() as client:
                    asker = Asker(self._network.cli_key, client.address)
                    while not self._stop.is_set():
                        self._turn(client, asker)
            except BrokerUnreachableError:
                self._stop.wait(0.2)
            except BaseException as error:  # reported by `finish`
                self._failure = error
                return

    def _turn(self, client: RabbitMqClient, asker: Asker) -> None:
        """Ask for what is due, again for what was not answered, and read what came."""
        now = time.monotonic()
        under_way = self._open()
        if len(under_way) < UNDER_WAY and len(self.relays) < self.allowed:
            relay_id, relay = self._another()
            self.relays[relay_id] = relay
            self._ask(client, asker, relay_id, relay)
        for relay in under_way:
            # A restarted coordinator has forgotten who waits.
            if now - relay.asked_at > ASK_AGAIN_S and relay.request is not None:
                self._ask(client, asker, relay.request.body.relay_id, relay)
        asked = {relay.request.request_id for relay in self._open() if relay.request}
        while (message := client.receive(0.01)) is not None:
            if (reply := asker.answer(message[2], asked)) is not None:
                self._hear(reply)

    def _another(self) -> tuple[UUID, Asked]:
        source, target = self._choice.choice(PAIRS)
        hasty = self._choice.randrange(HASTY_ONE_IN) == 0
        relay = Asked(source, target, HASTY_S if hasty else PATIENT_S, self._choice.choice((1, 1, 2, 16)))
        return new_relay_id(), relay

    def _ask(self, client: RabbitMqClient, asker: Asker, relay_id: UUID, relay: Asked) -> None:
        wishes = {"relay_id": relay_id, "key_count": relay.keys, "timeout_s": relay.timeout_s}
        body = relay_request(relay.source, relay.target, **wishes)
        relay.asked_at = time.monotonic()
        relay.request, signed = asker.request(body, relay.request.request_id if relay.request else None)
        client.send(signed)

    def _hear(self, reply: Reply) -> None:
        asked = [relay for relay in self._open() if relay.request and relay.request.request_id == reply.request_id]
        for relay in asked:
            if isinstance(reply.body, Refusal):
                relay.refusal = reply.body.text
            elif isinstance(reply.body, RelayView):
                relay.accepted = True
                relay.ended = reply.body.state in TERMINAL


class Watch:
    """Uses a network, whatever is done to it meanwhile, and then looks at what there is."""

    def __init__(self, network: Watched, clients: Clients, seed: int) -> None:
        """``clients`` returns those of the applications that use the network meanwhile."""
        self.figures = Figures(seed)
        self.choice = random.Random(seed)
        self._watched, self._ledger = network, recorder.Ledger()
        self._recorders = network.recorders(self._ledger)
        self.load = Load(network, random.Random(seed + 1))
        self.customers = Customers(clients, random.Random(seed + 2))

    def count_kill(self, service: str) -> None:
        """Count one service that was killed."""
        self.figures.kills["coordinator" if service == COORDINATOR else "KME"] += 1

    def look(self) -> Figures:
        """Wait until everything has ended, and compare what there is with what was promised."""
        figures = self.figures
        try:
            self.load.finish()
        except AssertionError as error:
            figures.broken.append(f"{error}; {len(self.load.relays)} of {self.load.allowed} were asked for")
        figures.applications = self.customers.finish()
        figures.broken += figures.applications.broken
        until = time.monotonic() + SETTLED_WITHIN_S
        with closing(self._watched.client()) as client:
            views = {relay_id: self._settled(client, relay_id, until) for relay_id in self.load.relays}
        for recording in self._recorders:
            recording.finish()
        ledger = self._ledger
        figures.key_use = ledger.use()
        figures.broken += figures.key_use.reused
        keys = self._keys(
            {str(relay_id) for relay_id, view in views.items() if view and view.state == "confirmed"}, until
        )
        seen: Counter[str] = Counter()
        for relay_id, asked in self.load.relays.items():
            self._judge(relay_id, asked, views[relay_id], ledger)
            there = {kme: found[str(relay_id)] for kme, found in keys.items() if str(relay_id) in found}
            seen.update(self._judge_keys(relay_id, asked, views[relay_id], there))
        if again := [key for key, count in seen.items() if count > 1]:
            figures.wrong_secrets += len(again)
            figures.broken.append(f"{len(again)} keys were delivered for more than one relay")
        figures.asked = len(self.load.relays)
        return figures

    def _keys(self, confirmed: set[str], until: float) -> dict[str, dict[str, list[tuple[str, str]]]]:
        """Return (state, key) of each key, by KME and relay, once their targets know which relays are ``confirmed``."""
        while True:
            keys = {kme: _by_relay(self._watched.keys(kme)) for kme in self._watched.topology.kmes}
            held = {relay for there in keys.values() for relay, found in there.items() if found[0][0] == "held"}
            if not held & confirmed or time.monotonic() > until:
                return keys
            time.sleep(POLL_S)

    def _settled(self, client: RabbitMqClient, relay_id: UUID, until: float) -> RelayView | None:
        """Return a relay once it has failed or both ends have its keys, or as it is then; None if it is not known."""
        while True:
            view = killable.show(client, self._watched.cli_key, relay_id)
            if isinstance(view, Refusal):
                return None
            if view is not None and (view.state == "failed" or len(view.released_at) == 2):
                return view
            if time.monotonic() > until:
                self.figures.broken.append(f"relay {relay_id} has not ended at both ends")
                return view
            time.sleep(POLL_S)

    def _judge(self, relay_id: UUID, asked: Asked, view: RelayView | None, ledger: recorder.Ledger) -> None:
        broken = self.figures.broken
        if view is None:
            if asked.accepted or not asked.refusal:
                broken.append(f"relay {relay_id} was accepted and is lost")
            else:
                broken.append(f"relay {relay_id} was refused: {asked.refusal}")
            return
        self.figures.accepted += 1
        if view.state == "confirmed":
            self.figures.confirmed += 1
            # What reached the target was seen on the way: the recorder is not blind.
            if unseen := [r for r in view.collected if not _prefixes(r) <= ledger.routes[relay_id]]:
                broken.append(f"relay {relay_id}: nothing was recorded on {len(unseen)} routes")
        elif view.state == "failed":
            self.figures.failed[_kind_of(view.reason)] += 1
            if asked.timeout_s == PATIENT_S or not any(words in view.reason for words in TIMELY):
                broken.append(f"relay {relay_id} failed, with {asked.timeout_s:g} s of time: {view.reason}")
        if view.false_shares or view.disputed or view.equivocating:
            broken.append(f"relay {relay_id}: honest KMEs are said to have sent false shares")

    def _judge_keys(
        self, relay_id: UUID, asked: Asked, view: RelayView | None, there: dict[str, list[tuple[str, str]]]
    ) -> list[str]:
        """Compare the keys at both ends; return the keys' bytes."""
        ends = [asked.source, asked.target]
        found = [[key for state, key in there.get(end, ()) if state == "delivered"] for end in ends]
        wanted = asked.keys if view is not None and view.state == "confirmed" else 0
        if found[0] != found[1] or len(set(found[0])) != wanted or set(there) - set(ends):
            self.figures.wrong_secrets += 1
            states = {kme: Counter(state for state, _ in keys) for kme, keys in there.items()}
            self.figures.broken.append(f"relay {relay_id}, {wanted} keys to be delivered, has {states}")
        return found[0]


class Chaos(Watch):
    """One run on one network; the caller kills as it likes, and then has everything looked at."""

    def __init__(self, network: Processes, clients: Clients, seed: int) -> None:
        super().__init__(network, clients, seed)
        self.network = network

    def kill_at_random(self, kills: int, relays: int) -> None:
        """Kill so many times at random moments, while ``relays`` relays are asked for.

        One to three services at once, or the broker; now and then one service is stopped by SIGTERM instead.
        """
        already, counted = self.load.allowed, self.figures.kills
        brokers = sorted(self.choice.sample(range(kills), max(1, kills // BROKER_ONE_IN)))
        while (done := counted.total()) < kills:
            self.load.allowed = already + relays * (done + 1) // kills
            time.sleep(self.choice.uniform(0.0, 0.7))
            if brokers and brokers[0] <= done:
                brokers.pop(0)
                self.kill_broker()
            elif self.choice.randrange(STOP_ONE_IN) == 0:
                self.stop(self.choice.choice(self.network.services))
            else:
                at_once = min(self.choice.choice((1, 1, 1, 2, 3)), kills - done)
                self.kill_services(self.choice.sample(self.network.services, at_once))
        self.load.allowed = already + relays

    def stop(self, name: str) -> None:
        """Stop a service by SIGTERM and start it again."""
        self.network.await_started(name)
        status = self.network.stop(name)
        self.figures.others[STOPPED] += 1
        if status != 0:
            self.figures.broken.append(f"{name} ended with status {status} at SIGTERM")
        self.network.start(name)

    def kill_services(self, names: list[str]) -> None:
        """Kill these at once; start them again a little later."""
        for name in names:
            self.network.kill(name)
            self.count_kill(name)
        time.sleep(self.choice.choice((0.0, 0.0, self.choice.uniform(0.0, 1.5))))
        for name in names:
            self.network.start(name)

    def kill_broker(self) -> None:
        """Kill RabbitMQ and start it again; the services run on."""
        self.network.server.kill()
        self.figures.kills[BROKER] += 1
        time.sleep(self.choice.uniform(0.0, 1.0))
        self.network.server.start()
        eventually(self.network.server.answers, timeout_s=BROKER_UP_WITHIN_S, what="RabbitMQ to come back")


def _kind_of(reason: str) -> str:
    """Return a reason without what differs from relay to relay."""
    return next((words for words in TIMELY if words in reason), reason)


def _prefixes(route: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {route[:length] for length in range(2, len(route) + 1)}


def _by_relay(keys: list[dict[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Return (state, key) of each key, by relay."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key in keys:
        found.setdefault(key["relay_id"], []).append((key["state"], key.get("key", "")))
    return found


def chosen(doc: str | None, much: str) -> argparse.Namespace:
    """Return what the command line of a long form says: how ``much`` of it, for how many relays, with which seed."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument(f"--{much}", type=int, default=300)
    parser.add_argument("--relays", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    return parser.parse_args()


def ended(figures: Figures, folder: Path) -> int:
    """Print the figures of a long form; return its exit status, and keep its folder only if a promise was broken."""
    print(figures.report())
    if not figures.broken:
        shutil.rmtree(folder)
    return 1 if figures.broken else 0


def main() -> int:
    """Run the long form; see the module."""
    arguments = chosen(__doc__, "kills")
    print(f"seed {arguments.seed}: {arguments.kills} kills, {arguments.relays} relays", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="qkdrelay-chaos-"))
    print(f"stores and logs are in {folder}", flush=True)
    site = Site.new(folder)
    with killable.running(folder, more=site.settings()) as network:
        chaos = Chaos(network, site.client, arguments.seed)
        chaos.kill_at_random(arguments.kills, arguments.relays)
        figures = chaos.look()
    return ended(figures, folder)


if __name__ == "__main__":
    sys.exit(main())
