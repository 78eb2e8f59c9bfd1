"""A plan and its protection, asked on the page: the answers of `coordinator plan` and `analyse`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final

from qkdrelay.as_data.analysis import Chances, Situation, analysed, analysis_as_data
from qkdrelay.as_data.plans import candidate_as_data
from qkdrelay.errors import QkdRelayError, RequestRefusedError
from qkdrelay.network.demand import POLICIES, Demand
from qkdrelay.network.selection import choose, plans
from qkdrelay.network.topology import Topology
from qkdrelay_page.board import Board

WAIT_S: Final = 10.0
"""Seconds to wait for the plans that others ask for; they are made one at a time."""
SETS_MAX: Final = 200
"""Sets of each kind that are listed."""
_PARAMETERS: Final = frozenset({"source", "target", "policy", "compromised", "failed", "cut"})


class BusyError(QkdRelayError):
    """It cannot be answered now."""


class Planning:
    """Plans of the network that the board shows."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._one = threading.Lock()

    def answer(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return the plans for ``source`` and ``target`` and the analysis of the one to take, as the command line does.

        ``compromised`` and ``failed`` list KMEs and ``cut`` links, by commas (kme-1,kme-2; kme-1:kme-2). Raises
        RequestRefusedError or TopologyError for what cannot be, BusyError for what cannot be answered now.
        """
        if unknown := sorted(asked.keys() - _PARAMETERS):
            raise RequestRefusedError(
                f"{unknown[0]!r} is nothing to ask", hint=f"there are {', '.join(sorted(_PARAMETERS))}"
            )
        topology = self._board.topology
        if topology is None:
            raise BusyError("the network is not known yet", hint="look whether the coordinator is running")
        source, target = (topology.require(asked.get(end, "")) for end in ("source", "target"))
        situation = Situation(
            tuple(dict.fromkeys(map(topology.require, _listed(asked, "compromised")))),
            tuple(dict.fromkeys(map(topology.require, _listed(asked, "failed")))),
            tuple(dict.fromkeys(_link(topology, link) for link in _listed(asked, "cut"))),
        )
        policy = next((known for known in POLICIES if known == asked.get("policy")), None)
        if policy is None and asked.get("policy"):
            raise RequestRefusedError(
                f"there is no policy {asked['policy']!r}", hint=f"there are {', '.join(POLICIES)}"
            )
        if not self._one.acquire(timeout=WAIT_S):
            raise BusyError("others ask for plans that take long", hint="once more in a moment")
        try:
            found = plans(topology, source, target, Demand(), policy)
            chosen = choose(topology, source, target, Demand(), policy, allow_unprotected=True)
            analysis = analysed(chosen.plan, situation, Chances(None, None, None), SETS_MAX)
        finally:
            self._one.release()
        ends = {"source": source, "target": target}
        return {
            "plan": {**ends, "plans": [candidate_as_data(candidate) for candidate in found]},
            "analysis": {**ends, "policy": chosen.policy, **analysis_as_data(analysis)},
            "taken": candidate_as_data(chosen),
        }


def _listed(asked: Mapping[str, str], name: str) -> list[str]:
    return [part for part in asked.get(name, "").split(",") if part]


def _link(topology: Topology, text: str) -> tuple[str, str]:
    a, _, b = text.partition(":")
    return topology.link(a, b)
