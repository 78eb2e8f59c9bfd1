"""Turns at a pair of devices that cannot draw at both ends at once, in every state that there is within bounds.

Time goes by in steps. The broker delivers what was said at any time, in any order, as often as it likes, or never; an
end is killed. And each mistake that a rule is there for, put back, is found.
"""

from dataclasses import dataclass, replace

import pytest

from qkdrelay.link.blocks import turns
from qkdrelay.link.blocks.turns import TurnAsker, TurnGiver

DRAW = 2
"""Steps that a draw takes at most."""
END = 7
FAULTS = ("any turn", "late turn", "no pause after a start", "draws in its turn", "any block ends a turn")


@dataclass(frozen=True)
class State:
    giver: TurnGiver
    asker: TurnAsker
    now: int = 0
    giver_draws: int = 0
    """Steps that its draw still takes; 0 while it does not draw."""
    asker_draws: int = 0
    asked: frozenset[bytes] = frozenset()
    given: frozenset[bytes] = frozenset()
    turn: bytes = b""
    """That the asker drew in last, and what it drew then was not fetched yet."""
    uncollected: frozenset[bytes] = frozenset()
    kills: int = 1


@pytest.fixture
def short(monkeypatch):
    """Steps for seconds: a turn is as long as an answer may take, and a draw."""
    for name, steps in (("TURN_S", 4), ("USE_S", 2), ("ASK_S", 1)):
        monkeypatch.setattr(turns, name, steps)


def steps(state, fault):
    now, giver, asker = state.now, state.giver, state.asker
    if now < END:
        yield replace(
            state,
            now=now + 1,
            giver_draws=max(0, state.giver_draws - 1),
            asker_draws=max(0, state.asker_draws - 1),
            uncollected=state.uncollected | ({state.turn} if state.asker_draws == 1 else set()),
        )
    may = giver.may_draw(now, is_asked=False)
    if fault == "no pause after a start":
        may = replace(giver, started_at=-turns.TURN_S).may_draw(now, is_asked=False)
    if fault == "draws in its turn":
        may = now - giver.started_at >= turns.TURN_S
    if may and not state.giver_draws:
        yield replace(state, giver=giver.drew(), giver_draws=DRAW)
    if not state.asker_draws:
        nonce = bytes([now])
        if (after := asker.ask(nonce, now)) != asker:
            yield replace(state, asker=after, asked=state.asked | {nonce})
    for nonce in state.asked:
        after = giver.asked(nonce, now, is_busy=state.giver_draws > 0)
        if after != giver:
            yield replace(state, giver=after, given=state.given | {nonce})
    for nonce in state.given:
        heard = asker
        if fault == "any turn":
            heard = replace(asker, question=nonce)
        if fault == "late turn":
            heard = replace(asker, asked_at=now)
        after, draws = heard.turn(nonce, now)
        if draws and not state.asker_draws:
            yield replace(state, asker=after, asker_draws=DRAW, turn=nonce)
    for nonce in state.uncollected:
        of = giver.given or b"" if fault == "any block ends a turn" else nonce
        yield replace(state, giver=giver.collected(of), uncollected=state.uncollected - {nonce})
    if state.kills:
        left = replace(state, kills=state.kills - 1)
        yield replace(left, giver=TurnGiver(now), giver_draws=0)
        yield replace(left, asker=TurnAsker())


def search(fault=""):
    """Return the states there are, or raise AssertionError if both ends draw in one."""
    start = State(TurnGiver(-turns.TURN_S), TurnAsker())
    seen, stack = {start}, [start]
    while stack:
        state = stack.pop()
        assert not (state.giver_draws and state.asker_draws), "both ends draw"
        for after in steps(state, fault):
            if after not in seen:
                seen.add(after)
                stack.append(after)
    return seen


@pytest.mark.usefixtures("short")
def test_both_ends_never_draw_at_once_and_both_get_to():
    states = search()
    assert any(state.giver_draws for state in states)
    assert any(state.asker_draws and state.giver.owes is False for state in states)
    assert any(state.giver_draws and state.turn for state in states)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_that_a_rule_is_there_for_is_found(fault):
    with pytest.raises(AssertionError, match="both ends draw"):
        search(fault)


def test_with_both_waiting_they_alternate():
    giver, asker, who, now = TurnGiver(-turns.TURN_S), TurnAsker(), [], 0.0
    for number in range(8):
        now += 1.0
        if giver.may_draw(now, is_asked=True):
            giver, now = giver.drew(), now + 1.0
            who.append("giver")
        asker = asker.ask(bytes([number]), now)
        giver = giver.asked(asker.question, now, is_busy=False)
        if giver.given == asker.question:
            nonce = asker.question
            asker, draws = asker.turn(nonce, now + 1.0)
            assert draws
            giver = giver.collected(nonce)
            who.append("asker")
    assert who == ["giver", "asker"] * (len(who) // 2)
    assert len(who) == 16
