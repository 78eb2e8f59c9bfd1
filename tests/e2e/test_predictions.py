"""What `coordinator analyse` predicts, against the running stack: KMEs that stop, links that are cut, coalitions.

A KME that stops is killed, or hangs: then its connection stays, and the broker goes on handing it messages.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any, Literal
from uuid import UUID

import pytest

from qkdrelay.messages.answers import RelayView
from qkdrelay.messages.plans import decode_plan
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.requests import AttackRequest, LabRequest, LinkRequest, ShowRequest
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.names import Route
from qkdrelay.network.plan import Plan
from qkdrelay.network.what_if import case
from support import rabbitmq, stack
from support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

Link = tuple[str, str]
NETWORKS = {"eight-kmes": ("kme-1", "kme-8"), "nsfnet": ("san-diego", "pittsburgh")}
"""Two KMEs of each that three disjoint paths join."""
POLICIES = ("recursive", "best")
TWO_LOST = 8
COALITIONS = 63
DELIVERED_WITHIN_S = 60.0
BLOCKED_FOR_S = (1.0, 4.0, 16.0)
"""Shares take milliseconds. Where some that can arrive have not, the machine is slow, and gets more time."""


@dataclass(frozen=True)
class Fault:
    """These KMEs do not run and these links do not carry."""

    failed: tuple[str, ...] = ()
    cut: tuple[Link, ...] = ()
    how: Literal["killed", "hanging"] = "killed"

    def hits(self, route: Route) -> bool:
        steps = {frozenset(step) for step in pairwise(route)}
        return bool(set(self.failed) & set(route)) or any(frozenset(link) in steps for link in self.cut)

    def arguments(self) -> list[str]:
        failed = ["--failed", ",".join(self.failed)] if self.failed else []
        return failed + (["--cut", ",".join(map(":".join, self.cut))] if self.cut else [])


@dataclass
class Bench:
    """A running network, and two of its KMEs."""

    network: stack.Stack
    source: str
    target: str
    ended: dict[UUID, str] = field(default_factory=dict)
    """How each relay ended."""
    ask: Any = None

    def analyse(self, policy: str, *arguments: str) -> dict[str, Any]:
        what = ("analyse", self.source, self.target, "--topology", self.network.topology.name, "--policy", policy)
        answer = stack.command_here(*what, *arguments, "--json")
        assert answer.code == 0, answer.err
        found: dict[str, Any] = answer.json()
        return found

    def compare(self, fault: Fault) -> int:
        """See that relays of each policy end as predicted for their plans; return how many are delivered.

        A plan goes around a link that is known to be cut, so it may be another than for a whole network, which says how
        long to wait.
        """
        whole = {policy: self.analyse(policy, *fault.arguments())["delivered"] for policy in POLICIES}
        delivered = 0
        with self.struck(fault):
            # All at once: those that are blocked take their whole time.
            started = {p: self.start(p, DELIVERED_WITHIN_S if whole[p] else BLOCKED_FOR_S[0]) for p in POLICIES}
            for policy, relay_id in started.items():
                view = self.end(relay_id)
                for longer in BLOCKED_FOR_S[1:]:
                    predicted, lost = self.predicted(view, fault)
                    if view.state == "failed" and not whole[policy] and (predicted or set(view.missing) != lost):
                        view = self.end(self.start(policy, longer))
                predicted, lost = self.predicted(view, fault)
                said = f"{policy}, {fault}: {view.state} ({view.reason}), missing {view.missing}"
                assert (view.state == "confirmed") is predicted, said
                assert lost <= set(view.missing), said
                if view.state == "failed":
                    assert set(view.missing) == lost, said
                delivered += predicted
        return delivered

    @staticmethod
    def predicted(view: RelayView, fault: Fault) -> tuple[bool, set[Route]]:
        """Whether a relay's plan delivers, and the routes that are lost."""
        plan = decode_plan(view.plan)
        lost = {route for route in plan.routes() if fault.hits(route)}
        return case(plan, (), fault.failed, fault.cut).delivered, lost

    @contextmanager
    def struck(self, fault: Fault) -> Iterator[None]:
        containers = [self.network.containers[kme] for kme in fault.failed]
        # A link is turned by the KMEs at its ends, so while both run.
        for a, b in fault.cut:
            self.ask(LinkRequest(a=a, b=b, up=False))
        for container in containers:
            container.kill() if fault.how == "killed" else container.pause()
        try:
            yield
        finally:
            since = time.monotonic()
            for container in containers:
                container.start() if fault.how == "killed" else container.unpause()
            if fault.how == "killed" and fault.failed:
                eventually(
                    lambda: self.network.back(fault.failed, since), timeout_s=60, what=f"{fault.failed} to be back"
                )
            for a, b in fault.cut:
                self.ask(LinkRequest(a=a, b=b, up=True))

    def start(self, policy: str, timeout_s: float) -> UUID:
        relay_id = new_relay_id()
        request = stack.asked(relay_id, self.source, self.target, policy, timeout_s)
        assert self.ask(request).policy == policy
        return relay_id

    def end(self, relay_id: UUID) -> RelayView:
        """Wait until a relay is decided."""

        def decided() -> RelayView | None:
            view: RelayView = self.ask(ShowRequest(relay=str(relay_id), follow=False))
            return view if view.state in TERMINAL else None

        view = eventually(decided, timeout_s=2 * DELIVERED_WITHIN_S, what=f"{relay_id} to end")
        self.ended[relay_id] = view.state
        return view

    def as_decided(self, kme: str) -> dict[str, str] | None:
        """Return what an end has of each relay, a key or nothing, once it has all that are confirmed and no other."""
        keys = [key for key in self.network.all_keys(kme) if UUID(key["relay_id"]) in self.ended]
        revealed = {key["relay_id"]: key["key"] for key in keys if "key" in key}
        confirmed = {str(relay_id) for relay_id, state in self.ended.items() if state == "confirmed"}
        return {str(relay_id): "" for relay_id in self.ended} | revealed if revealed.keys() == confirmed else None


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> Iterator[Bench]:
    rabbitmq.require_containers(stack.IMAGE)
    with stack.running(request.param, lab=True) as running:
        bench = Bench(running, *NETWORKS[request.param])
        yield bench
        # Whatever was stopped and cut, the two ends never part, and no key is released twice or of a failed relay.
        source, target = (
            eventually(lambda kme=kme: bench.as_decided(kme), what=f"{kme} to do as decided")
            for kme in (bench.source, bench.target)
        )
        assert source == target
        keys = [key for key in source.values() if key]
        assert len(set(keys)) == len(keys)


@pytest.fixture
def bench(network: Bench) -> Iterator[Bench]:
    with network.network.talk() as network.ask:
        yield network


@pytest.fixture
def choice() -> random.Random:
    seed = int(os.environ.get("QKDRELAY_SEED", random.randrange(2**32)))
    print(f"QKDRELAY_SEED={seed}")
    return random.Random(seed)


def compare(bench: Bench, faults: list[Fault]) -> int:
    """See that every case ends as predicted; return how many are delivered."""
    began = time.monotonic()
    delivered = sum(bench.compare(fault) for fault in faults)
    blocked, took_s = len(faults) * len(POLICIES) - delivered, time.monotonic() - began
    print(f"{bench.network.topology.name}: {delivered} delivered, {blocked} blocked, all as predicted ({took_s:.0f} s)")
    return delivered


def test_a_relay_ends_as_predicted_with_any_one_kme_killed(bench: Bench) -> None:
    faults = [Fault(failed=(kme,)) for kme in bench.network.topology.kmes]
    # An end that is down blocks both; `best` is stopped by no other.
    assert len(faults) - 2 <= compare(bench, faults) < 2 * len(faults) - 4


def test_a_relay_ends_as_predicted_with_any_one_link_cut(bench: Bench) -> None:
    faults = [Fault(cut=(link,)) for link in bench.network.topology.links]
    assert len(faults) <= compare(bench, faults) < 2 * len(faults)


def test_a_relay_ends_as_predicted_with_any_two_of_them_lost(bench: Bench, choice: random.Random) -> None:
    plans = [_plan(bench, policy) for policy in POLICIES]
    used = {frozenset(link) for plan in plans for link in plan.links}
    links = [link for link in bench.network.topology.links if frozenset(link) in used]
    kmes = sorted({kme for plan in plans for kme in plan.order} - {bench.source, bench.target})
    every = [Fault(failed=pair, how="hanging") for pair in combinations(kmes, 2)]
    every += [Fault(cut=pair) for pair in combinations(links, 2)]
    every += [Fault(failed=(kme,), cut=(link,), how="hanging") for kme in kmes for link in links]
    compare(bench, choice.sample(every, TWO_LOST))


def _plan(bench: Bench, policy: str) -> Plan:
    view = bench.end(bench.start(policy, DELIVERED_WITHIN_S))
    assert view.state == "confirmed"
    return decode_plan(view.plan)


def test_a_coalition_learns_what_is_predicted(bench: Bench, choice: random.Random) -> None:
    between = sorted(set(bench.network.topology.kmes) - {bench.source, bench.target})
    for kme in between:
        bench.ask(LabRequest(kme=kme, mode="leak"))
    try:
        for policy in POLICIES:
            view = bench.end(bench.start(policy, DELIVERED_WITHIN_S))
            assert view.state == "confirmed"
            plan = decode_plan(view.plan)
            _compare_coalitions(bench, policy, view.relay_id, plan, choice)
    finally:
        for kme in between:
            bench.ask(LabRequest(kme=kme, mode=None))


def _compare_coalitions(bench: Bench, policy: str, relay_id: UUID, plan: Plan, choice: random.Random) -> None:
    attack: Callable[..., Any] = lambda *kmes: bench.ask(AttackRequest(relay=str(relay_id), kmes=kmes))  # noqa: E731
    leaked = plan.share_messages - plan.final_shares
    eventually(lambda: attack().shares_held == leaked, what=f"{leaked} leaks to arrive")
    kmes = sorted(set(plan.order) - {plan.source, plan.target})
    every = [chosen for size in range(1, len(kmes) + 1) for chosen in combinations(kmes, size)]
    minimal = [tuple(sorted(found)) for found in bench.analyse(policy)["minimal_learning_coalitions"]]
    compared = {*minimal, *(found[1:] for found in minimal), *choice.sample(every, min(COALITIONS, len(every)))}
    learned = 0
    for coalition in sorted(compared):
        predicted = bench.analyse(policy, "--compromised", ",".join(coalition))["learned"]
        assert attack(*coalition).learned is predicted, f"{policy}: {coalition}"
        learned += predicted
    print(
        f"{bench.network.topology.name}, {policy}: {len(compared)} coalitions, {learned} learn the secret as predicted"
    )
    assert 0 < learned < len(compared)
