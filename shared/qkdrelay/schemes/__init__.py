"""Schemes by which the bytes of a relay reach the target; there is one, the recursive sharing over a plan."""
