"""Which bytes of a pad were used: spans that do not touch, in order."""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int]
"""The first byte, and the first after it."""


def overlaps(spans: Sequence[Span], start: int, end: int) -> bool:
    """Whether any byte from ``start`` to before ``end`` is in one of them."""
    return any(first < end and start < after for first, after in spans)


def with_span(spans: Sequence[Span], start: int, end: int) -> tuple[Span, ...]:
    """Return them with one more, which overlaps none; those that touch become one."""
    joined: list[Span] = []
    for span in sorted([*spans, (start, end)]):
        if joined and joined[-1][1] == span[0]:
            joined[-1] = joined[-1][0], span[1]
        else:
            joined.append(span)
    return tuple(joined)
