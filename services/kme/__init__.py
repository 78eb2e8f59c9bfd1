"""The Key Management Entity: one node of the QKD network."""
