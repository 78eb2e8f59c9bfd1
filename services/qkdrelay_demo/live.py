"""The page over a network in this process, in slow motion, so that shares are seen to travel."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle
from typing import Final

from kme.applications import Caller, KeyRequest
from qkdrelay.client import CoordinatorClient, relay_request
from qkdrelay.errors import SettingsError
from qkdrelay.messages.answers import Acknowledged
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import LabRequest, LinkRequest
from qkdrelay.network.demand import Policy
from qkdrelay.network.directory import Directory, Sae
from qkdrelay.network.names import COORDINATOR, PAGE
from qkdrelay.network.topology_file import reference_topology
from qkdrelay.service.health import Health
from qkdrelay.service.process import StopRequest
from qkdrelay_demo.network import EmbeddedNetwork, SettlingConnection
from qkdrelay_demo.scenario import REFERENCE_SCENARIO, Scenario
from qkdrelay_page.board import Board
from qkdrelay_page.serving import serving_page
from qkdrelay_page.watching import Watching

PORT: Final = 8080
"""At which the page is served, unless told otherwise, or another program has it."""
_LOCAL: Final = "127.0.0.1"
_TICK_S: Final = 0.1
"""Seconds after which the next KME has its turn: a share takes about half a second over a link."""
_RELAY_EVERY_S, _KEY_EVERY_S, _LINK_EVERY_S = 7.0, 3.0, 31.0
_SAE_CERTIFICATE: Final = "00" * 32
_SEED: Final = 8


class LiveNetwork:
    """The reference network with the scenario's harm done to it, and something going on for as long as it is ticked."""

    def __init__(self, scenario: Scenario = REFERENCE_SCENARIO, clock: Callable[[], float] = time.time) -> None:
        topology = reference_topology()
        directory = Directory({sae: Sae(sae, kme) for sae, kme in topology.saes.items()})
        having = (*topology.saes.values(), COORDINATOR)
        self.network = EmbeddedNetwork(topology, lab=True, directories=dict.fromkeys(having, directory), clock=clock)
        self._scenario, self._clock = scenario, clock
        self._random = random.Random(_SEED)  # noqa: S311 - which relays are shown is no secret
        for a, b in scenario.cut_links:
            self.network.client.ask(LinkRequest(a=a, b=b, up=False), Acknowledged)
        for kme in scenario.compromised:
            self.network.client.ask(LabRequest(kme=kme, mode="leak"), Acknowledged)
        # From here on KMEs have their turns one by one; who asks the coordinator moves the coordinator alone.
        self.network.stopped = frozenset(topology.kmes)
        self._turns = cycle(topology.kmes)
        now = clock()
        self._relay_at, self._key_at, self._link_at = now, now, now + _LINK_EVERY_S
        self._relays: Iterator[None] = self._ask_relays()
        self._cut = scenario.cut_links[0] if scenario.cut_links else topology.links[-1]
        self._is_cut = bool(scenario.cut_links)

    def tick(self) -> None:
        """Give the next KME its turn, and have happen what is due."""
        self.network.loops[next(self._turns)].step(0.0)
        self.network.settle()
        now = self._clock()
        if now >= self._relay_at:
            self._relay_at = now + _RELAY_EVERY_S
            next(self._relays)
        if now >= self._key_at:
            self._key_at = now + _KEY_EVERY_S
            self._take_keys()
        if now >= self._link_at:
            self._link_at = now + _LINK_EVERY_S
            self._turn_link()

    def _ask_relays(self) -> Iterator[None]:
        """Ask for the scenario's relay, then for one between any two KMEs, again and again."""
        scenario = self._scenario
        self._relay(scenario.source, scenario.target, scenario.policy)
        yield
        while True:
            source, target = self._random.sample(self.network.topology.kmes, 2)
            self._relay(source, target, "recursive" if self._random.random() < 0.5 else None)
            yield

    def _relay(self, source: str, target: str, policy: Policy | None) -> None:
        self.network.client.send(
            relay_request(
                source,
                target,
                relay_id=new_relay_id(self._clock()),
                key_count=self._scenario.key_count,
                policy=policy,
                allow_unprotected=True,
                follow=False,
            )
        )

    def _take_keys(self) -> None:
        """Have the master take a key for the slave, which is not waited for."""
        master, slave = self._scenario.master, self._scenario.slave
        keys = self.network.keys_of[self.network.directories[COORDINATOR].saes[master].kme]
        keys.take(Caller(master, _SAE_CERTIFICATE), KeyRequest(slave, 1, self._scenario.key_size_bits, None))

    def _turn_link(self) -> None:
        """Mend the link that is cut, or cut another."""
        self._is_cut = not self._is_cut
        if self._is_cut:
            self._cut = self._random.choice(self.network.topology.links)
        a, b = self._cut
        self.network.client.send(LinkRequest(a=a, b=b, up=not self._is_cut))


def show_live(port: int | None, say: Callable[[str], object], stop: StopRequest) -> None:
    """Serve the page over such a network until ``stop``; ``say`` is given where. Port None: `PORT`, or a free one.

    Raises SettingsError if the port cannot be served.
    """
    live, board = LiveNetwork(), Board()
    network = live.network
    watching = Watching(
        lambda: CoordinatorClient(SettlingConnection(network, PAGE), network.page_key, network.clock, time.monotonic),
        board,
        Health(),
    )
    with ExitStack() as stack:
        bound, remark = _serve(stack, board, port)
        say(f"http://{_LOCAL}:{bound}/{remark}")
        while not stop.is_set():
            due = time.monotonic() + watching.turn()
            while time.monotonic() < due and not board.has_come() and not stop.is_set():
                live.tick()
                board.wait(_TICK_S)


def _serve(stack: ExitStack, board: Board, port: int | None) -> tuple[int, str]:
    """Serve the page until the ``stack`` ends; return the port, and what is to be said about it."""
    try:
        served = serving_page(board, (_LOCAL, PORT if port is None else port), setting="--port")
        return stack.enter_context(served), ""
    except SettingsError:
        if port is not None:
            raise
    served = serving_page(board, (_LOCAL, 0), setting="--port")
    return stack.enter_context(served), f"   (another program has port {PORT})"
