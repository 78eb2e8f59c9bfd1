"""How the bytes of a relay reach the target: the recursive sharing over a plan."""
