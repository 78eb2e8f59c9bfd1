"""Who may wait for a link, and whose turn it is: nobody takes the others' room or more than a share of the key."""

from collections import Counter

import pytest

from kme import fairness
from kme.effects import SendShare
from kme.fairness import FairQueue, WaitingQuota, origin_of
from qkdrelay.service.batch import Batch
from support import plans
from support.kme import NOW, RELAY


def share(came_from, size=100, to="kme-8"):
    route = ("kme-5", to) if came_from == "kme-5" else ("kme-1", came_from, "kme-5", to)
    return SendShare(RELAY, route, plans.eight().below(to), NOW, bytes(size), 1, 1)


def test_a_share_comes_from_the_kme_before_this_one_or_from_here():
    assert origin_of(share("kme-2")) == "kme-2"
    assert origin_of(share("kme-5")) == "kme-5"


@pytest.mark.parametrize("honest", [1, 10, 100])
def test_key_goes_to_all_who_wait_in_equal_parts_whatever_they_ask_for(honest):
    turns, drawn = FairQueue(Batch()), Counter()
    sizes = {"flooder": 5000, "kme-2": honest, "kme-3": honest}
    for _ in range(20_000):
        whose = turns.next(sizes)
        turns.served(whose, sizes[whose])
        drawn[whose] += sizes[whose]
    assert max(drawn.values()) - min(drawn.values()) <= 5000


def test_who_had_nothing_to_send_has_saved_nothing_up():
    turns = FairQueue(Batch())
    for _ in range(100):
        turns.served(turns.next(["a"]), 100)
    served = Counter()
    for _ in range(10):
        whose = turns.next(["a", "b"])
        turns.served(whose, 100)
        served[whose] += 1
    assert served == {"a": 5, "b": 5}


def test_who_comes_and_goes_does_not_get_more_than_who_stays():
    turns, drawn = FairQueue(Batch()), Counter()
    for step in range(3_000):
        whose = turns.next(["a", "b", "c"] if step % 3 == 0 else ["b", "c"])
        turns.served(whose, 500 if whose == "a" else 50)
        drawn[whose] += 500 if whose == "a" else 50
    assert drawn["a"] <= min(drawn["b"], drawn["c"]) + 500


def test_one_origin_takes_half_the_room_at_most_and_leaves_the_others_theirs(monkeypatch):
    monkeypatch.setattr(fairness, "WAITING_MAX", 100)
    room, admitted = WaitingQuota([]), Counter()
    for who in ("flooder", "another", "kme-2", "kme-3"):
        for _ in range(1000):
            if not room.is_full_for(share(who)):
                room.add(share(who))
                admitted[who] += 1
    assert admitted["flooder"] == 50
    assert all(admitted.values())
    assert sum(admitted.values()) <= 100


def test_room_is_counted_in_bytes_too_and_over_all_links(monkeypatch):
    monkeypatch.setattr(fairness, "WAITING_BYTES_MAX", 10_000)
    room = WaitingQuota([("kme-8", "flooder", 1, 3_000), ("kme-6", "flooder", 1, 1_500)])
    assert set(room.peers()) == {"kme-6", "kme-8"}
    assert not room.is_full_for(share("flooder", 1_000))
    assert room.is_full_for(share("flooder", 1_001))
    assert not room.is_full_for(share("kme-2", 5_500))
