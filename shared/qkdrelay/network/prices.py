"""What key of a link is worth, by how much of it is left: so that plans go where there is most.

A byte of a full link is worth nothing, one of an empty link `EMPTY` times as much as a message; between, it grows by
the same factor with each part of the buffer that is gone. Rates need not be known: a slow link empties, and is dear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from qkdrelay.network.names import Link

STEEPNESS: Final = 6.0
EMPTY: Final = math.expm1(STEEPNESS)
UNIT: Final = 16
"""What a price of 1 is in whole numbers, and what each link costs besides: of equal prices fewer links are taken."""
UNUSABLE: Final = 10_000_000
"""Cost of a link that is down or at whose end nobody is: it is taken only where there is no other way."""
LinkCosts = Mapping[Link, int]
"""Costs of directed links (sender, receiver) in whole numbers, for `PairPaths`; of those not named, `FULL`."""
FULL: Final = UNIT


def price(level: float) -> float:
    """Return what a byte is worth of a link with this part of its buffer left, 0 to 1; 0 to `EMPTY`."""
    return math.expm1(STEEPNESS * (1.0 - min(1.0, max(0.0, level))))


def cost(level: float) -> int:
    """Return the cost of a link with this part of its buffer left."""
    return UNIT + round(UNIT * price(level))
