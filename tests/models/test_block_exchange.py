"""Blocks of link key between both ends of a link: the real code of both, in every state that there is within bounds.

And each mistake that a rule is there for, put back, is found.
"""

from dataclasses import asdict, replace

import pytest

from support.block_search import Bounds, Search, ViolatedError

NOTHING = Bounds(*[0] * len(asdict(Bounds())))
COMPUTED, DEVICE = False, True


@pytest.mark.parametrize(
    ("is_device", "bounds"),
    [
        (COMPUTED, {"blocks": 2, "messages": 2, "restores": 1, "kills": 1}),
        (COMPUTED, {"blocks": 2, "messages": 3, "forged": 1, "back": 1, "kills": 1}),
        (COMPUTED, {"blocks": 2, "messages": 3, "forgotten": 1, "kills": 1}),
        (DEVICE, {"blocks": 2, "messages": 4, "forgotten": 1, "cuts": 1}),
        (DEVICE, {"blocks": 3, "messages": 5, "cuts": 1, "back": 1}),
        (COMPUTED, {"blocks": 2, "messages": 2, "slotless": 1, "restores": 1}),
        (DEVICE, {"blocks": 3, "messages": 3, "slotless": 1, "cuts": 1}),
        (DEVICE, {"blocks": 2, "messages": 3, "restores": 1, "failed_commits": 1}),
        (DEVICE, {"blocks": 2, "messages": 3, "kills": 2, "failed_commits": 1}),
        (DEVICE, {"blocks": 3, "messages": 4, "repeated": 1, "forged": 1}),
    ],
)
def test_no_byte_seals_twice_what_is_sealed_can_be_opened_and_there_is_a_way_back(is_device, bounds):
    found = Search(is_device, replace(NOTHING, **bounds)).run()
    assert {"announce", "hold", "seal", "deliver message"} <= found.steps
    assert found.states > 1_000


@pytest.mark.parametrize(
    ("fault", "is_device", "bounds", "violated"),
    [
        ("cache keeps", DEVICE, {"blocks": 3, "messages": 4, "repeated": 1}, "a byte of key seals two messages"),
        ("held again", COMPUTED, {"blocks": 2, "messages": 3}, "a message is opened twice"),
        ("slots alone", DEVICE, {"blocks": 2, "messages": 4}, "seals under what that does not hold"),
        ("sender ignores runs", DEVICE, {"blocks": 1, "restores": 1}, "seals under what that does not hold"),
        ("run follows proof", DEVICE, {"blocks": 1, "restores": 1}, "seals under what that does not hold"),
        ("cursor goes back", COMPUTED, {"blocks": 1, "messages": 2, "failed_commits": 1}, "seals two messages"),
        ("computed anew", COMPUTED, {"blocks": 1, "messages": 1, "kills": 1}, "a message is opened twice"),
        ("pad before tag", COMPUTED, {"blocks": 1, "messages": 1}, "is said to have used key twice"),
        ("not wiped", DEVICE, {"blocks": 1, "messages": 1}, "a device's key that has opened a message is kept"),
        ("blocks in store", COMPUTED, {"blocks": 1, "messages": 2, "kills": 1}, "seals two messages"),
    ],
)
def test_a_mistake_that_a_rule_is_there_for_is_found(fault, is_device, bounds, violated):
    with pytest.raises(ViolatedError, match=violated):
        Search(is_device, replace(NOTHING, **bounds), frozenset({fault})).run()
