"""Fuzzing: how many inputs a run tries, and how many it has tried. QKDRELAY_FUZZ=20 tries twenty times as many."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

TRIED: Counter[str] = Counter()
"""Inputs by test."""


def fuzzed(inputs: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Try a test that hypothesis gives its arguments (``@given`` stands below) with so many inputs, and count them."""

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        inner = test.hypothesis.inner_test  # type: ignore[attr-defined]

        @functools.wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> Any:
            TRIED[inner.__name__] += 1
            return inner(*args, **kwargs)

        test.hypothesis.inner_test = counted  # type: ignore[attr-defined]
        many = inputs * int(os.environ.get("QKDRELAY_FUZZ", "1"))
        return settings(max_examples=many, suppress_health_check=list(HealthCheck))(test)

    return decorate
