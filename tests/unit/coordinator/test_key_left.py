"""What the coordinator reckons is left of links' key between what KMEs say of it."""

from uuid import UUID

import pytest

from coordinator.supply.key_left import SEALED_S, KeyDrawn
from qkdrelay.messages.reports import SILENT_S, LinkReport
from qkdrelay.network.prices import UNUSABLE
from qkdrelay.service.batch import Batch
from support.kme import OF_NO_NOTE

LINK, BACK = ("kme-1", "kme-2"), ("kme-2", "kme-1")
BUFFER, PER_S = 10_000, 100
RELAY, OTHER = UUID(int=1), UUID(int=2)


def said(at, available=5_000, *, link=LINK, up=True, waiting=0):
    figures = {"buffer_bytes": BUFFER, "rate_bps": 8 * PER_S, "waiting": waiting}
    return link[0], at, LinkReport(peer=link[1], up=up, available_bytes=available, key=OF_NO_NOTE, **figures)


def left(drawn, now, *reports):
    """The bytes of the link that may be drawn."""
    key = drawn.left(reports, now)
    low, high = -50_000, BUFFER + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if key.has({LINK: middle}, 0.0) else (low, middle)
    return low


@pytest.fixture
def drawn():
    return KeyDrawn(Batch())


def test_what_has_come_since_is_there_up_to_what_is_kept(drawn):
    assert left(drawn, 100.0, said(100.0)) == 5_000
    assert left(drawn, 107.0, said(100.0)) == 5_700
    assert left(drawn, 107.0, said(100.0, 9_900)) == BUFFER


def test_what_was_drawn_since_is_not_there_until_the_kme_has_said_so(drawn):
    drawn.begun(RELAY, {LINK: 3_000}, 101.0)
    assert left(drawn, 101.0, said(100.0)) == 5_100 - 3_000
    drawn.ended(RELAY)
    assert left(drawn, 102.0, said(100.0)) == 5_200 - 3_000
    assert left(drawn, 101.0, said(101.0 + SEALED_S / 2, 2_000)) <= 2_000 - 3_000 + PER_S  # it may not have seen it
    assert left(drawn, 103.0, said(103.0, 2_300)) == 2_300
    assert not drawn._relays


def test_where_shares_wait_what_relays_under_way_draw_is_not_there(drawn):
    drawn.begun(RELAY, {LINK: 3_000}, 90.0)
    drawn.begun(OTHER, {LINK: 1_000}, 91.0)
    assert left(drawn, 100.0, said(100.0, 0, waiting=2)) == -4_000
    drawn.ended(RELAY)
    assert left(drawn, 101.0, said(100.0, 0, waiting=1)) == PER_S - 1_000
    assert left(drawn, 102.0, said(102.0, 50)) == 50


def test_what_relays_draw_of_other_links_does_not_count(drawn):
    drawn.begun(RELAY, {BACK: 3_000}, 101.0)
    assert left(drawn, 101.0, said(100.0), said(100.0, link=BACK)) == 5_100


def test_a_link_that_is_down_or_of_which_nothing_is_heard_carries_nothing_either_way(drawn):
    for reports, now in (((said(100.0, up=False),), 100.0), ((said(100.0),), 100.0 + SILENT_S)):
        key = drawn.left((*reports, said(now, link=BACK)), now)
        assert dict(key.costs(lambda _: 0)) == {LINK: UNUSABLE, BACK: UNUSABLE}
        assert key.unusable({BACK: 1}) == BACK


@pytest.mark.parametrize("step", [-7_200.0, 7_200.0])
def test_a_clock_that_is_stepped_makes_no_key_and_keeps_no_relay(drawn, step):
    drawn.begun(RELAY, {LINK: 3_000}, 100.0)
    drawn.ended(RELAY)
    assert left(drawn, 100.0 + step, said(100.0)) <= 5_000 + PER_S * SILENT_S
    assert not drawn._relays


def test_a_commit_that_fails_draws_nothing():
    batch = Batch()
    drawn = KeyDrawn(batch)
    batch.begin()
    drawn.begun(RELAY, {LINK: 3_000}, 100.0)
    batch.undo()
    assert left(drawn, 100.0, said(100.0)) == 5_000
