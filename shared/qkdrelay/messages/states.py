"""States of a relay, and modes of a KME in the lab."""

from __future__ import annotations

from typing import Literal

RelayState = Literal["planned", "started", "confirmed", "failed"]
TERMINAL: frozenset[RelayState] = frozenset(("confirmed", "failed"))
"""The states in which whoever asked for a relay is answered."""
LabMode = Literal["leak", "tamper", "withhold"]
"""What a compromised KME does with shares: hand them to the adversary, alter them, or keep them back."""
