"""The board: viewers get the latest of what has changed, are counted and bounded, and cost nothing when gone."""

import threading
from uuid import uuid4

import pytest

from qkdrelay_page.board import RELAY, RELAYS_WATCHED_MAX, VIEWERS_MAX, Board, TooManyViewersError


def test_a_viewer_gets_what_there_is_then_what_changes_and_of_several_changes_the_last():
    board = Board()
    board.put("network", {"a": 1})
    with board.viewer() as viewer:
        assert viewer.next(0.0) == {"network": b'{"a":1}'}
        board.put("network", {"a": 1})
        assert viewer.next(0.0) == {}
        for number in range(100):
            board.put("network", {"a": number})
        board.put("relays", [])
        assert viewer.next(0.0) == {"network": b'{"a":99}', "relays": b"[]"}


def test_a_viewer_that_waits_is_told_at_once():
    board, given = Board(), []
    with board.viewer() as viewer:
        waits = threading.Thread(target=lambda: given.append(viewer.next(20.0)))
        waits.start()
        board.put("network", {})
        waits.join(20.0)
    assert given == [{"network": b"{}"}]


def test_a_relay_is_shown_to_those_who_look_at_it():
    board, mine, other = Board(), uuid4(), uuid4()
    board.put(f"{RELAY}{mine}", {"mine": True})
    board.put(f"{RELAY}{other}", {"mine": False})
    with board.viewer(mine) as viewer, board.viewer() as elsewhere:
        assert viewer.next(0.0) == {"relay": b'{"mine":true}'}
        assert elsewhere.next(0.0) == {}
        assert board.relays_watched() == (mine,)
    assert board.relays_watched() == ()


def test_two_look_at_one_relay_and_one_leaves():
    board, relay = Board(), uuid4()
    with board.viewer(relay):
        with board.viewer(relay):
            pass
        assert board.relays_watched() == (relay,)


def test_there_are_so_many_viewers_and_relays_and_no_more():
    board, viewers = Board(), []
    for number in range(VIEWERS_MAX):
        viewers.append(board.viewer(uuid4() if number < RELAYS_WATCHED_MAX else None))
        viewers[-1].__enter__()
    with pytest.raises(TooManyViewersError, match=f"{VIEWERS_MAX} viewers look already"), board.viewer():
        pass
    viewers.pop().__exit__(None, None, None)
    with pytest.raises(TooManyViewersError, match="16 different relays"), board.viewer(uuid4()):
        pass
    with board.viewer(board.relays_watched()[0]):
        assert board.viewers == VIEWERS_MAX
    assert board.viewers == VIEWERS_MAX - 1


def test_closing_sends_everybody_away():
    board = Board()
    with board.viewer() as viewer:
        board.close()
        assert viewer.next(20.0) is None


def test_who_waits_for_a_viewer_goes_on_when_one_comes():
    board = Board()
    waits = threading.Thread(target=board.wait, args=(20.0,))
    waits.start()
    with board.viewer():
        waits.join(20.0)
    assert not waits.is_alive()
    assert board.has_come()
    assert not board.has_come()


def test_what_is_no_number_of_json_is_never_sent():
    with pytest.raises(ValueError, match="JSON"):
        Board().put("network", {"a": float("nan")})
