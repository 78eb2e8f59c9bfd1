"""The demand on a relay's plan: how many KMEs it must withstand, and of which policy it may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from qkdrelay.errors import RequestRefusedError

Policy = Literal["best", "disjoint", "recursive", "trusted"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True, slots=True)
class Demand:
    """Numbers of KMEs that a plan must withstand at the same time, in the worst case.

    ``compromised`` KMEs read along; ``failed`` ones are down, None standing for one if the network allows it;
    ``tampering`` ones alter and withhold shares. A tamperer counts under both (protocol, section 9): it may be among
    the compromised, and is lost besides the failed. So the splits must keep the secret from max(compromised,
    tampering) KMEs and deliver without failed + tampering.

    Raises RequestRefusedError for a negative number.
    """

    compromised: int = 1
    failed: int | None = None
    tampering: int = 0

    def __post_init__(self) -> None:
        for what, number in (("compromised", self.compromised), ("failed", self.failed), ("tampering", self.tampering)):
            if number is not None and number < 0:
                raise RequestRefusedError(f"{what} is {number}", hint="a number of KMEs is 0 or more")

    @property
    def readers(self) -> int:
        """Number of KMEs that together must not learn the secret."""
        return max(self.compromised, self.tampering)

    @property
    def lost(self) -> int:
        """Number of KMEs that must not be needed; at least, if ``failed`` is left open."""
        return (self.failed or 0) + self.tampering

    def __str__(self) -> str:
        tampering = f",tampering={self.tampering}" if self.tampering else ""
        failed = f",failed={self.failed}" if self.failed is not None else ""
        return f"compromised={self.compromised}{failed}{tampering}"
