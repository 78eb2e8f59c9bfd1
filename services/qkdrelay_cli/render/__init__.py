"""The commands' results: relays, flows, plans, analyses and pairs, in words and as data."""

TERMINAL_WIDTH = 80
"""Columns that results are laid out for where the terminal does not decide."""
LABEL_WIDTH = 12
"""Columns before a result's lines, for their label."""
