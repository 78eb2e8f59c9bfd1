"""Asks the coordinator for what is shown, a few times a second while somebody looks, however many look."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from qkdrelay import __version__
from qkdrelay.as_data.supplies import supplies_as_data
from qkdrelay.client import CoordinatorClient
from qkdrelay.errors import QkdRelayError, RequestRefusedError
from qkdrelay.messages.answers import AttackView, AttentionView, RelaysView, RelayView, SuppliesView
from qkdrelay.messages.network_answers import NetworkView
from qkdrelay.messages.requests import (
    AttackRequest,
    AttentionRequest,
    NetworkRequest,
    RelaysRequest,
    ShowRequest,
    SuppliesRequest,
)
from qkdrelay.network.names import PAGE
from qkdrelay.service.health import Health
from qkdrelay.service.logs import LogLevel, log_all
from qkdrelay_page import sections
from qkdrelay_page.board import RELAY, Board

TURN_S: Final = 0.4
"""Seconds between two looks at what moves: relays, shares, links."""
SLOWLY_S: Final = 2.0
"""Seconds between two looks at supplies and at what asks for somebody."""
IDLE_S: Final = 10.0
"""Seconds between two looks while nobody looks at the page: that the coordinator answers is told as health."""
AGAIN_S: Final = 1.0
"""Seconds to the next attempt after one that failed."""
RELAYS_SHOWN: Final = 30
_SLICE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class _Shown:
    """A relay as it is shown, and in the lab what the adversary learned of it."""

    view: RelayView
    attack: AttackView | None


class Watching:
    """One connection to the coordinator, made anew when it is lost; for one thread."""

    def __init__(
        self,
        connect: Callable[[], CoordinatorClient],
        board: Board,
        health: Health,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._board, self._health, self._timer = connect, board, health, timer
        self._client: CoordinatorClient | None = None
        self._slowly_at = -SLOWLY_S
        self._trouble = ""
        self._network: NetworkView | None = None
        self._shown: dict[UUID, _Shown] = {}
        """Relays that somebody looks at, as they are shown; first the one whose attack was asked longest ago."""

    def turn(self) -> float:
        """Ask for what is due, show it, and return in how many seconds to do so again. Raises nothing of ours."""
        try:
            self._ask()
        except QkdRelayError as error:
            self.close()
            hint = f" ({error.hint})" if error.hint else ""
            self._board.put("trouble", {"text": f"{error}{hint}"})
            self._health.turned(problem=str(error))
            self._say("page.trouble", str(error))
            return AGAIN_S
        self._board.put("trouble", None)
        self._say("page.restored", "")
        self._health.turned(problem="")
        return TURN_S if self._board.viewers else IDLE_S

    def rest(self, seconds: float) -> None:
        """Wait, keeping the connection alive, no longer than until a viewer comes."""
        until = self._timer() + seconds
        while (left := until - self._timer()) > 0 and not self._board.has_come():
            if self._client is None:
                self._board.wait(min(_SLICE_S, left))
                continue
            try:
                self._client.connection.receive(min(_SLICE_S, left))  # nothing is awaited: it is an answer come late
            except QkdRelayError:
                self.close()

    def _say(self, event: str, reason: str) -> None:
        """Log that the coordinator does not answer, and that it does again, once each."""
        if bool(reason) != bool(self._trouble):
            level: LogLevel = "warning" if reason else "info"
            log_all([(level, event, {"reason": reason} if reason else {})], service=PAGE)
        self._trouble = reason

    def close(self) -> None:
        """Leave."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(QkdRelayError, OSError):
                client.connection.close()

    def _ask(self) -> None:
        if self._client is None:
            self._client = self._connect()
        client, board = self._client, self._board
        view = client.ask(NetworkRequest(), NetworkView)
        self._show_network(view)
        if not board.viewers:
            return
        board.put(
            "relays", sections.relays_section(client.ask(RelaysRequest(limit=RELAYS_SHOWN, supply=True), RelaysView))
        )
        self._ask_relays(client, lab=view.lab)
        if self._timer() - self._slowly_at >= SLOWLY_S:
            self._slowly_at = self._timer()
            supplies = client.ask(SuppliesRequest(), SuppliesView)
            board.put("supplies", supplies_as_data(supplies))
            seen = client.ask(AttentionRequest(), AttentionView)
            board.put("attention", sections.attention_section(view, seen, supplies))

    def _show_network(self, view: NetworkView) -> None:
        before, self._network = self._network, view
        if before is None or (before.links, [k.name for k in before.kmes]) != (view.links, [k.name for k in view.kmes]):
            topology = view.topology()
            self._board.put("hello", {"network": view.name, "version": __version__})
            self._board.put("layout", sections.layout_section(topology))
            self._board.topology = topology
        self._board.put("network", sections.network_section(view))

    def _ask_relays(self, client: CoordinatorClient, *, lab: bool) -> None:
        watched = self._board.relays_watched()
        for gone in self._shown.keys() - set(watched):
            del self._shown[gone]
            self._board.drop(f"{RELAY}{gone}")
        for relay_id in watched:
            shown = self._shown.get(relay_id)
            if shown is None or not shown.view.final:
                try:
                    view = client.ask(ShowRequest(relay=str(relay_id), follow=False), RelayView)
                except RequestRefusedError as error:
                    self._board.put(f"{RELAY}{relay_id}", {"refused": str(error)})
                    continue
                self._show(view, shown.attack if shown else None)
        if lab and self._shown:
            # One a turn, the longest shown first: it computes.
            relay_id, shown = next(iter(self._shown.items()))
            del self._shown[relay_id]
            attack = shown.attack
            with suppress(RequestRefusedError):  # other pages ask, too
                attack = client.ask(AttackRequest(relay=str(relay_id), kmes=()), AttackView)
            self._show(shown.view, attack)

    def _show(self, view: RelayView, attack: AttackView | None) -> None:
        self._shown[view.relay_id] = _Shown(view, attack)
        self._board.put(f"{RELAY}{view.relay_id}", sections.relay_section(view, attack))
