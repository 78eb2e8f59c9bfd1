"""Few lines of a kind are logged about one culprit; the others are counted, and told."""

from qkdrelay.service.moderation import LEFT_OUT, LINES_MAX, WINDOW_S, Moderator


def lines(event, count, **fields):
    return [("error", event, {**fields, "n": n}) for n in range(count)]


def passed(moderator, written, now):
    return [(event, dict(fields)) for _, event, fields in moderator.passed(written, now)]


def test_of_many_lines_the_first_are_logged_and_the_others_counted():
    moderator = Moderator({"kme.alarm": "kme"})
    logged = passed(moderator, lines("kme.alarm", LINES_MAX + 7, kme="kme-3"), 100.0)
    assert [fields["n"] for _, fields in logged] == list(range(LINES_MAX))
    assert passed(moderator, lines("kme.alarm", 5, kme="kme-3"), 100.0 + WINDOW_S / 2) == []
    told = passed(moderator, [], 100.0 + WINDOW_S)
    assert told == [(LEFT_OUT, {"kme": "kme-3", "lines": 12, "of": "kme.alarm"})]
    assert passed(moderator, [], 100.0 + 2 * WINDOW_S) == []
    assert len(passed(moderator, lines("kme.alarm", 3, kme="kme-3"), 100.0 + 2 * WINDOW_S)) == 3


def test_one_who_fills_the_log_hides_nobody_else_and_no_other_event():
    moderator = Moderator({"kme.alarm": "kme", "share.rejected": "kme"})
    passed(moderator, lines("kme.alarm", 1_000, kme="kme-3"), 100.0)
    others = [
        *lines("kme.alarm", 1, kme="kme-4"),
        *lines("share.rejected", 1, kme="kme-3"),
        *lines("relay.failed", 100, kme="kme-3"),
    ]
    assert len(passed(moderator, others, 101.0)) == 102


def test_a_clock_that_is_stepped_back_keeps_nothing_back():
    moderator = Moderator({"kme.alarm": "kme"})
    passed(moderator, lines("kme.alarm", LINES_MAX, kme="kme-3"), 1_000.0)
    assert len(passed(moderator, lines("kme.alarm", 1, kme="kme-3"), 10.0)) == 1


def test_where_nothing_was_left_out_nothing_is_said():
    moderator = Moderator({"kme.alarm": "kme"})
    passed(moderator, lines("kme.alarm", LINES_MAX, kme="kme-3"), 100.0)
    assert passed(moderator, [], 200.0) == []
    assert moderator._windows == {}
