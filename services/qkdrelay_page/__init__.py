"""A live page of the network, for people who would rather look than read; it shows, and can do nothing."""
