"""Why a relay failed: what its reason says, against what really was missing."""

import re
from collections import Counter
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attack.oracle import arrivals, prefixes, suffices
from coordinator.lifecycle import Relay, fail_if_overdue
from qkdrelay.messages.control import Terms
from qkdrelay.messages.plans import encode_plan
from qkdrelay.messages.reports import (
    Collected,
    Dispute,
    Expected,
    Findings,
    Forwarded,
    Rebuilt,
    Split,
    Started,
)
from qkdrelay.network.whereabouts import Whereabouts
from support.kme import NOTHING, NOW, RELAY
from support.network import Network, carried, of
from support.plans import random_plans

ENOUGH = "enough shares"
REPORTED = (Expected, Started, Rebuilt, Split, Forwarded, Collected, Findings)


# --- through a network ------------------------------------------------------------------------------


class Broken:
    """A network of a plan's KMEs and links, and what is wrong in it: the truth."""

    def __init__(self, plan, data):
        self.plan = plan
        kmes, links = plan.order, sorted({tuple(sorted(link)) for link in plan.links})
        few = {"max_size": 2, "unique": True}
        self.cut = set(map(frozenset, data.draw(st.lists(st.sampled_from(links), **few), "cut")))
        between = [kme for kme in kmes if kme not in (plan.source, plan.target)]
        ends = data.draw(st.sampled_from([[], [], [], [], [plan.source], [plan.target]]), "dead ends")
        self.dead = {*ends, *data.draw(st.lists(st.sampled_from(between), **few) if between else st.just([]), "dead")}
        self.tampering = data.draw(st.sampled_from([None, *between]), "tampering")
        self.withholding = data.draw(st.sampled_from([None, *between]), "withholding")
        if self.withholding == self.tampering:
            self.withholding = None
        silences = st.lists(st.tuples(st.sampled_from(kmes), st.sampled_from(REPORTED)), max_size=2)
        self.lost = set(data.draw(st.just([]) | silences, "lost reports"))
        self.network = Network(of(kmes, links), lab=True, withstand_compromised=0)

    def heard(self, kme, kind):
        return kme not in self.dead and (kme, kind) not in self.lost

    def arrived(self):
        """The routes whose share reached the target."""
        return arrivals(self.plan, self.dead | {self.withholding}, self.cut)

    def relay(self):
        """Relay once over the plan, let the deadline pass, and return what is shown of it."""
        network, plan = self.network, self.plan
        for kme, mode in ((self.tampering, "tamper"), (self.withholding, "withhold")):
            if kme is not None:
                network.compromise(kme, mode)
        for a, b in map(sorted, self.cut):
            for kme, peer in ((a, b), (b, a)):
                with network.stores[kme].journal.transaction():
                    network.stores[kme].waiting.switch_link(peer, up=False)
        network.stop(*self.dead)
        service = network.service("coordinator")
        reports = service._reports
        take = reports._take
        reports._take = lambda sender, report, now: (
            None if (sender, type(report)) in self.lost else take(sender, report, now)
        )
        return carried(network, plan)

    def halt(self, route):
        """Where the share on a route that did not arrive came no further, as a reason has it."""
        for holder, receiver in pairwise(route):
            if frozenset((holder, receiver)) in self.cut:
                return f"waits at {holder}: the QKD link to {receiver} is down"
            if receiver in self.dead or receiver == self.withholding:
                return f"no news from {receiver}"
        raise AssertionError(f"{route} did arrive")


def lacking(plan, arrived, route=None):
    """The missing routes that matter: below what is not rebuilt; each split on the way counted anew from its parts."""
    route = route or (plan.source,)
    if route[-1] == plan.target:
        return [] if route in arrived else [route]
    below = [lacking(plan, arrived, (*route, kme)) for kme in plan.successors(route[-1])]
    good = sum(not lost for lost in below)
    return [] if good >= plan.threshold(route[-1]) else [lost for part in below for lost in part]


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(random_plans(6), st.data())
def test_the_reason_says_what_was_missing(plan, data):
    broken = Broken(plan, data)
    view, heard = broken.relay(), broken.heard
    source, target = plan.source, plan.target
    arrived = broken.arrived()
    good = {route for route in arrived if broken.tampering not in route}
    assert view.state == ("confirmed" if not view.reason else "failed")
    silent = [f"source {source}"] * (not heard(source, Started)) + [f"target {target}"] * (not heard(target, Expected))
    if suffices(plan, good) and heard(target, Rebuilt):
        assert view.reason == ""
    elif silent:
        seen = view.split or view.forwarded or view.collected or view.stuck
        begun = ", although it has begun" if seen and not heard(source, Started) else ""
        assert view.reason == f"the {' and the '.join(silent)} did not answer in time{begun}"
    elif suffices(plan, good):
        known = arrived if heard(target, Collected) else set()
        if broken.tampering is None or not heard(target, Findings):
            assert view.reason.startswith(f"{ENOUGH} have reached {target}, but it has not said" if known else "t")
    elif suffices(plan, arrived) and heard(target, Findings):
        assert view.reason.startswith(f"{ENOUGH} came, but false ones among them left too few good ones: ")
    elif suffices(plan, arrived) and heard(target, Collected):
        assert view.reason.startswith(f"{ENOUGH} have reached {target}, but it has not said")
    elif not suffices(plan, arrived):
        too_few(view, broken, arrived if heard(target, Collected) else set())
    # Whatever is lost: none of it makes many of few.
    if not suffices(plan, arrived):
        assert ENOUGH not in view.reason


def too_few(view, broken, known):
    plan, reason = broken.plan, view.reason
    assert not suffices(plan, known)
    assert set(view.missing) == arrivals(plan) - known
    splitters = [route for route in prefixes(plan) if plan.is_split(route[-1])]
    if splitters:
        first = min(splitters, key=len)
        present = sum(not lacking(plan, known, (*first, kme)) for kme in plan.successors(first[-1]))
        counts = f"the split on {'>'.join(first)} has {present} of the {plan.threshold(first[-1])} it needs; "
        assert reason.startswith(f"too few shares in time: {counts}")
    else:
        assert reason.startswith(f"the share did not reach {plan.target} in time: ")
    where = lacking(plan, known)
    assert where
    if broken.lost:
        # Where a report is missing, a share was seen less far; somebody on its way is named all the same.
        assert any(kme in reason for route in where for kme in route)
        return
    halts = Counter(map(broken.halt, where))
    said = dict(re.findall(r"((?:waits at|no news)[^;(]*?)(?: \((\d+) routes\))?(?:;|$)", reason))
    assert {halt: int(count or 1) for halt, count in said.items()}.items() <= halts.items()
    assert len(said) == min(3, len(halts))
    assert ("more" in reason) == (len(halts) > 3)


# --- from any reports at all ------------------------------------------------------------------------


@st.composite
def reported(draw):
    """A plan, which of its shares have arrived, which of these the target finds false, and the relay."""
    plan = draw(random_plans())
    routes = sorted(arrivals(plan))
    arrived = draw(st.sets(st.sampled_from(routes)))
    false = draw(st.sets(st.sampled_from(sorted(arrived)))) if arrived and draw(st.booleans()) else set()
    findings = None
    if false or draw(st.booleans()):
        disputed = () if draw(st.booleans()) else (Dispute(split=(plan.source,), sets=tuple((r,) for r in false)),)
        findings = Findings(
            relay_id=RELAY, false=tuple(sorted(false)), disputed=disputed, equivocating=tuple(false), unclear=""
        )
    amount = {"key_count": 1, "key_size_bits": 128, "withstand": NOTHING, "supply": None}
    terms = Terms(relay_id=RELAY, plan=encode_plan(plan), deadline=NOW, **amount)
    relay = Relay(
        terms=terms,
        policy="",
        protected=False,
        created_at=NOW - 1,
        expected=True,
        state="started",
        started=True,
        findings=findings,
    )
    return plan, arrived, false, relay


@settings(max_examples=400)
@given(reported())
def test_enough_shares_are_said_to_have_come_only_where_they_have(case):
    plan, arrived, false, relay = case
    reason = fail_if_overdue(relay, Whereabouts(plan, collected=arrived), NOW).reason
    found = relay.findings is not None and bool(relay.findings.false or relay.findings.disputed)
    if not found:
        assert (ENOUGH in reason) == suffices(plan, arrived)
    if "false ones" in reason:
        assert found
        assert relay.findings.disputed or not suffices(plan, arrived - false)
    if "has not said" in reason and ENOUGH in reason:
        assert suffices(plan, arrived)
    assert len(reason) < 1_000
