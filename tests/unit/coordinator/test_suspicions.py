"""What refills go around after relays that failed: blame gathers where the fault is, and fades."""

import pytest

from coordinator.supply.suspicions import FADES_S, Suspicions
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


def test_a_relay_that_failed_speaks_alike_against_all_of_it_and_one_that_arrives_for_all_of_it():
    suspicions = Suspicions(Batch())
    suspicions.failed(over(LEFT, MIDDLE), 4.0)
    assert suspicions.cost(FIRST, 4.0) == suspicions.cost(("kme-3", "kme-6"), 4.0) == once(4.0) > 0
    assert suspicions.cost(("kme-1", "kme-4"), 4.0) == 0
    assert suspicions.cost(("kme-6", "kme-2"), 4.0) > 0  # over another link to a KME that may be at fault
    suspicions.arrived(over(MIDDLE, RIGHT), 4.0)
    assert 0 < suspicions.cost(("kme-3", "kme-6"), 4.0) < once(4.0) / 2
    assert suspicions.cost(FIRST, 4.0) == once(4.0)


def once(now):
    """The cost of a link after a relay over it has failed, and nothing else."""
    suspicions = Suspicions(Batch())
    suspicions.failed(over(LEFT, MIDDLE), now)
    return suspicions.cost(FIRST, now)


def test_blame_gathers_at_what_the_failed_have_in_common_and_others_are_soon_cleared():
    """A KME that drops every second relay, while all that does not go over it arrives."""
    suspicions = Suspicions(Batch())
    for second in range(20):
        suspicions.failed(over(LEFT, MIDDLE), float(second))
        suspicions.arrived(over(LEFT, RIGHT), float(second))
        suspicions.arrived(over(MIDDLE, RIGHT) if second % 2 else over(LEFT, MIDDLE), float(second))
        suspicions.failed(over(MIDDLE, RIGHT), float(second))
    bad, good = suspicions.cost(("kme-1", "kme-3"), 20.0), suspicions.cost(FIRST, 20.0)
    assert bad > 4 * good
    assert bad > 100


def test_an_end_that_confirms_nothing_is_blamed_and_not_who_it_came_over():
    suspicions = Suspicions(Batch())
    elsewhere = Plan.checked("kme-1", "kme-6", {"kme-1": Hop(("kme-3",), 1), "kme-3": Hop(("kme-6",), 1)})
    for second in range(60):
        suspicions.failed(over(LEFT, MIDDLE), float(second))
        suspicions.arrived(elsewhere, float(second))
    assert suspicions.cost(("kme-1", "kme-3"), 60.0) * 50 < suspicions.cost(("kme-6", "kme-8"), 60.0)


@pytest.mark.parametrize("step", [10 * FADES_S, -7_200.0, 7_200.0])
def test_blame_fades_also_if_the_clock_is_stepped(step):
    suspicions = Suspicions(Batch())
    suspicions.failed(over(LEFT, MIDDLE), 10_000.0)
    assert suspicions.cost(FIRST, 10_000.0 + FADES_S) < once(10_000.0) / 2
    assert suspicions.cost(FIRST, 10_000.0 + step) == 0


def test_a_commit_that_fails_leaves_no_blame():
    batch = Batch()
    suspicions = Suspicions(batch)
    batch.begin()
    suspicions.failed(over(LEFT, MIDDLE), 4.0)
    batch.undo()
    assert suspicions.cost(FIRST, 4.0) == 0


def test_a_plan_costs_no_more_to_try_than_there_is_money_for_however_much_has_failed():
    """Costs stay whole numbers of a size that a path's search can add up."""
    suspicions = Suspicions(Batch())
    for _ in range(10_000):
        suspicions.failed(over(LEFT, MIDDLE), 4.0)
    assert once(4.0) < suspicions.cost(FIRST, 4.0) < 2**31


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
            suspicions.failed(plan, now)
        else:
            suspicions.arrived(plan, now)
    assert sum(tries) <= 2
    assert not any(tries[3:])
