"""Routing: the bindings that let a routing key through."""

from __future__ import annotations

import re
from functools import lru_cache


def matches(kind: str, pattern: str, routing_key: str) -> bool:
    """Whether a binding's ``pattern`` on an exchange of ``kind`` lets ``routing_key`` through."""
    if kind == "fanout":
        return True
    if kind == "direct":
        return pattern == routing_key
    return _topic(pattern).fullmatch("." + routing_key) is not None


def no_route(exchange: str, routing_key: str) -> str:
    """Say that nothing is bound to a key."""
    return f"NO_ROUTE {exchange} {routing_key}"


@lru_cache(maxsize=4096)
def _topic(pattern: str) -> re.Pattern[str]:
    """Compile a topic pattern: ``*`` is one word, ``#`` any number of words."""
    parts = {"#": r"(\.[^.]*)*", "*": r"\.[^.]*"}
    return re.compile("".join(parts.get(word, r"\." + re.escape(word)) for word in pattern.split(".")))
