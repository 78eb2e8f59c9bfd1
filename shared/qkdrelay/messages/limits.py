"""Limits that messages have and the command line says itself, without loading the messages."""

from __future__ import annotations

from typing import Final

NUMBER_MAX: Final = 2**62
RELAYS_SHOWN_MAX: Final = 1_000
LETTERS_SHOWN_MAX: Final = 1_000
"""Dead letters in a list, and in a request to drop them."""
REQUEUED_MAX: Final = 100
