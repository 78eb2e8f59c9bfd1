"""Refusals of a plan as data: what there is instead is for each front end to put into its own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qkdrelay.errors import RequestRefusedError

if TYPE_CHECKING:
    from qkdrelay.network.candidates import Candidate
    from qkdrelay.network.demand import Demand


class NoPlanError(RequestRefusedError):
    """No plan that was asked for meets the demand; the text says why.

    ``of_policy``: there are plans of the policy asked for, but none that meets the demand. ``allowed``: any plan would
    have done. ``meeting``: a plan of another policy, which meets the demand. ``nearest``: the one that comes nearest.
    """

    def __init__(
        self,
        reason: str,
        *,
        demand: Demand,
        of_policy: bool,
        allowed: bool,
        meeting: Candidate | None,
        nearest: Candidate,
    ) -> None:
        super().__init__(reason)
        self.demand, self.of_policy, self.allowed = demand, of_policy, allowed
        self.meeting, self.nearest = meeting, nearest


class UnprotectedError(RequestRefusedError):
    """The plan to be taken keeps the keys from no single KME on the way, and that was not allowed."""

    def __init__(self, source: str, target: str) -> None:
        super().__init__(f"one compromised KME could learn keys relayed from {source} to {target}")
        self.source, self.target = source, target
