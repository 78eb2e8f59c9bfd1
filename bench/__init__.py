"""The benchmark: `make bench`. A developer's tool, not part of the distribution."""
