"""Which slots, or bytes of pad, were used: spans that do not touch, in order."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

Span = tuple[int, int]
"""The first, and the first after it."""


def overlaps(spans: Sequence[Span], start: int, end: int) -> bool:
    """Whether anything from ``start`` to before ``end`` is in one of them."""
    if not spans or spans[-1][1] <= start:  # as a rule: what comes is used in order
        return False
    at = bisect(spans, (start, end))
    return (at > 0 and spans[at - 1][1] > start) or (at < len(spans) and spans[at][0] < end)


def with_span(spans: Sequence[Span], start: int, end: int) -> tuple[Span, ...]:
    """Return them with one more, which overlaps none; those that touch become one."""
    if spans and spans[-1][1] == start:
        return *spans[:-1], (spans[-1][0], end)
    at = bisect(spans, (start, end))
    before, after = list(spans[:at]), list(spans[at:])
    if before and before[-1][1] == start:
        start = before.pop()[0]
    if after and after[0][0] == end:
        end = after.pop(0)[1]
    return *before, (start, end), *after
