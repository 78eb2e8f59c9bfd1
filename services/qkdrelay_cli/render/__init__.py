"""What the commands show: relays, flows, analyses and pairs, in words and as data."""
