"""Blocks of link key: agreed on by both ends before anything is sealed, each byte of use once and for one thing."""
