"""What refills go around after relays that failed: the guilty for longer and longer, others until the next success."""

import pytest

from coordinator.supply.suspicions import SUSPECT_S, Suspicions
from qkdrelay.network.demand import Demand
from qkdrelay.network.plan import Hop, Plan
from qkdrelay.network.selection import choose
from qkdrelay.service.batch import Batch
from support.network import REFERENCE

FIRST = ("kme-1", "kme-2")
"""The link of the one path that is at fault."""


def over(*middle):
    """A plan from kme-1 to kme-8 over so many paths of two KMEs each."""
    hops = {"kme-1": Hop(tuple(kme for kme, _ in middle), len(middle))}
    for first, second in middle:
        hops |= {first: Hop((second,), 1), second: Hop(("kme-8",), 1)}
    return Plan.checked("kme-1", "kme-8", hops)


LEFT, MIDDLE, RIGHT = ("kme-2", "kme-5"), ("kme-3", "kme-6"), ("kme-4", "kme-7")


def test_all_parts_of_a_relay_that_failed_are_dear_and_of_one_that_is_confirmed_none():
    suspicions = Suspicions(Batch())
    suspicions.failed(over(LEFT, MIDDLE), 1.0, 4.0)
    assert suspicions.cost(FIRST, 4.0) == suspicions.cost(("kme-3", "kme-6"), 4.0) > 0
    assert suspicions.cost(("kme-1", "kme-4"), 4.0) == 0
    assert suspicions.cost(("kme-6", "kme-2"), 4.0) > 0  # over another link to a KME that may be at fault
    suspicions.confirmed(over(MIDDLE, RIGHT))
    assert suspicions.cost(("kme-3", "kme-6"), 4.0) == 0
    assert suspicions.cost(FIRST, 4.0) > 0


def test_what_fails_when_it_is_tried_again_is_gone_around_for_twice_as_long_and_is_dearer():
    suspicions, now, spans, costs = Suspicions(Batch()), 0.0, [], []
    for _ in range(4):
        suspicions.failed(over(LEFT, MIDDLE), now, now + 3.0)
        began = now = now + 3.0
        costs.append(suspicions.cost(FIRST, now))
        while suspicions.cost(FIRST, now):
            now += 1.0
            suspicions.forget(now)
        spans.append(now - began)
        now += 1.0
    assert spans == [SUSPECT_S * 2**times for times in range(4)]
    assert costs == [costs[0] * 4**times for times in range(4)]


def test_what_has_to_be_taken_meanwhile_and_fails_again_is_dearer_but_no_longer_gone_around():
    """Else a KME that was down for a minute, and without which some cannot do, would be gone around for an hour."""
    suspicions, now = Suspicions(Batch()), 0.0
    costs = []
    for _ in range(6):
        suspicions.failed(over(LEFT, MIDDLE), now, now + 3.0)
        now += 5.0
        costs.append(suspicions.cost(FIRST, now))
    assert costs == sorted(set(costs))
    assert suspicions.cost(FIRST, 3.0 + SUSPECT_S) == 0


def test_relays_that_were_under_way_together_count_once():
    suspicions = Suspicions(Batch())
    suspicions.failed(over(LEFT, MIDDLE), 1.0, 4.0)
    once = suspicions.cost(FIRST, 4.0)
    for begun_at in (1.5, 2.0, 4.0):
        suspicions.failed(over(LEFT, RIGHT), begun_at, 5.0)
    assert suspicions.cost(FIRST, 4.0) == once


def test_what_has_not_failed_for_long_is_forgotten():
    suspicions = Suspicions(Batch())
    suspicions.failed(over(LEFT, MIDDLE), 1.0, 4.0)
    once = suspicions.cost(FIRST, 4.0)
    suspicions.forget(4.0 + 2 * SUSPECT_S)
    suspicions.failed(over(LEFT, MIDDLE), 200.0, 203.0)
    assert suspicions.cost(FIRST, 203.0) == once


@pytest.mark.parametrize("step", [-7_200.0, 7_200.0])
def test_a_clock_that_is_stepped_lets_nothing_be_gone_around_for_ever(step):
    suspicions = Suspicions(Batch())
    suspicions.failed(over(LEFT, MIDDLE), 10_000.0, 10_003.0)
    assert suspicions.cost(FIRST, 10_003.0 + step) == 0
    suspicions.forget(10_003.0 + step)
    assert suspicions.cost(FIRST, 10_003.0) == 0


def test_a_commit_that_fails_leaves_no_suspicion():
    batch = Batch()
    suspicions = Suspicions(batch)
    batch.begin()
    suspicions.failed(over(LEFT, MIDDLE), 1.0, 4.0)
    batch.undo()
    assert suspicions.cost(FIRST, 4.0) == 0


def test_paths_avoid_the_kme_that_never_carries_after_a_few_tries():
    """Of three ways one is never right, whatever its KME says of its key: the two others are found."""
    suspicions, now, tries = Suspicions(Batch()), 0.0, []
    for _ in range(6):
        now += 4.0
        found = {link: 16 + suspicions.cost(link, now) for a, b in REFERENCE.links for link in ((a, b), (b, a))}
        plan = choose(REFERENCE, "kme-1", "kme-8", Demand(1, failed=0), costs=frozenset(found.items())).plan
        is_bad = "kme-6" in plan.order
        tries.append(is_bad)
        if is_bad:
            suspicions.failed(plan, now - 3.5, now)
        else:
            suspicions.confirmed(plan)
    assert sum(tries) <= 2
    assert not any(tries[3:])
