"""A queue that brings only what nobody vouches for is left alone longer and longer; one among many costs nothing."""

import pytest

from qkdrelay.service import resting as module
from qkdrelay.service.resting import FREE, REST_S_MAX, REST_S_MIN, Resting


@pytest.fixture
def now(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def refused(resting, times, queue="bad"):
    for _ in range(times):
        resting.note(queue, accepted=False)


def test_a_few_refusals_cost_no_rest(now):
    resting = Resting()
    refused(resting, FREE)
    assert (set(resting.now()), resting.left_s()) == (set(), float("inf"))


def test_who_is_refused_again_and_again_rests_longer_each_time_up_to_a_bound(now):
    resting, rests = Resting(), []
    refused(resting, FREE)
    for _ in range(12):
        refused(resting, 1)
        assert set(resting.now()) == {"bad"}
        rests.append(round(resting.left_s(), 6))
        now[0] += rests[-1] + 1e-6
        assert set(resting.now()) == set()
    assert rests[:3] == [REST_S_MIN, 2 * REST_S_MIN, 4 * REST_S_MIN]
    assert rests[-3:] == [REST_S_MAX] * 3


def test_the_others_do_not_rest(now):
    resting = Resting()
    refused(resting, 100)
    resting.note("good", accepted=True)
    refused(resting, FREE, "other")
    assert set(resting.now()) == {"bad"}


def test_who_is_accepted_as_often_as_refused_does_not_rest(now):
    resting = Resting()
    for _ in range(1_000):
        refused(resting, 1)
        resting.note("bad", accepted=True)
    assert set(resting.now()) == set()


def test_what_was_refused_is_made_up_for_by_as_many_that_are_not(now):
    resting = Resting()
    refused(resting, 1_000)
    for _ in range(FREE + 8):
        resting.note("bad", accepted=True)
    now[0] += REST_S_MAX
    refused(resting, FREE)
    assert set(resting.now()) == set()
