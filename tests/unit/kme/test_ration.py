"""What a sender may give up: so often in an hour, whatever its clock does, and after failures ever more rarely."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kme.blocks.ration import PAUSE_MAX_S, RATION, RATION_S, Ration
from qkdrelay.service.journal import Journal

NOW = 1_790_000_000.0
KEY = "given up on kme-2"


@pytest.fixture
def journal():
    return Journal(None, "kme kme-1", "")


def ration(journal, peer="kme-2"):
    return Ration(journal.batch, journal.meta, peer)


def note(journal, taken, *times):
    for now in times:
        with journal.transaction():
            taken.note(now)


def test_key_is_given_up_so_often_and_then_not_for_a_while(journal):
    taken = ration(journal)
    note(journal, taken, *(NOW + number for number in range(RATION - 1)))
    assert taken.wait_s(NOW + 100) == 0.0
    note(journal, taken, NOW + 100)
    assert taken.wait_s(NOW + 100) == RATION_S - 100
    assert taken.wait_s(NOW + RATION_S - 1) == 1.0
    assert taken.wait_s(NOW + RATION_S) == 0.0
    # One is free again, and no more.
    note(journal, taken, NOW + RATION_S)
    assert taken.wait_s(NOW + RATION_S) == 1.0


def test_the_ration_is_what_the_protocol_says_and_each_peer_s_own(journal):
    assert (RATION, RATION_S) == (128, 3_720.0)
    note(journal, ration(journal), *[NOW] * RATION)
    assert ration(journal).wait_s(NOW) == RATION_S
    assert ration(journal, "kme-3").wait_s(NOW) == 0.0


def test_a_start_does_not_renew_it(tmp_path):
    """Else who can have a KME restart could have it give up a block each time."""
    for start in range(RATION):
        journal = Journal(tmp_path / "store", "kme kme-1", "")
        taken = ration(journal)
        assert taken.wait_s(NOW + start) == 0.0
        note(journal, taken, NOW + start)
        journal.close()
    journal = Journal(tmp_path / "store", "kme kme-1", "")
    assert ration(journal).wait_s(NOW + RATION) == RATION_S - RATION
    journal.close()


def test_what_is_kept_does_not_grow(journal):
    taken = ration(journal)
    note(journal, taken, *(NOW + number for number in range(3 * RATION)))
    assert len(journal.meta.get(KEY)) == RATION * struct.calcsize("<d")
    assert ration(journal).wait_s(NOW + 3 * RATION) == RATION_S - RATION


def test_a_batch_that_is_undone_took_none(journal):
    taken = ration(journal)
    note(journal, taken, *[NOW] * (RATION - 1))

    def undone():
        with journal.transaction():
            taken.note(NOW)
            taken.note_refused(NOW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        undone()
    assert taken.wait_s(NOW) == ration(journal).wait_s(NOW) == 0.0


@given(st.lists(st.floats(-10_000, 10_000), max_size=80))
def test_whatever_the_clock_does_nothing_waits_for_long_and_it_is_over_at_last(steps):
    journal, now, latest = Journal(None, "kme kme-1", ""), NOW, NOW
    taken = ration(journal)
    for step in steps:
        now += step
        latest = max(latest, now)
        note(journal, taken, now)
        assert 0.0 <= taken.wait_s(now) <= RATION_S
    assert taken.wait_s(latest + RATION_S) == 0.0
    journal.close()


def test_a_clock_that_was_stepped_back_renews_nothing_and_holds_up_nothing_for_long(journal):
    taken = ration(journal)
    note(journal, taken, *[NOW] * RATION)
    assert taken.wait_s(NOW - 600) > 0.0
    assert taken.wait_s(NOW - 86_400) == 0.0


def test_after_a_block_that_nobody_held_the_next_waits_twice_as_long_each_time(journal):
    taken, now, pauses = ration(journal), NOW, []
    for _ in range(9):
        with journal.transaction():
            taken.note_refused(now)
        pauses.append(taken.wait_s(now))
        now += pauses[-1]
        assert taken.wait_s(now) == 0.0
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, PAUSE_MAX_S, PAUSE_MAX_S, PAUSE_MAX_S]
    with journal.transaction():
        taken.note_granted()
        taken.note_refused(now)
    assert taken.wait_s(now) == 1.0
    assert taken.wait_s(now - 3_600) == 0.0


@pytest.mark.parametrize("stored", [b"", b"x" * 7, struct.pack("<d", NOW) + b"x"])
def test_what_is_cut_off_in_the_store_is_left_out(journal, stored):
    with journal.transaction():
        journal.meta.set(KEY, stored)
    assert ration(journal).wait_s(NOW) == 0.0
