"""The choice of a relay's plan among the candidates, and the refusals where none meets the demand."""

from __future__ import annotations

from dataclasses import replace

from qkdrelay.errors import InvalidPlanError, RequestRefusedError
from qkdrelay.network.candidates import Candidate, CandidateMaker, LinkCost
from qkdrelay.network.demand import POLICIES, Demand, Policy
from qkdrelay.network.plan import SHARE_MESSAGES_MAX
from qkdrelay.network.planner import PairPaths
from qkdrelay.network.refusals import NoPlanError
from qkdrelay.network.topology import Topology


def plans(
    topology: Topology,
    source: str,
    target: str,
    demand: Demand | None = None,
    policy: Policy | None = None,
    *,
    key_count: int = 1,
    key_size_bits: int = 256,
    costs: LinkCost = frozenset(),
    budget: int = SHARE_MESSAGES_MAX,
) -> list[Candidate]:
    """Return the candidate plans, the chosen one marked if any meets the demand; of all policies or of one.

    Chosen is, of those that meet the demand (and of these, if ``failed`` is left open, those that withstand one), the
    one with the fewest KMEs to avoid, then the fewest messages, then the least link key. Paths are the cheapest by
    ``costs`` (`qkdrelay.network.prices`).

    Raises TopologyError for an unknown KME; InvalidPlanError if there is no path, or if the one policy asked for has no
    plan within the budget; RequestRefusedError for an unknown policy.
    """
    demand = demand or Demand()
    if policy is not None and policy not in POLICIES:
        raise RequestRefusedError(f"there is no policy {policy!r}", hint=f"known: {', '.join(POLICIES)}")
    maker = CandidateMaker(topology, source, target, demand=demand, costs=costs, budget=budget)
    found: list[Candidate] = []
    wrong: list[InvalidPlanError] = []
    for name in POLICIES if policy is None else (policy,):
        try:
            made = maker.plan(name)
        except InvalidPlanError as error:  # over the budget, which only the recursive rule can be by far
            wrong.append(error)
            continue
        if made is not None:
            found.append(maker.candidate(name, made, key_count, key_size_bits))
    if wrong and not found:
        raise wrong[0]
    good = [candidate for candidate in found if candidate.meets_demand]
    if good:
        place = found.index(min(good, key=maker.rank))
        found[place] = replace(found[place], chosen=True)
    return found


def choose(
    topology: Topology,
    source: str,
    target: str,
    demand: Demand | None = None,
    policy: Policy | None = None,
    *,
    allow_unprotected: bool = False,
    key_count: int = 1,
    key_size_bits: int = 256,
    costs: LinkCost = frozenset(),
    budget: int = SHARE_MESSAGES_MAX,
) -> Candidate:
    """Return the plan to take; parameters as for `plans`.

    If none meets the demand, raise NoPlanError with the reason and the best alternatives; or, if
    ``allow_unprotected``, return the best one: one that relies on trusted KMEs alone before one that keeps nothing. The
    candidate's ``meets_demand`` and ``relies_on`` say what it is, wherever it shows.
    """
    demand = demand or Demand()

    def of(policy: Policy | None) -> list[Candidate]:
        cost = {"key_count": key_count, "key_size_bits": key_size_bits, "budget": budget}
        return plans(topology, source, target, demand, policy, costs=costs, **cost)

    # No plan that meets the demand takes cheaper paths than the best one (`qkdrelay.network.planner`), so that what
    # the others withstand, which can take long to find, is not asked unless it fails.
    found = of(policy or "best")
    if policy is None and not found[0].chosen:
        found = of(None)
    for candidate in found:
        if candidate.chosen:
            return candidate
    if found and allow_unprotected:
        return replace(_nearest(found, demand), chosen=True)
    others = found if policy is None else of(None)
    meeting = next((candidate for candidate in others if candidate.chosen), None)
    if found:
        reason = _reason(topology, source, target, demand, policy)
    else:
        reason = f"there is no trusted plan from {source} to {target}: {_why_none_trusted(topology, demand, meeting)}"
    raise NoPlanError(
        reason,
        demand=demand,
        of_policy=bool(found),
        allowed=allow_unprotected,
        meeting=meeting,
        nearest=_nearest(found or others, demand),
    )


def _nearest(found: list[Candidate], demand: Demand) -> Candidate:
    """Return the plan that comes nearest to the demand."""

    def regret(candidate: Candidate) -> tuple[bool, int, int, int, bool]:
        have = candidate.resilience
        return (
            not candidate.relies_on,
            max(0, demand.readers - have.compromised),
            max(0, demand.lost - have.failed),
            candidate.messages,
            candidate.policy != "trusted",
        )

    return min(found, key=regret)


def _reason(topology: Topology, source: str, target: str, demand: Demand, policy: Policy | None) -> str:
    if policy is not None:
        return f"no {policy} plan from {source} to {target} withstands {demand}"
    paths = len(PairPaths(topology, source, target).disjoint())
    needed = demand.readers + demand.lost + 1
    some = "1 path joins" if paths == 1 else f"{paths} disjoint paths join"
    return f"no plan withstands {demand}: {some} {source} and {target}, and that takes {needed}"


def _why_none_trusted(topology: Topology, demand: Demand, meeting: Candidate | None) -> str:
    trusted = [kme for kme in topology.kmes if topology.trust.get(kme) == "trusted"]
    if not trusted:
        return f"no KME of {topology.name} is noted as trusted"
    if meeting is not None:
        return f"{meeting.policy} withstands {demand} without trusting anybody"
    return f"none withstands {demand}, even if {', '.join(trusted)} can be trusted"
