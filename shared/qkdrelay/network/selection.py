"""The plans to choose from for one relay: what each withstands, what it costs, and which one to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from qkdrelay.errors import InvalidPlanError, RequestRefusedError
from qkdrelay.network.key_cost import link_key_bytes, payload_bytes
from qkdrelay.network.minimal_sets import Withstands, smallest, withstood
from qkdrelay.network.names import Link
from qkdrelay.network.plan import SHARE_MESSAGES_MAX, SUCCESSORS_MAX, Plan
from qkdrelay.network.planner import Routes, no_path, path_plan, recursive_plan, union_plan, without
from qkdrelay.network.threshold_circuit import learning
from qkdrelay.network.topology import Topology

Policy = Literal["best", "disjoint", "recursive", "trusted"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
ENDS_ALLOW = "if the settings of both ends allow it, too (QKDRELAY_WITHSTAND_COMPROMISED=0)"
Load = frozenset[tuple[Link, float]]
"""How much of the key of a link, from sender to receiver, is spoken for, in any unit; of others nothing is."""


@dataclass(frozen=True, slots=True)
class Withstand:
    """What a relay is to withstand at the same time, in the worst case.

    ``compromised`` KMEs read along; ``failed`` ones are down, None standing for one if the network allows it;
    ``tampering`` ones alter and withhold shares. A tamperer counts under both (protocol, section 9): it may be among
    the compromised, and is lost besides the failed. So the splits must keep the secret from max(compromised,
    tampering) KMEs and deliver without failed + tampering.
    """

    compromised: int = 1
    failed: int | None = None
    tampering: int = 0

    def __post_init__(self) -> None:
        for what, number in (("compromised", self.compromised), ("failed", self.failed), ("tampering", self.tampering)):
            if number is not None and number < 0:
                raise RequestRefusedError(f"{what} is {number}", hint="a number of KMEs is 0 or more")

    @property
    def readers(self) -> int:
        """How many KMEs together must not learn the secret."""
        return max(self.compromised, self.tampering)

    @property
    def lost(self) -> int:
        """How many KMEs must not be needed; at least, if ``failed`` is left open."""
        return (self.failed or 0) + self.tampering

    def __str__(self) -> str:
        tampering = f",tampering={self.tampering}" if self.tampering else ""
        failed = f",failed={self.failed}" if self.failed is not None else ""
        return f"compromised={self.compromised}{failed}{tampering}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One plan for a relay; see `plans`.

    ``withstands`` takes nobody's word. ``meets_wish``: it withstands what was asked for. ``relies_on``: trusted KMEs on
    it whose honesty the protection asked for rests on; such a plan does not meet the wish by itself.
    ``link_key`` and ``link_key_batch``: bytes of link key drawn from each link (sender, receiver) to carry one key, and
    to carry the batch.
    """

    policy: Policy
    plan: Plan
    withstands: Withstands
    meets_wish: bool
    messages: int
    link_key: Mapping[Link, int]
    link_key_batch: Mapping[Link, int]
    relies_on: tuple[str, ...] = ()
    chosen: bool = False


def plans(
    topology: Topology,
    source: str,
    target: str,
    wish: Withstand | None = None,
    policy: Policy | None = None,
    *,
    key_count: int = 1,
    key_size_bits: int = 256,
    load: Load = frozenset(),
    budget: int = SHARE_MESSAGES_MAX,
) -> list[Candidate]:
    """Return the candidate plans, the chosen one marked if any meets the wish; of all policies or of one.

    Chosen is, of those that meet the wish (and of these, if ``failed`` is left open, those that withstand one), the
    one with the fewest KMEs to avoid, then the fewest messages, then the least link key. Among equally short
    paths those with less ``load`` are taken.

    Raises TopologyError for an unknown KME; InvalidPlanError if there is no path, or if the one policy asked for has no
    plan within the budget; RequestRefusedError for an unknown policy.
    """
    wish = wish or Withstand()
    if policy is not None and policy not in POLICIES:
        raise RequestRefusedError(f"there is no policy {policy!r}", hint=f"known: {', '.join(POLICIES)}")
    pair = _Pair(topology, source, target, wish=wish, load=load, budget=budget)
    found: list[Candidate] = []
    wrong: list[InvalidPlanError] = []
    for name, make in pair.policies().items():
        if policy not in (None, name):
            continue
        try:
            made = make()
        except InvalidPlanError as error:  # over the budget, which only the recursive rule can be by far
            wrong.append(error)
            continue
        if made is not None:
            found.append(pair.candidate(name, made, payload_bytes(1, key_size_bits), key_count, key_size_bits))
    if wrong and not found:
        raise wrong[0]
    good = [candidate for candidate in found if candidate.meets_wish]
    if good:
        place = found.index(min(good, key=pair.rank))
        found[place] = replace(found[place], chosen=True)
    return found


def choose(
    topology: Topology,
    source: str,
    target: str,
    wish: Withstand | None = None,
    policy: Policy | None = None,
    *,
    allow_unprotected: bool = False,
    key_count: int = 1,
    key_size_bits: int = 256,
    load: Load = frozenset(),
    budget: int = SHARE_MESSAGES_MAX,
) -> Candidate:
    """Return the plan to take; parameters as for `plans`.

    If none meets the wish, raise RequestRefusedError with the reason and, as a hint, the best alternative; or, if
    ``allow_unprotected``, return that: one that relies on trusted KMEs alone before one that keeps nothing. The
    candidate's ``meets_wish`` and ``relies_on`` say what it is, wherever it shows.
    """
    wish = wish or Withstand()

    def of(policy: Policy | None) -> list[Candidate]:
        cost = {"key_count": key_count, "key_size_bits": key_size_bits, "budget": budget}
        return plans(topology, source, target, wish, policy, load=load, **cost)

    # No plan that meets the wish takes fewer messages than the best one (`qkdrelay.network.planner`), so that what the
    # others withstand, which can take long to find, is not asked unless it fails.
    found = of(policy or "best")
    if policy is None and not found[0].chosen:
        found = of(None)
    for candidate in found:
        if candidate.chosen:
            return candidate
    if not found:
        raise _nobody_to_trust(topology, source, target, wish, of(None), allow_unprotected=allow_unprotected)
    best = _least_regretted(found, wish)
    if allow_unprotected:
        return replace(best, chosen=True)
    hint = _hint(best, wish)
    if policy is not None:
        other = next((candidate for candidate in of(None) if candidate.chosen), None)
        if other is not None:
            hint = _another(other)
    raise RequestRefusedError(_reason(topology, source, target, wish, policy), hint=hint)


def _nobody_to_trust(
    topology: Topology,
    source: str,
    target: str,
    wish: Withstand,
    others: list[Candidate],
    *,
    allow_unprotected: bool,
) -> RequestRefusedError:
    """Return why there is no plan of the policy trusted to allow, and which of the ``others`` to take."""
    chosen = next((candidate for candidate in others if candidate.chosen), None)
    trusted = [kme for kme in topology.kmes if kme in topology.noted("trusted")]
    if not trusted:
        why = f"no KME of {topology.name} is noted as trusted"
    elif chosen is not None:
        why = f"{chosen.policy} withstands {wish} without trusting anybody"
    else:
        why = f"none withstands {wish}, even if {', '.join(trusted)} can be trusted"
    if chosen is not None:
        hint = f"{_another(chosen)}, and there is nothing to allow"
    elif allow_unprotected:
        hint = "without --policy the best plan there is, of all kinds, is taken"
    else:
        hint = _hint(_least_regretted(others, wish), wish)
    return RequestRefusedError(f"there is no trusted plan from {source} to {target}: {why}", hint=hint)


def _another(chosen: Candidate) -> str:
    return f"--policy {chosen.policy} does, with {chosen.messages} share messages"


def _least_regretted(found: list[Candidate], wish: Withstand) -> Candidate:
    return min(found, key=lambda candidate: _regret(candidate, wish))


def _regret(candidate: Candidate, wish: Withstand) -> tuple[bool, int, int, int, bool]:
    have = candidate.withstands
    return (
        not candidate.relies_on,
        max(0, wish.readers - have.compromised),
        max(0, wish.lost - have.failed),
        candidate.messages,
        candidate.policy != "trusted",
    )


def _reason(topology: Topology, source: str, target: str, wish: Withstand, policy: Policy | None) -> str:
    if policy is not None:
        return f"no {policy} plan from {source} to {target} withstands {wish}"
    paths = len(Routes(topology, source, target).disjoint())
    needed = wish.readers + wish.lost + 1
    some = "1 path joins" if paths == 1 else f"{paths} disjoint paths join"
    return f"no plan withstands {wish}: {some} {source} and {target}, and that takes {needed}"


def _hint(best: Candidate, wish: Withstand) -> str:
    have = best.withstands
    if best.relies_on:
        trusted = ", ".join(best.relies_on)
        honest = f"a plan that does if {trusted} can be trusted, as the topology says"
        return f"{honest}, is taken with --allow-unprotected, {ENDS_ALLOW}"
    if have.compromised == 0 and wish.readers > 0:
        return f"--allow-unprotected relays all the same, {ENDS_ALLOW}; one KME on the way can then learn the keys"
    reach = Withstand(min(have.compromised, wish.compromised), min(have.failed, wish.failed or 0))
    return f"possible with policy {best.policy}: --withstand {reach}"


class _Pair:
    """What is asked for, between one source and one target."""

    def __init__(
        self,
        topology: Topology,
        source: str,
        target: str,
        *,
        wish: Withstand,
        load: Load,
        budget: int,
    ) -> None:
        topology.require(source)
        topology.require(target)
        if source == target:
            raise InvalidPlanError(f"source and target are both {source}", hint="name two different KMEs")
        self._topology, self._source, self._target = topology, source, target
        self._budget, self._wish = budget, wish
        self._others = len(topology.kmes) - 2
        self._routes = Routes(topology, source, target, dict(load))
        self._disjoint = self._routes.disjoint()[:SUCCESSORS_MAX]
        if not self._disjoint:
            raise no_path(topology, source, target)

    def policies(self) -> dict[Policy, Callable[[], Plan | None]]:
        return {"best": self._best, "disjoint": self._all_paths, "recursive": self._recursive, "trusted": self._trusted}

    def candidate(self, policy: Policy, plan: Plan, one_key: int, key_count: int, key_size_bits: int) -> Candidate:
        withstands = withstood(plan, self._others)
        batch = payload_bytes(key_count, key_size_bits)
        return Candidate(
            policy=policy,
            plan=plan,
            withstands=withstands,
            meets_wish=self._met(withstands),
            messages=plan.share_messages,
            link_key=link_key_bytes(plan, one_key, self._suite),
            link_key_batch=link_key_bytes(plan, batch, self._suite),
            relies_on=self._relies_on(plan, withstands),
        )

    def rank(self, candidate: Candidate) -> tuple[bool, int, int, int, int]:
        enough = candidate.withstands.failed >= self._wish.lost + (self._wish.failed is None)
        key = sum(candidate.link_key_batch.values())
        avoided = len(self._topology.noted("avoid") & set(candidate.plan.order[1:-1]))
        return (not enough, avoided, candidate.messages, key, POLICIES.index(candidate.policy))

    def _suite(self, link: Link) -> str:
        return self._topology.note(*link).suite or "otp"

    def _met(self, have: Withstands) -> bool:
        """More KMEs than there are besides the two ends cannot be compromised, fail or tamper."""
        readers, lost, tampering = (
            min(number, self._others) for number in (self._wish.readers, self._wish.lost, self._wish.tampering)
        )
        return have.compromised >= readers and have.failed >= lost and have.tampering >= tampering

    def _relies_on(self, plan: Plan, have: Withstands) -> tuple[str, ...]:
        """Return the trusted KMEs of the plan, if it takes their honesty to keep the secret from enough others."""
        between = self._topology.noted("trusted") & set(plan.order[1:-1])
        trusted = tuple(kme for kme in self._topology.kmes if kme in between)
        wanted = min(self._wish.readers, self._others)
        if not trusted or have.compromised >= wanted:
            return ()
        size = smallest(learning(plan, set(plan.order) - set(trusted)))
        return trusted if size is None or size > wanted else ()

    def _best(self) -> Plan:
        """Split over as few disjoint paths as the wish takes; over all there are, secrecy first, if it takes more."""
        if self._routes.direct():
            return path_plan([(self._source, self._target)], 1, self._budget)
        paths = len(self._disjoint)
        threshold = min(self._wish.readers + 1, paths)
        spare = self._wish.lost + (self._wish.failed is None)
        return path_plan(self._disjoint[min(threshold + spare, paths) - 1], threshold, self._budget)

    def _all_paths(self) -> Plan:
        """Split over all disjoint paths; what there is beyond the wish goes to both sides, half to half."""
        paths = self._disjoint[-1]
        least = min(self._wish.readers + 1, len(paths))
        spare = self._wish.lost + (self._wish.failed is None)
        most = max(least, len(paths) - spare)
        return path_plan(paths, (least + most + 1) // 2, self._budget)

    def _recursive(self) -> Plan:
        never = self._topology.noted("never") - {self._source, self._target}
        network = without(self._topology, never) if never else self._topology
        try:
            return recursive_plan(network, self._source, self._target, self._budget)
        except InvalidPlanError as error:
            best = self._best()
            hint = f"the policy best takes {best.share_messages} messages"
            raise InvalidPlanError(f"policy recursive: {error}", hint=hint) from None

    def _trusted(self) -> Plan | None:
        """Return a plan that meets the wish if the trusted KMEs are honest, unless one does without them."""
        if not self._topology.noted("trusted") or self._met(withstood(self._best(), self._others)):
            return None
        return next(self._relying(), None)

    def _relying(self) -> Iterator[Plan]:
        trusted, wish = self._topology.noted("trusted"), self._wish
        for paths in self._routes.mostly_trusted():
            if len(paths) > wish.lost:
                plan = path_plan(paths, len(paths) - wish.lost, self._budget)
                if withstood(plan, self._others, trusted).compromised >= wish.readers:
                    yield plan
        if wish.lost == 0:
            shared = self._routes.through_trusted(wish.readers + 1)
            if shared is not None:
                yield union_plan(shared, self._budget)
