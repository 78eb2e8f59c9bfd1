"""The coordinator hears at once what is dry, some seconds later what is low, and not more often than that."""

import pytest

from kme.rates import Rate
from kme.supply.demand import shared_out
from kme.supply.telling import AGAIN_S, AT_ONCE_PER_S, Telling
from qkdrelay.service.allowance import Allowance
from qkdrelay.service.batch import Batch

NOW, HERE, THERE = 1_700_000_000.0, ("here", 1), ("there", 1)


@pytest.fixture
def telling():
    telling = Telling(Batch())
    telling.told([], NOW)
    return telling


def test_what_is_newly_dry_is_told_at_once_and_again_a_little_later(telling):
    assert telling.is_due([THERE], NOW)
    telling.told([THERE], NOW)
    assert not telling.is_due([THERE], NOW + 0.1)
    assert telling.wait_s(NOW + 0.1) == pytest.approx(AGAIN_S - 0.1)
    assert telling.is_due([THERE, HERE], NOW + 0.1)
    telling.told([THERE, HERE], NOW + 0.1)
    assert telling.is_due([THERE, HERE], NOW + 0.1 + AGAIN_S)


def test_what_was_not_dry_for_a_while_is_new_again(telling):
    telling.told([THERE], NOW)
    assert not telling.is_due([], NOW + 0.1)
    assert telling.is_due([THERE], NOW + 0.2)


def test_nobody_is_told_without_end_and_what_was_held_up_is_told_later(telling):
    told = 0
    for number in range(100):
        if telling.is_due([(str(number), 1)], NOW):
            telling.told([(str(number), 1)], NOW)
            told += 1
    assert told == 2 * AT_ONCE_PER_S
    assert 0 < telling.wait_s(NOW) <= 1 / AT_ONCE_PER_S
    assert telling.is_due([("99", 1)], NOW + 1 / AT_ONCE_PER_S)


def test_where_nothing_is_dry_nothing_is_due_by_itself(telling):
    assert not telling.is_due([], NOW + 0.5)
    assert telling.wait_s(NOW) > 1e9


def test_a_rate_is_that_of_late_also_after_the_clock_was_stepped_back():
    rate = Rate()
    for second in range(100):
        rate = rate.plus(50.0, NOW + second)
    assert rate.now(NOW + 99) == pytest.approx(50, rel=0.1)
    assert rate.now(NOW + 200) < 1
    assert rate.now(NOW - 1e6) < 1


def test_an_allowance_is_of_a_second_and_twice_that_at_once():
    allowance = Allowance(Batch(), 4.0)
    assert sum(allowance.take(NOW) for _ in range(100)) == 8
    assert 0 < allowance.wait_s(NOW) <= 0.25
    assert sum(allowance.take(NOW + 0.5) for _ in range(100)) == 2


@pytest.mark.parametrize(
    ("wanted", "available", "given"),
    [
        ([(10, 1), (10, 1)], 100, [10, 10]),
        ([(10, 1), (10, 1)], 10, [5, 5]),
        ([(10, 3), (10, 1)], 8, [6, 2]),
        ([(2, 3), (10, 1)], 8, [2, 6]),
        ([(0, 1), (10, 1)], 8, [0, 8]),
        ([(10, 1)], 0, [0]),
        ([], 5, []),
    ],
)
def test_what_there_is_is_shared_out_by_weight_and_nobody_gets_more_than_is_wanted(wanted, available, given):
    assert shared_out(wanted, available) == given
