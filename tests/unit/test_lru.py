"""What is kept in memory beside a store is bounded, and the least used goes first."""

from qkdrelay.service.lru import LruCache


def test_what_was_not_used_for_longest_goes_first():
    recent = LruCache(2)
    recent.keep("a", 1)
    recent.keep("b", 2)
    assert recent.get("a") == 1
    recent.keep("c", 3)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (1, None, 3)
    recent.drop("a")
    assert recent.get("a") is None
    recent.clear()
    assert recent.get("c") is None


def test_the_sizes_together_are_bounded_too():
    recent = LruCache(10, 100)
    recent.keep("a", 1, 40)
    recent.keep("b", 2, 60)
    assert recent.get("a") == 1
    recent.grow("a", 1)
    assert (recent.get("a"), recent.get("b")) == (1, None)
    recent.keep("a", 3, 100)
    assert recent.get("a") == 3
    recent.keep("large", 4, 101)
    assert (recent.get("a"), recent.get("large")) == (3, None)
    recent.grow("a", 1)
    assert recent.get("a") is None
    recent.keep("a", 5, 100)
    recent.drop("a")
    recent.keep("b", 6, 100)
    recent.clear()
    recent.keep("c", 7, 100)
    assert recent.get("c") == 7
