"""What every qkdrelay service speaks and computes."""

__version__ = "0.1.0"
