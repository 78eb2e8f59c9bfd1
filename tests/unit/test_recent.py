"""What is kept in memory beside a store is bounded, and the least used goes first."""

from qkdrelay.recent import Recent


def test_what_was_not_used_for_longest_goes_first():
    recent = Recent(2)
    recent.keep("a", 1)
    recent.keep("b", 2)
    assert recent.get("a") == 1
    recent.keep("c", 3)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (1, None, 3)
    recent.drop("a")
    assert recent.get("a") is None
    recent.clear()
    assert recent.get("c") is None
